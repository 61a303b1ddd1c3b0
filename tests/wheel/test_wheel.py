"""The wheel in an empty environment, used in another folder, without the clone: as one who has only that file does.

`$CONVFORMER_WHEEL` is the folder of that environment's programs; `dist` holds the bundles' zips.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_kinds import KINDS
from PIL import Image

from convformer_monai import __version__

PROGRAMS = Path(os.environ["CONVFORMER_WHEEL"])
PHANTOMS = {"cardiac": "cardiac", "dermoscopy": "dermoscopy", "hemorrhage": "head-ct"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another folder, with a phantom for each bundle."""
    folder = tmp_path_factory.mktemp("away from the clone")
    for name, phantom in PHANTOMS.items():
        run(folder, "convformer-monai", "phantom", phantom, "--output-dir", name)
    return folder


def run(folder: Path, *command: str) -> str:
    """Runs a command of the wheel's environment in a folder; returns what it said on stdout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CONVFORMER_", "PYTHON"))}
    environment["PATH"] = f"{PROGRAMS}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout


def image_and_truth(home: Path, name: str) -> tuple[Path, Path]:
    (truth,) = (home / name).glob("*_truth.*")
    (image,) = (file for file in (home / name).iterdir() if file != truth)
    return image, truth


def labels(path: Path) -> np.ndarray:
    if path.suffix == ".png":
        return (np.asarray(Image.open(path)) > 127).astype(np.uint8)
    return np.asarray(nib.load(path).dataobj)


def dice(mask: Path, truth: Path) -> float:
    """Of the last structure."""
    found, there = labels(mask), labels(truth)
    return float(
        2
        * ((found == there.max()) & (there == there.max())).sum()
        / sum((x == there.max()).sum() for x in (found, there))
    )


def test_nothing_is_of_the_clone(home: Path, repository: Path) -> None:
    file = run(home, "python", "-c", "import convformer_monai; print(convformer_monai.__file__)").strip()
    assert Path(file).is_relative_to(PROGRAMS.parent)
    assert run(home, "convformer-monai", "--version") == f"convformer-monai {__version__}\n"
    for kind in KINDS.values():
        root = Path(run(home, "convformer-monai", "info", "--bundle-path", kind.name).strip())
        assert root == Path(file).parent / "_bundles" / kind.folder
        shipped = {path.relative_to(kind.root) for path in kind.root.rglob("*") if path.is_file()}
        there = {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
        assert there <= shipped and all((root / path).read_bytes() == (kind.root / path).read_bytes() for path in there)
        assert there >= {Path("LICENSE"), Path("models/model.pt"), Path("docs/data_license.txt")}


def test_licences_of_what_is_bundled_are_there(home: Path) -> None:
    code = "from convformer_monai.view.assets import NIIVUE; print(NIIVUE.with_name('LICENCES.txt').read_text())"
    assert "@niivue/niivue 0.69.0 (BSD-2-Clause)" in run(home, "python", "-c", code)


def test_demo(home: Path) -> None:
    said = run(home, "convformer-monai", "demo")
    assert "Dice against the truth" in said and (home / "demo_output" / "cardiac_phantom_seg.nii.gz").is_file()
    assert (home / said.splitlines()[-1]).suffix == ".png" and (home / said.splitlines()[-1]).is_file()


@pytest.mark.parametrize("name", KINDS)
def test_segment(home: Path, name: str) -> None:
    image, truth = image_and_truth(home, name)
    run(home, "convformer-monai", "segment", "-i", str(image), "-o", f"out/{name}", "-b", name, "--preview", "--report")
    (mask,) = (home / "out" / name).glob("*_seg.png" if name == "dermoscopy" else "*_seg.nii.gz")
    assert dice(mask, truth) > 0.6
    assert (home / "out" / name / f"{mask.name.partition('_seg')[0]}_report.html").is_file()
    (report,) = (home / "out" / name).glob("*_report.json")
    assert json.loads(report.read_text())["licence"]["code"] == "Apache-2.0"


def test_the_bundle_as_monai_runs_it(home: Path) -> None:
    image, truth = image_and_truth(home, "cardiac")
    command = f"""
        B=$(convformer-monai info --bundle-path cardiac)
        python -m monai.bundle run --config_file "$B/configs/inference.json" --bundle_root "$B" \\
            --datalist "['{image}']" --output_dir monai"""
    run(home, "bash", "-euc", command)
    (mask,) = (home / "monai").glob("*_seg.nii.gz")
    assert dice(mask, truth) > 0.8


def test_label_shows_its_help(home: Path) -> None:
    assert "MONAI Label" in run(home, "convformer-monai", "label", "--help")


@pytest.mark.parametrize("name", KINDS)
def test_zips_are_bundles_for_us_and_for_monai(home: Path, repository: Path, name: str) -> None:
    folder = KINDS[name].folder
    archive = repository / "dist" / f"{folder}_v{__version__}.zip"
    said = json.loads(run(home, "convformer-monai", "info", "-b", str(archive), "--json"))
    assert said["bundles"][0]["version"] == __version__
    bundles = home / "zoo"
    bundles.mkdir(exist_ok=True)
    shutil.copy(archive, bundles)
    # MONAI takes a zip that is there already for its download, and unpacks it; a second time it takes the folder.
    code = (
        "import monai.bundle, sys\n"
        "for _ in range(2):\n"
        "    net = monai.bundle.load(sys.argv[1], version=sys.argv[2], source='github', bundle_dir='zoo',\n"
        "                            workflow_type='inference', device='cpu')\n"
        "print(sum(one.numel() for one in net.parameters()))"
    )
    assert int(run(home, "python", "-c", code, folder, __version__).splitlines()[-1]) > 2e6
    assert (bundles / folder / "LICENSE").is_file()
