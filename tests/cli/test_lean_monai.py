"""What the command imports: MONAI without the packages that no command needs, and only for the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from convformer_monai.bundle import FOLDER_VARIABLE, Bundle
from convformer_monai.cli.lean_monai import UNUSED, lean_monai
from convformer_monai.phantoms import cardiac_phantom, dermoscopy_phantom, head_ct_phantom

ELSEWHERE = {"requests": "pydicom", "scipy.spatial": "diameters"}  # what imports these, not always
# Beside what is hidden: what comes with it, and what only other commands need.
NOT_IMPORTED = (
    *(name for name in UNUSED if name not in ELSEWHERE),
    *("IPython", "convformer_monai.evaluation", "convformer_monai.training", "dask", "highdicom", "pyarrow"),
    *("torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "torch.distributed.tensor", "triton"),
)
SEGMENT = "import sys\nfrom convformer_monai.cli import main\nassert main(sys.argv[1:]) == 0\n"
LOADED = f"import json\nprint(json.dumps([name for name in {NOT_IMPORTED} if name in sys.modules]))\n"
TRAINER = "from ignite.engine import Engine\nfrom monai.engines import Trainer\nprint(issubclass(Trainer, Engine))\n"


def said(code: str, *arguments: object, **environment: str) -> str:
    """The last line that a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != FOLDER_VARIABLE} | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("images")
    cardiac, _ = cardiac_phantom(shape=(48, 48, 2), spacing=(3.0, 3.0, 10.0)).save(folder, "heart")
    head, _ = head_ct_phantom(seed=1, shape=(64, 64, 4), spacing=(3.5, 3.5, 20.0)).save(folder, "head")
    photo, *_ = dermoscopy_phantom(size=(160, 120)).save(folder, "lesion")
    return {"cardiac": cardiac, "hemorrhage": head, "dermoscopy": photo}


def segment(images: dict[str, Path], bundle: str, output: Path, *more: str) -> list[object]:
    return ["segment", "-i", images[bundle], "-b", bundle, "-o", output, "-q", *more]


@pytest.mark.parametrize("bundle", ["cardiac", "hemorrhage", "dermoscopy"])
def test_segment_imports_nothing_that_it_does_not_use(images: dict[str, Path], bundle: str, tmp_path: Path) -> None:
    assert json.loads(said(SEGMENT + LOADED, *segment(images, bundle, tmp_path))) == []


def test_measure_imports_nothing_that_it_does_not_use(images: dict[str, Path], tmp_path: Path) -> None:
    said(SEGMENT + "print()", *segment(images, "cardiac", tmp_path))
    mask = tmp_path / "heart_seg.nii.gz"
    assert json.loads(said(SEGMENT + LOADED, "measure", "-m", mask, "-q")) == []


def test_what_was_hidden_can_be_imported_afterwards(images: dict[str, Path], tmp_path: Path) -> None:
    code = SEGMENT + (
        "import ignite.engine, matplotlib.figure, pandas, scipy.optimize, scipy.signal, skimage.measure\n"
        "import monai\nprint(scipy.signal.convolve([1, 2], [1, 1]).tolist(), monai.__spec__.loader.__module__)"
    )
    assert said(code, *segment(images, "cardiac", tmp_path)) == "[1, 3, 2] _frozen_importlib_external"


@pytest.mark.parametrize("module", ["convformer_monai.segmenter", "convformer_monai.cli.segmenting"])
def test_the_library_leaves_monai_as_it_is(module: str) -> None:
    assert said(f"import {module}\n{TRAINER}") == "True"


def test_the_command_alone_changes_monai(images: dict[str, Path], tmp_path: Path) -> None:
    assert said(SEGMENT + TRAINER, *segment(images, "cardiac", tmp_path)) == "False"


def test_bundles_of_others_get_all_of_monai(images: dict[str, Path], tmp_path: Path) -> None:
    root = Bundle("cardiac").root
    given = ["segment", "-i", images["cardiac"], "-b", root, "-o", tmp_path / "given", "-q"]
    assert said(SEGMENT + TRAINER, *given) == "True"
    found = segment(images, "cardiac", tmp_path / "found")
    assert said(SEGMENT + TRAINER, *found, **{FOLDER_VARIABLE: str(root.parent)}) == "True"


def test_masks_are_those_of_all_of_monai(images: dict[str, Path], tmp_path: Path) -> None:
    for bundle, image in images.items():
        said(SEGMENT + "print()", *segment(images, bundle, tmp_path / "lean"))
        said("import monai\n" + SEGMENT + "print()", *segment(images, bundle, tmp_path / "whole"))
        ending = ".png" if bundle == "dermoscopy" else ".nii.gz"
        name = f"{image.name.partition('.')[0]}_seg{ending}"
        assert (tmp_path / "lean" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_nothing_stays_hidden_where_monai_fails(tmp_path: Path) -> None:
    (tmp_path / "monai.py").write_text("import ignite\n")
    code = (
        "import sys\nfrom convformer_monai.cli.lean_monai import lean_monai\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\nbefore = list(sys.meta_path)\n"
        "with lean_monai('cardiac'):\n"
        "    try:\n        import monai\n    except ModuleNotFoundError as error:\n        print(error.name)\n"
        "import scipy.signal\nprint(sys.meta_path == before and 'monai' not in sys.modules)"
    )
    assert said(code) == "True"


def test_where_monai_is_there_already_nothing_changes() -> None:
    before, there = list(sys.meta_path), {name: sys.modules.get(name) for name in UNUSED}
    with lean_monai("cardiac"):
        import monai

        assert monai.__version__
        assert {name: sys.modules.get(name) for name in UNUSED} == there
    assert sys.meta_path == before
