"""Which images a path holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nifti_files import save
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from convformer_monai.errors import InputRefused
from convformer_monai.readers.cases import find_cases, is_dicom, is_dicom_photo, stem

DERMOSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.7"


def volume(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(path, np.zeros((2, 2, 2), dtype=np.int16))


def photo(path: Path) -> Path:
    Image.new("RGB", (4, 3)).save(path)
    return path


def slice_file(path: Path, study: str, sop_class: str = CTImageStorage) -> Path:
    """A DICOM file of which only the header is looked at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.StudyInstanceUID = sop_class, generate_uid(), study
    dataset.save_as(path, enforce_file_format=True)
    return path


def names(path: Path, leave_out: Path | None = None) -> dict[str, Path]:
    return {case.name: case.path for case in find_cases(path, leave_out)}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.nii.gz", "a"),
        ("a.b.NII.GZ", "a.b"),
        ("a.nii", "a"),
        ("scan.mha", "scan"),
        ("p.JPEG", "p"),
        ("1.dcm", "1"),
        ("1.2.840.99", "1.2.840.99"),
        (".nii", ".nii"),
    ],
)
def test_stem(name, wanted):
    assert stem(Path("x") / name) == wanted


def test_one_file(tmp_path):
    path = volume(tmp_path / "a b.nii.gz")
    assert names(path) == {"a b": path}


def test_folder_of_files_without_masks_and_results(tmp_path):
    a, b = volume(tmp_path / "a.nii.gz"), photo(tmp_path / "b.png")
    for name in ("a_gt.nii.gz", "a_seg.nii.gz", "A_SEG.nii", "a_truth.nii.gz"):
        volume(tmp_path / name)
    photo(tmp_path / "a_preview.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.nii.gz").write_bytes(b"")
    assert names(tmp_path) == {"a": a, "b": b}


def test_results_beside_the_images_are_no_cases(tmp_path):
    slice_file(tmp_path / "case" / "1.dcm", "1.2.3")
    for name in ("case_seg.dcm", "case_seg_phase00.dcm", "case_sr.dcm"):
        slice_file(tmp_path / name, "1.2.3")
    volume(tmp_path / "case_segmentation.nii.gz")
    assert names(tmp_path) == {"case": tmp_path / "case"}


def test_equal_names_in_sub_folders_stay_apart(tmp_path):
    paths = {f"{ward}/scan": volume(tmp_path / ward / "scan.nii.gz") for ward in ("ward 1", "ward 2")}
    assert names(tmp_path) == paths


def test_the_output_folder_is_left_out(tmp_path):
    a = volume(tmp_path / "a.nii.gz")
    volume(tmp_path / "out" / "b.nii.gz")
    assert names(tmp_path, tmp_path / "out") == {"a": a}


def test_dicom_folder_is_one_case_named_as_it_is(tmp_path):
    folder = tmp_path / "1.2.840.7"
    slice_file(folder / "one", "1.2.3")
    slice_file(folder / "two", "1.2.3")
    assert names(folder) == {"1.2.840.7": folder}


def test_series_of_one_study_are_one_case_and_studies_are_several(tmp_path):
    for patient in "AB":
        for level in range(2):
            slice_file(tmp_path / patient / f"level{level}" / "1.dcm", f"1.2.{ord(patient)}")
    assert names(tmp_path / "A") == {"A": tmp_path / "A"}
    assert names(tmp_path) == {"A": tmp_path / "A", "B": tmp_path / "B"}


def test_a_damaged_dicom_file_is_not_passed_over(tmp_path):
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "1.dcm").write_bytes(b"no DICOM at all")
    assert names(tmp_path) == {"case": tmp_path / "case"}


def test_dicom_photographs_are_a_case_each(tmp_path):
    files = [slice_file(tmp_path / f"{name}.dcm", "1.2.3", DERMOSCOPY) for name in "ab"]
    assert names(tmp_path) == {"a": files[0], "b": files[1]}
    assert is_dicom(files[0]) and is_dicom_photo(files[0])


def test_dicom_beside_other_images(tmp_path):
    a = volume(tmp_path / "a.nii.gz")
    slice_file(tmp_path / "1.dcm", "1.2.3")
    assert names(tmp_path) == {"a": a, tmp_path.name: tmp_path}


def test_cases_below_a_dicom_file_are_found(tmp_path):
    slice_file(tmp_path / "stray.dcm", "1.2.3")
    scan, head = volume(tmp_path / "a" / "scan.nii.gz"), slice_file(tmp_path / "b" / "1.dcm", "1.2.4").parent
    assert names(tmp_path) == {tmp_path.name: tmp_path, "a/scan": scan, "b": head}


def test_dicom_folder_holds_its_sub_folders_of_the_same_study(tmp_path):
    slice_file(tmp_path / "1.dcm", "1.2.3")
    for place in ("more", "levels/0", "levels/1"):
        slice_file(tmp_path / place / "1.dcm", "1.2.3")
    assert names(tmp_path) == {tmp_path.name: tmp_path}


def test_cases_below_a_dicom_photograph_are_found(tmp_path):
    top = slice_file(tmp_path / "a.dcm", "1.2.3", DERMOSCOPY)
    below = slice_file(tmp_path / "sub" / "b.dcm", "1.2.3", DERMOSCOPY)
    slices = [slice_file(tmp_path / name / "1.dcm", "1.2.3").parent for name in ("ct", "mr")]
    picture = photo(tmp_path / "sub" / "c.png")
    assert names(tmp_path) == {"a": top, "sub/b": below, "sub/c": picture, "ct": slices[0], "mr": slices[1]}


def test_slices_beside_a_dicom_photograph_are_found(tmp_path):
    picture = slice_file(tmp_path / "a.dcm", "1.2.3", DERMOSCOPY)
    slice_file(tmp_path / "b.dcm", "1.2.3")
    assert names(tmp_path) == {"a": picture, tmp_path.name: tmp_path}


@pytest.mark.parametrize(("where", "code"), [("missing", "FILE_NOT_FOUND"), ("empty", "NO_IMAGES")])
def test_nothing_there(tmp_path, where, code):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputRefused, match=where) as refusal:
        find_cases(tmp_path / where)
    assert refusal.value.code == code


def test_files_named_as_masks_are_counted(tmp_path, caplog):
    caplog.set_level("INFO", "convformer_monai")
    for name in ("a.nii.gz", "a_gt.nii.gz", "b_seg.nii.gz"):
        (tmp_path / name).touch()
    assert [case.name for case in find_cases(tmp_path)] == ["a"]
    assert "2 files are left out: their names end in _gt or _seg" in caplog.text and "a_gt.nii.gz" in caplog.text
    (tmp_path / "b_seg.nii.gz").unlink()
    find_cases(tmp_path)
    assert caplog.messages[-1] == (
        "1 file is left out: its name ends in _gt, as those of masks and results do: a_gt.nii.gz"
    )
