"""TID 1500 reports: what dcmqi and the validator find in them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_results import CASES, dciodvfy_errors, dcmqi_report, some_labels
from pydicom import dcmread

from convformer_monai.errors import InputRefused
from convformer_monai.measurements.values import Measurement, Measurements
from convformer_monai.outputs.atomic import AtomicFiles
from convformer_monai.outputs.dicom_seg import write_dicom_seg
from convformer_monai.outputs.dicom_sr import dicom_sr, write_dicom_sr
from convformer_monai.phantoms.dicom import Identity, save_dataset
from convformer_monai.phantoms.dicom_photo import photograph_dataset
from convformer_monai.readers import read_series
from convformer_monai.readers.series import ImageSeries
from convformer_monai.tasks.cardiac import CARDIAC
from convformer_monai.tasks.dermoscopy import DERMOSCOPY
from convformer_monai.tasks.task import Code

EF = Code("LN", "8811-2", "Left ventricular ejection fraction by MR")
EDV = Code("LN", "8821-1", "Left Ventricular ED Volume")
ITEMS = (
    Measurement("lv_ef", "LV ejection fraction", 61.25, "%", EF, structure=3),
    Measurement("lv_edv", "LV end-diastolic volume", 120.123456789, "mL", EDV, structure=3, phase=0),
    Measurement("lv_esv", "LV end-systolic volume", 50.0, "mL", None, structure=3, phase=2),
    Measurement("number_of_components", "Number of components", 3, "1", structure=1, phase=0),
    Measurement("undefined", "Undefined", None, "mL", structure=2, phase=0),
    Measurement("not_finite", "Not finite", float("nan"), "mL", structure=2, phase=0),
    Measurement("whole", "Of the whole image", 3.5, "mm"),
)
MEASURED = Measurements("x", "cardiac_mri_convformer_segmentation", CARDIAC.labels, ITEMS)


@pytest.fixture
def cine(tmp_path: Path) -> ImageSeries:
    return CASES["cine"].read(tmp_path / "in")


def by_name(report: dict) -> dict[str, tuple[dict, dict]]:
    """Group and item of each measurement, by its code."""
    return {
        item["quantity"]["CodeValue"]: (group, item)
        for group in report["Measurements"]
        for item in group["measurementItems"]
    }


def test_dcmqi_reads_the_measurements_of_a_cine(cine: ImageSeries, tmp_path: Path) -> None:
    segs = write_dicom_seg(tmp_path / "x_seg.dcm", some_labels(cine), cine, CARDIAC.labels)
    path = write_dicom_sr(tmp_path / "x_sr.dcm", MEASURED, cine, segs)
    assert dciodvfy_errors(path) == []
    report = dcmqi_report(path, tmp_path / "report.json")
    found = by_name(report)
    assert set(found) == {"8811-2", "8821-1", "lv_esv", "number_of_components", "whole"}
    numbers = {name: (float(item["value"]), item["units"]["CodeValue"]) for name, (_, item) in found.items()}
    assert numbers["8811-2"] == (61.25, "%") and numbers["8821-1"] == (120.1235, "mL")
    assert numbers["lv_esv"] == (50, "mL") and numbers["number_of_components"] == (3, "1")
    assert found["8821-1"][1]["quantity"]["CodingSchemeDesignator"] == "LN"
    assert found["lv_esv"][1]["quantity"]["CodeMeaning"] == "LV end-systolic volume"
    assert found["lv_esv"][1]["quantity"]["CodingSchemeDesignator"] == "99CONVFORMER"
    uids = [dcmread(seg).SOPInstanceUID for seg in segs]
    for name, phase, segment in (("8821-1", 0, 3), ("lv_esv", 2, 3), ("number_of_components", 0, 1)):
        group = found[name][0]
        assert (group["segmentationSOPInstanceUID"], group["ReferencedSegment"]) == (uids[phase], segment)
        assert group["Finding"]["CodeValue"] == CARDIAC.labels[segment - 1].snomed
        tracking = dcmread(segs[phase]).SegmentSequence[segment - 1].TrackingUID
        assert group["TrackingUniqueIdentifier"] == tracking
    of_two_phases = found["8811-2"][0]
    assert "ReferencedSegment" not in of_two_phases and of_two_phases["Finding"]["CodeValue"] == "87878005"
    assert report["procedureReported"]["CodeValue"] == "25056-3"
    assert report["observerContext"]["DeviceObserverName"] == "cardiac_mri_convformer_segmentation"


@pytest.mark.parametrize("name", ["ct", "enhanced", "cine by level"])
def test_one_phase_has_all_in_its_segments(tmp_path: Path, name: str) -> None:
    series = CASES[name].read(tmp_path / "in")
    segs = write_dicom_seg(tmp_path / "x_seg.dcm", some_labels(series), series, CARDIAC.labels)
    measured = replace(MEASURED, items=(replace(ITEMS[1], phase=None), *ITEMS[3:4]))
    path = write_dicom_sr(tmp_path / "x_sr.dcm", measured, series, segs)
    assert dciodvfy_errors(path) == []
    found = by_name(dcmqi_report(path, tmp_path / "report.json"))
    expected = [None, 1] if len(series.phases) > 1 else [3, 1]
    assert [group.get("ReferencedSegment") for group, _ in found.values()] == expected


def test_evidence_is_all_that_was_used(cine: ImageSeries, tmp_path: Path) -> None:
    segs = write_dicom_seg(tmp_path / "x_seg.dcm", some_labels(cine), cine, CARDIAC.labels)
    report = dicom_sr(MEASURED, cine, [dcmread(seg) for seg in segs])
    (study_item,) = report.CurrentRequestedProcedureEvidenceSequence
    listed = {
        item.ReferencedSOPInstanceUID: item.ReferencedSOPClassUID
        for series in study_item.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    sources = {frame.sop_instance_uid: frame.sop_class_uid for phase in cine.frames for frame in phase}
    assert listed == sources | {dcmread(seg).SOPInstanceUID: dcmread(seg).SOPClassUID for seg in segs}
    planted = Identity().planted
    assert (str(report.PatientName), report.PatientID) == (planted["PatientName"], planted["PatientID"])


def test_without_segmentation(cine: ImageSeries, tmp_path: Path) -> None:
    path = write_dicom_sr(tmp_path / "x_sr.dcm", MEASURED, cine)
    assert dciodvfy_errors(path) == []
    found = by_name(dcmqi_report(path, tmp_path / "report.json"))
    assert len(found) == 5 and not any("ReferencedSegment" in group for group, _ in found.values())


def test_photograph(tmp_path: Path) -> None:
    series = read_series(save_dataset(photograph_dataset(dermoscopic=True), tmp_path / "photo.dcm"))
    labels = np.ones(series.image.shape[1:], np.uint8)
    segs = write_dicom_seg(tmp_path / "x_seg.dcm", labels, series, DERMOSCOPY.labels)
    area = Measurement("area", "Lesion area in pixels", 12.0, "{pixel}", Code("SCT", "42798000", "Area"), structure=1)
    measured = Measurements("x", "dermoscopy_convformer_segmentation", DERMOSCOPY.labels, (area,))
    path = write_dicom_sr(tmp_path / "x_sr.dcm", measured, series, segs)
    assert dciodvfy_errors(path) == []
    found = by_name(dcmqi_report(path, tmp_path / "report.json"))
    group, item = found["42798000"]
    assert item["value"] == "12.0" and item["units"]["CodeValue"] == "{pixel}"
    assert group["Finding"]["CodeValue"] == "95324001"
    text = str(dcmread(path))
    assert dcmread(segs[0]).SOPInstanceUID in text and "Referenced Segmentation Frame" in text


def test_segmentations_of_the_same_transaction(cine: ImageSeries, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with AtomicFiles() as files:
        segs = write_dicom_seg(out / "x_seg.dcm", some_labels(cine), cine, CARDIAC.labels, files=files)
        path = write_dicom_sr(out / "x_sr.dcm", MEASURED, cine, segs, files=files)
        assert not path.exists()
    assert dcmread(segs[2]).SOPInstanceUID in str(dcmread(path))
    assert len(list(out.iterdir())) == 4


class TestRefusals:
    def test_only_for_dicom(self, cine: ImageSeries) -> None:
        with pytest.raises(InputRefused, match="NOT_DICOM"):
            dicom_sr(MEASURED, replace(cine, format="nifti", frames=()))

    def test_without_highdicom(self, cine: ImageSeries, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "highdicom", None)
        with pytest.raises(InputRefused, match=r"pip install 'convformer_monai\[dicom\]'"):
            dicom_sr(MEASURED, cine)

    def test_wrong_arguments(self, cine: ImageSeries, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"structures \[None, 1, 2, 3\], got 4"):
            dicom_sr(replace(MEASURED, items=(replace(ITEMS[0], structure=4),)), cine)
        with pytest.raises(ValueError, match=r"path must end in \.dcm"):
            write_dicom_sr(tmp_path / "x.json", MEASURED, cine)

    def test_exists(self, cine: ImageSeries, tmp_path: Path) -> None:
        (tmp_path / "x.dcm").write_bytes(b"old")
        with pytest.raises(InputRefused, match="EXISTS"):
            write_dicom_sr(tmp_path / "x.dcm", MEASURED, cine)
        assert write_dicom_sr(tmp_path / "x.dcm", MEASURED, cine, overwrite=True).stat().st_size > 3
