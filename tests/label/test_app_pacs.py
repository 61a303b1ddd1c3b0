"""Our label app on a PACS: masks by series UID, DICOM SEG stored and read back, names right whatever is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from label_server import LabelServer, dice, label_server
from pacs import DICOMWEB_PLUGIN, ORTHANC, Pacs, orthanc

from convformer_monai.outputs.dicom_seg import write_dicom_seg
from convformer_monai.phantoms.dicom.kinds import write_kind
from convformer_monai.readers import read_series
from convformer_monai.readers.dicom.masks import read_dicom_masks
from convformer_monai.tasks.cardiac import CARDIAC

pytestmark = pytest.mark.skipif(
    not (ORTHANC and DICOMWEB_PLUGIN.exists()), reason="needs Debian's packages orthanc and orthanc-dicomweb"
)
GOOD = 0.8


@dataclass(frozen=True)
class Hospital:
    """A PACS with one heart, and our server on it.

    Attributes:
        pacs: Orthanc.
        server: ours.
        series: UID of the heart's series.
        dicom: its files.
        truth: label map (X, Y, Z).
        folder: where tests may write.
    """

    pacs: Pacs
    server: LabelServer
    series: str
    dicom: Path
    truth: nib.Nifti1Image
    folder: Path


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("a hospital")
    dicom, truth = write_kind("cardiac", folder, seed=2, num_phases=1)
    with orthanc(folder / "pacs") as pacs:
        pacs.upload(dicom)
        (series,) = pacs.series()
        with label_server("cardiac", pacs.dicomweb, folder) as server:
            yield Hospital(pacs, server, series["SeriesInstanceUID"], dicom, nib.load(truth), folder)


def mask_file(hospital: Hospital, name: str, without: int = 0, shift: float = 0.0) -> Path:
    """Writes the truth as an annotator's label, without a structure, or elsewhere."""
    labels = np.asarray(hospital.truth.dataobj).astype(np.uint8)
    labels[labels == without] = 0
    affine = hospital.truth.affine.copy()
    affine[0, 3] += shift
    nib.save(nib.Nifti1Image(labels, affine), hospital.folder / name)
    return hospital.folder / name


def names(segmentation: pydicom.Dataset) -> dict[int, str]:
    return {int(item.SegmentNumber): str(item.SegmentLabel) for item in segmentation.SegmentSequence}


def check_segmentation(segmentation: pydicom.Dataset, hospital: Hospital, labels: np.ndarray, folder: Path) -> None:
    """Checks names, references and voxels of a DICOM SEG against a label map."""
    assert names(segmentation) == {label.index: label.long_name for label in CARDIAC.labels}
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == hospital.series
    path = folder / "seg.dcm"
    segmentation.save_as(path)
    found = read_dicom_masks([path], CARDIAC.labels)
    for index in (1, 2, 3):
        assert int((found.image.numpy() == index).sum()) == int((labels == index).sum())


def test_infer_by_series_uid(hospital: Hospital, tmp_path: Path) -> None:
    assert hospital.server.get("/info/").json()["datastore"]["total"] == 1
    answer = hospital.server.infer(hospital.series)
    assert answer.status_code == 200, answer.text
    (tmp_path / "mask.nii.gz").write_bytes(answer.content)
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == hospital.truth.shape and np.allclose(mask.affine, hospital.truth.affine, atol=1e-3)
    for index in (1, 2, 3):
        assert dice(np.asarray(mask.dataobj) == index, np.asarray(hospital.truth.dataobj) == index) > GOOD


def test_the_viewer_gets_the_series_as_nifti_on_the_same_grid(hospital: Hospital, tmp_path: Path) -> None:
    answer = hospital.server.get("/datastore/image", image=hospital.series)
    (tmp_path / "image.nii.gz").write_bytes(answer.content)
    image = nib.load(tmp_path / "image.nii.gz")
    assert image.shape == hospital.truth.shape and np.allclose(image.affine, hospital.truth.affine, atol=1e-3)


def test_a_predicted_seg_names_each_structure(hospital: Hospital, tmp_path: Path) -> None:
    info = [{"name": "wrong"}]  # what MONAI Label wants, and would name the first class found by
    answer = hospital.server.infer(hospital.series, output="dicom_seg", label_info=info)
    assert answer.status_code == 200, answer.text
    segmentation = pydicom.dcmread(BytesIO(answer.content))
    plain = hospital.server.infer(hospital.series)
    (tmp_path / "mask.nii.gz").write_bytes(plain.content)
    check_segmentation(segmentation, hospital, np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj), tmp_path)


def test_other_series_and_paths_are_refused(hospital: Hospital) -> None:
    for image in ("1.2.3", "../../etc", "not-a-uid"):
        answer = hospital.server.infer(image)
        assert answer.status_code == 404 and "there is no series" in answer.json()["detail"]
    assert hospital.server.infer("/etc").status_code == 403


def test_misaligned_labels_are_refused_and_nothing_is_stored(hospital: Hospital) -> None:
    before = len(hospital.pacs.segmentations())
    answer = hospital.server.save_label(hospital.series, mask_file(hospital, "moved.nii.gz", shift=4))
    assert answer.status_code == 400 and "does not lie on the grid" in answer.json()["detail"]
    assert len(hospital.pacs.segmentations()) == before


def test_a_label_that_lacks_a_class_is_stored_by_name_and_read_back(hospital: Hospital, tmp_path: Path) -> None:
    answer = hospital.server.save_label(hospital.series, mask_file(hospital, "no_rv.nii.gz", without=1))
    assert answer.status_code == 200, answer.text
    (segmentation,) = hospital.pacs.segmentations()
    labels = np.asarray(hospital.truth.dataobj).copy()
    labels[labels == 1] = 0
    check_segmentation(segmentation, hospital, labels, tmp_path)
    assert hospital.server.get("/info/").json()["datastore"]["completed"] == 1
    (case,) = hospital.server.get("/datastore/", output="train").json()
    assert np.array_equal(np.asarray(nib.load(case["label"]).dataobj), labels)


def test_the_newest_segmentation_counts_whoever_made_it(hospital: Hospital, tmp_path: Path) -> None:
    """One made elsewhere, with its segments in another order, and newer than ours."""
    series = read_series(hospital.dicom, phase="all")
    truth = np.asarray(hospital.truth.dataobj).astype(np.uint8)[None]
    (path,) = write_dicom_seg(tmp_path / "other.dcm", np.flip(truth, 1).copy(), series, CARDIAC.labels)
    other = pydicom.dcmread(path)
    other.ContentDate = "29991231"
    other.save_as(path)
    hospital.pacs.upload(path)
    (case,) = hospital.server.get("/datastore/", output="train").json()
    assert np.array_equal(np.asarray(nib.load(case["label"]).dataobj), np.flip(truth[0], 0))


def test_a_segmentation_that_lies_elsewhere_is_left_out(hospital: Hospital, tmp_path: Path) -> None:
    before = hospital.server.get("/datastore/", output="train").json()
    series = read_series(hospital.dicom, phase="all")
    truth = np.asarray(hospital.truth.dataobj).astype(np.uint8)[None]
    (path,) = write_dicom_seg(tmp_path / "moved.dcm", truth, series, CARDIAC.labels)
    moved = pydicom.dcmread(path)
    for group in moved.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0]
        position.ImagePositionPatient = [value + 4 for value in position.ImagePositionPatient]
    moved.ContentDate = "29991231"
    moved.ContentTime = "235959"
    moved.save_as(path)
    hospital.pacs.upload(path)
    assert hospital.server.get("/datastore/", output="train").json() == before
    assert "does not lie on the grid" in hospital.server.log.read_text(errors="replace")


def test_training_on_labels_of_the_pacs(hospital: Hospital) -> None:
    if not hospital.pacs.segmentations():
        assert hospital.server.save_label(hospital.series, mask_file(hospital, "all.nii.gz")).status_code == 200
    record = hospital.server.train(max_epochs=1)
    assert record["status"] == "DONE", "\n".join(record["details"])
    (version,) = json.loads((hospital.server.work / "versions" / "versions.json").read_text())["versions"]
    assert version["cases"] == [hospital.series]
