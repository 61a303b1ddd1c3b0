"""A task of one's own, in one file outside of the package, and a tiny bundle: everything works with it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_series import write_volume
from monai.bundle import ConfigWorkflow
from pydicom import dcmread

from convformer_monai.bundle import Bundle
from convformer_monai.cohort import segment_cases
from convformer_monai.outputs.case import measure_mask
from convformer_monai.outputs.writer import Options
from convformer_monai.segmenter import Segmenter

TASK = """
from convformer_monai.measurements.sizes import measure_sizes
from convformer_monai.measurements.values import Flag, Measurement
from convformer_monai.tasks import Code, Label, Preview, Task, register_task

KIDNEY = Code("SCT", "64033007", "Kidney structure")
ORGAN = Code("SCT", "123037004", "Anatomical Structure")


def measure(labels, series, table):
    items, details = measure_sizes(labels, series, table)
    total = sum(item.value for item in items)
    return [Measurement("kidney_volume", "Kidney volume", total, "mL"), *items], details


def flags(items, _evidence):
    return [Flag("SMALL_KIDNEY", f"{items[0].value:.1f} mL")] if items[0].value < 50 else []


TASK = register_task(
    Task(
        "mri_kidney",
        (
            Label(1, "cortex", "renal cortex", (200, 80, 60), KIDNEY, ORGAN),
            Label(2, "medulla", "renal medulla", (90, 160, 90), KIDNEY, ORGAN),
            Label(3, "cyst", "renal cyst", (60, 90, 200)),
        ),
        image="volume",
        modality="MR",
        measure=measure,
        flags=(flags,),
        preview=Preview(whole_slices=True),
    )
)
"""
SHAPE, SPACING, BOX = (48, 40, 4), (1.5, 1.5, 8.0), (10, 12)
VOLUME_ML = BOX[0] * BOX[1] * SHAPE[2] * 1.5 * 1.5 * 8 / 1000


@pytest.fixture
def bundle(tmp_path: Path, bundle_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle whose network reads the label off the grey value; its evaluation is that of the cardiac bundle."""
    (tmp_path / "kidney_task.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    root = tmp_path / "kidneys"
    shutil.copytree(bundle_root / "configs", root / "configs")
    names = {"0": "background", "1": "cortex", "2": "medulla", "3": "cyst"}
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    metadata |= {"name": "Kidneys", "convformer_task": "kidney_task.TASK", "weights_sha256": ""}
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = names
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    inference = json.loads((root / "configs" / "inference.json").read_text())
    inference["network_def"] = {"_target_": "oracle_net.Oracle"}
    (root / "configs" / "inference.json").write_text(json.dumps(inference))
    (root / "models").mkdir()
    torch.save({}, root / "models" / "model.pt")
    return root


@pytest.fixture
def truth() -> np.ndarray:
    """Three boxes side by side."""
    labels = np.zeros(SHAPE, np.uint8)
    for label in (1, 2, 3):
        labels[8 + BOX[0] * (label - 1) : 8 + BOX[0] * label, 12 : 12 + BOX[1]] = label
    return labels


def affine() -> np.ndarray:
    return np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])


def test_segment_measure_preview_seg_and_sr(bundle: Path, truth: np.ndarray, tmp_path: Path) -> None:
    source = write_volume(tmp_path / "series", truth.astype(np.int16) * 300, affine())
    options = Options(formats=("nifti", "dicom-seg", "dicom-sr"), preview=True)
    summary = segment_cases(source, tmp_path / "out", bundle, options, device="cpu", quiet=True)
    (result,) = summary.results
    assert summary.exit_code == 0 and result.measurements is not None
    np.testing.assert_array_equal(nib.load(tmp_path / "out" / "series_seg.nii.gz").get_fdata(), truth)
    values = {item["name"]: item["value"] for item in result.measurements["measurements"]}
    assert values["kidney_volume"] == pytest.approx(3 * VOLUME_ML)
    assert values["cortex_volume"] == pytest.approx(VOLUME_ML)
    assert "SMALL_KIDNEY" in [flag["code"] for flag in result.measurements["flags"]]
    assert result.measurements["bundle"] == "Kidneys"
    assert (tmp_path / "out" / "series_preview.png").is_file()
    seg, report = (dcmread(tmp_path / "out" / f"series_{kind}.dcm") for kind in ("seg", "sr"))
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["renal cortex", "renal medulla", "renal cyst"]
    assert seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "64033007"
    assert "Kidney volume" in str(report)
    again = measure_mask(tmp_path / "out" / "series_seg.nii.gz", bundle)
    assert again.get("kidney_volume").value == pytest.approx(3 * VOLUME_ML)  # type: ignore[union-attr]
    assert (tmp_path / "out" / "series_seg.ctbl").read_text().count("renal") == 3


def test_evaluate(bundle: Path, truth: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.excepthook", None)
    for name, data in (("image", truth.astype(np.int16) * 300), ("label", truth)):
        image = nib.Nifti1Image(data, affine())
        image.header.set_xyzt_units("mm", "sec")
        image.set_qform(affine(), 1)
        nib.save(image, tmp_path / f"{name}.nii.gz")
    (tmp_path / "datalist.json").write_text(json.dumps({"val": [{"image": "image.nii.gz", "label": "label.nii.gz"}]}))
    configs = [str(Bundle(bundle).path(name)) for name in ("inference", "evaluate")]
    options = {"bundle_root": str(bundle), "dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "scores")}
    run = ConfigWorkflow(configs, logging_file=False, workflow_type="eval", device="cpu", **options)
    run.initialize()
    run.run()
    rows = list(csv.DictReader((tmp_path / "scores" / "per_case.csv").open()))
    assert {row["structure"]: float(row["dice"]) for row in rows} == {"cortex": 1, "medulla": 1, "cyst": 1}


def test_no_module_but_the_tasks_own_knows_a_task(repository: Path) -> None:
    names = ("cardiac_short_axis", "dermoscopy_lesion", 'ct_hemorrhage"')
    for file in (repository / "convformer_monai").rglob("*.py"):
        if file.parent.name != "tasks":
            assert not any(name in file.read_text(encoding="utf-8") for name in names), file


def test_the_segmenter_takes_it(bundle: Path, truth: np.ndarray) -> None:
    image = nib.Nifti1Image(truth.astype(np.int16) * 300, affine())
    np.testing.assert_array_equal(Segmenter(bundle, "cpu").segment(image).get_fdata(), truth)
