"""The bundle's evaluate.json, end to end, with a network whose errors are known exactly."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from convformer_monai.errors import find_refusal
from convformer_monai.evaluation import score_volume
from convformer_monai.tasks.cardiac import CARDIAC

SHAPE, SPACING = (64, 48, 5), (1.5, 1.5, 8.0)
BOX = (12, 16)  # of each structure, voxels; through all slices


def labels() -> np.ndarray:
    """Three boxes that touch along x: one organ, which the bundle's clean-up leaves alone."""
    result = np.zeros(SHAPE, dtype=np.uint8)
    for label in (1, 2, 3):
        result[8 + BOX[0] * (label - 1) : 8 + BOX[0] * label, 12 : 12 + BOX[1]] = label
    return result


def save(path: Path, data: np.ndarray) -> str:
    affine = np.diag([SPACING[0], -SPACING[1], SPACING[2], 1.0])  # not the orientation that the network gets
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(path)
    return path.name


@pytest.fixture
def bundle(tmp_path: Path, bundle_root: Path) -> Path:
    """The bundle with the oracle for a network; in one place, which is what inference.json is for."""
    root = tmp_path / "bundle"
    shutil.copytree(bundle_root / "configs", root / "configs")
    for name, changes in {
        "inference": {"network_def": {"_target_": "oracle_net.Oracle"}},
        "metadata": {"weights_sha256": ""},
    }.items():
        file = root / "configs" / f"{name}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    (root / "models").mkdir()
    torch.save({}, root / "models" / "model.pt")
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A perfect case, one whose label is shifted by a voxel along x, and a cine of both."""
    folder = tmp_path / "data"
    folder.mkdir()
    exact, moved = labels(), np.roll(labels(), 1, axis=0)
    image = exact.astype(np.int16) * 300
    entries = []
    for name, phase, grey, truth in (
        ("p1_a", "ED", image, exact),
        ("p1_b", "ES", image, moved),
        ("p2_cine", None, np.stack([image, image // 2], axis=-1), np.stack([exact, moved], axis=-1)),
    ):
        entry = {"id": name, "image": save(folder / f"{name}.nii.gz", grey)}
        entry["label"] = save(folder / f"{name}_gt.nii.gz", truth)
        entries.append(entry if phase is None else {**entry, "phase": phase})
    (folder / "datalist.json").write_text(json.dumps({"train": [], "val": entries}))
    return folder


def workflow(bundle: Path, **options: Any) -> ConfigWorkflow:
    config = [str(bundle / "configs" / f"{name}.json") for name in ("inference", "evaluate")]
    made = ConfigWorkflow(config, logging_file=False, workflow_type="eval", bundle_root=str(bundle), **options)
    made.initialize()
    return made


@pytest.fixture(autouse=True)
def hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes back what the bundle's initialize does to the interpreter."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def test_scores_are_those_of_the_known_errors(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = workflow(bundle, dataset_dir=str(data), output_dir=str(tmp_path / "out"), overlays=1)
    assert set(run.check_properties()) <= {"preprocessing"}  # the labels are loaded after it
    run.run()
    rows = list(csv.DictReader((tmp_path / "out" / "per_case.csv").open()))
    assert [row["case"] for row in rows[::3]] == ["p1_a", "p1_b", "p2_cine_t00", "p2_cine_t01"]
    assert [row["structure"] for row in rows[:3]] == ["RV", "MYO", "LV"]
    nx, ny, nz = *BOX, SHAPE[2]
    surface = nx * ny * nz - (nx - 2) * (ny - 2) * (nz - 2)
    asd = SPACING[0] * (ny * nz + (ny - 2) * (nz - 2)) / surface
    for row in rows:
        perfect = row["case"] in ("p1_a", "p2_cine_t00")
        assert float(row["dice"]) == pytest.approx(1 if perfect else (nx - 1) / nx)
        assert float(row["hd95_mm"]) == pytest.approx(0 if perfect else SPACING[0])
        assert float(row["asd_mm"]) == pytest.approx(0 if perfect else asd, rel=1e-5)
        assert float(row["predicted_ml"]) == pytest.approx(nx * ny * nz * 0.018)
        assert float(row["reference_ml"]) == pytest.approx(nx * ny * nz * 0.018)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["headline"]["mean"] == pytest.approx((1 + (nx - 1) / nx) / 2)
    assert {phase: content["mean"]["volumes"] for phase, content in summary["results"].items()} == {
        "ED": 1,
        "ES": 1,
        "all": 4,
    }
    assert [path.name for path in (tmp_path / "out" / "overlays").iterdir()] == ["p1_b.png"]
    assert not list(tmp_path.rglob("*_seg.nii.gz"))
    assert "4 volumes of 2 patients" in capsys.readouterr().out


def test_everything_about_inference_comes_from_inference_json(bundle: Path, data: Path, bundle_root: Path) -> None:
    options = {"flips": True, "slice_batch_size": 3}
    run = workflow(bundle, dataset_dir=str(data), **options)
    assert type(run.network_def).__name__ == "Oracle"
    assert (run.inferer.flips, run.inferer.slice_batch_size) == (True, 3)
    text = (bundle_root / "configs" / "evaluate.json").read_text()
    inference = json.loads((bundle_root / "configs" / "inference.json").read_text())
    assert inference["network_def"]["_target_"] not in text and "Spacing" not in text and "sha256:" not in text


def test_structures_are_those_of_the_metadata(bundle_root: Path) -> None:
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert {str(label.index): label.name for label in CARDIAC.labels}.items() <= channels.items()


def test_label_on_another_grid_ends_the_run(bundle: Path, data: Path, tmp_path: Path) -> None:
    save(data / "p1_a_gt.nii.gz", labels()[:-1])
    with pytest.raises(RuntimeError) as error:  # MONAI wraps it
        workflow(bundle, dataset_dir=str(data), output_dir=str(tmp_path / "out")).run()
    refusal = find_refusal(error.value)
    assert refusal is not None and refusal.code == "GRIDS_DIFFER" and "p1_a" in refusal.message


def command(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    line = [
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        repr([f"{bundle}/configs/{name}.json" for name in ("inference", "evaluate")]),
        "--bundle_root",
        str(bundle),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(
        [sys.executable, *line, *options], capture_output=True, text=True, env=environment, check=False
    )


def test_command_prints_the_table(bundle: Path, data: Path, tmp_path: Path) -> None:
    done = command(bundle, "--dataset_dir", str(data), "--output_dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "| all   | mean      | 4       | 0.958 ± 0.048 [" in done.stdout
    assert "Dice per volume averaged over RV, MYO, LV: 0.9583" in done.stdout


def test_command_refuses_missing_data_with_one_line(bundle: Path, tmp_path: Path) -> None:
    done = command(bundle, "--dataset_dir", str(tmp_path / "nothing"))
    assert done.returncode == 2
    missing = tmp_path / "nothing" / "datalist.json"
    assert done.stderr.strip().splitlines()[-1].startswith(f"error[DATALIST_MISSING]: {missing} does not exist")
    assert "Traceback" not in done.stderr


def test_real_labels_have_the_volumes_that_the_datalist_states(data_dir: Path) -> None:
    cases = json.loads((data_dir / "acdc" / "datalist.json").read_text())["val"]
    for case in cases[::7]:
        label = nib.load(data_dir / "acdc" / case["label"])
        values = np.asarray(label.dataobj)
        *_, lv = score_volume(values, values, label.affine, CARDIAC.labels)
        assert lv.reference_ml == pytest.approx(case["lv_ml"], rel=1e-5)
        assert (lv.dice, lv.hd95_mm) == (1, 0)


def test_slices_as_pictures_are_refused_where_volumes_are_evaluated(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "datalist.json").write_text(json.dumps({"gold": [{"image": "a.png", "label": "a.png"}]}))
    command = [sys.executable, "-m", "convformer_monai.cli", "evaluate", "hemorrhage", "--section", "gold"]
    done = subprocess.run(
        [*command, "--data", str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and not (tmp_path / "eval").exists()
    assert done.stderr.splitlines() == [
        f"error[WRONG_KIND]: {tmp_path}/a.png is a photograph, and ct_hemorrhage is evaluated on volumes; leave "
        "--section out for lists of slices"
    ]
