"""The trained weights that the bundles ship: what they are, and what they do on phantoms and on the real data."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_kinds import Kind
from PIL import Image

from convformer_monai.bundle import file_sha256
from convformer_monai.phantoms import cardiac_phantom
from convformer_monai.phantoms.head_ct import head_ct_phantom
from convformer_monai.tasks.cardiac import CARDIAC

DATA = {"cardiac": "acdc", "dermoscopy": "isic2017"}


@pytest.fixture
def metadata(bundle_root: Path) -> dict:
    """The bundle's metadata; skips where it has no weights yet."""
    if not (bundle_root / "models" / "model.pt").is_file():
        pytest.skip(f"{bundle_root.name} has no weights yet: models/model.pt is missing")
    return json.loads((bundle_root / "configs" / "metadata.json").read_text())


def run(bundle_root: Path, configs: Sequence[str], folder: Path, **options: str) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", str(bundle_root)]
    files = [str(bundle_root / "configs" / f"{config}.json") for config in configs]
    command += ["--config_file", repr(files), "--output_dir", str(folder / "out")]
    for name, value in options.items():
        command += [f"--{name}", value]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def dice(mask: np.ndarray, truth: np.ndarray, label: int) -> float:
    return 2 * float(np.sum((mask == label) & (truth == label))) / float(np.sum(mask == label) + np.sum(truth == label))


def test_file_is_the_one_that_the_metadata_names(bundle_root: Path, metadata: dict) -> None:
    file = bundle_root / "models" / "model.pt"
    assert file.stat().st_size < 25e6
    assert file_sha256(file) == metadata["weights_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cardiac"], indirect=True)
@pytest.mark.parametrize("axcodes", ["LPS", "SRA"])
def test_phantom_cine_with_real_contraction(bundle_root: Path, tmp_path: Path, axcodes: str) -> None:
    """Three phases of another patient than the demo's, stored in two ways."""
    shape, spacing = ((160, 180, 9), (1.8, 1.8, 9.0)) if axcodes == "LPS" else ((9, 160, 180), (9.0, 1.8, 1.8))
    phantom = cardiac_phantom(shape=shape, spacing=spacing, num_phases=3, axcodes=axcodes, seed=1)
    image, _ = phantom.save(tmp_path, "cine")
    run(bundle_root, ["inference"], tmp_path, datalist=repr([str(image)]))
    mask = np.asarray(nib.load(tmp_path / "out" / "cine_seg.nii.gz").dataobj)
    assert mask.shape == phantom.label.shape
    assert mask.dtype == np.uint8
    lv = next(label.index for label in CARDIAC.labels if label.name == "LV")
    for phase in range(3):
        assert dice(mask[..., phase], phantom.label[..., phase], lv) >= 0.8
    volumes = [int(np.sum(mask[..., phase] == lv)) for phase in range(3)]
    assert volumes[phantom.end_systole] < 0.8 * volumes[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hemorrhage"], indirect=True)
@pytest.mark.parametrize("bleed", ["intraparenchymal", "intraventricular", "subdural", "epidural"])
def test_phantom_head_with_a_bleed(bundle_root: Path, tmp_path: Path, bleed: str) -> None:
    """Another head than the demo's, the gantry tilted."""
    phantom = head_ct_phantom(bleeds=(bleed,), tilt_degrees=12, seed=1)
    image, _ = phantom.save(tmp_path, "head")
    run(bundle_root, ["inference"], tmp_path, datalist=repr([str(image)]))
    mask = np.asarray(nib.load(tmp_path / "out" / "head_seg.nii.gz").dataobj)
    assert mask.shape == phantom.label.shape
    assert dice(mask, phantom.label, 1) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(DATA), indirect=True)
def test_evaluation_gives_the_figures_that_metadata_and_model_card_state(
    kind: Kind, bundle_root: Path, data_dir: Path, metadata: dict, tmp_path: Path
) -> None:
    run(bundle_root, ["inference", "evaluate"], tmp_path, dataset_dir=str(data_dir / DATA[kind.name]))
    results = json.loads((tmp_path / "out" / "summary.json").read_text())["results"]["all"]
    assert metadata["eval_metrics"]
    for name, stated in metadata["eval_metrics"].items():
        metric, _, structure = name.partition("_")
        found = (results[structure][metric] if kind.name == "cardiac" else results[metric])["mean"]
        assert found == pytest.approx(stated, abs=0.002)
    card = (bundle_root / "docs" / "README.md").read_text()
    assert f"{metadata['eval_metrics']['dice_mean']:.3f}" in card


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dermoscopy"], indirect=True)
def test_full_resolution_originals(
    kind: Kind, bundle_root: Path, data_dir: Path, metadata: dict, tmp_path: Path
) -> None:

    photos = sorted((data_dir / "isic2017" / "full_resolution").glob("*.jpg"))
    run(bundle_root, ["inference"], tmp_path, datalist=repr(list(map(str, photos))))
    scores = []
    for photo in photos:
        mask = np.asarray(Image.open(tmp_path / "out" / f"{photo.stem}_seg.png")) > 0
        truth = np.asarray(Image.open(photo.with_name(f"{photo.stem}_segmentation.png")).convert("L")) > 0
        assert mask.shape == truth.shape
        scores.append(2 * np.sum(mask & truth) / (mask.sum() + truth.sum()))
    assert np.mean(scores) >= 0.75, "four pictures only"
