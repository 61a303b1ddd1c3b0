"""The preview as Secondary Capture: in the study of its source, valid, and naming it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_results import CASES, dciodvfy_errors
from pydicom import dcmread

from convformer_monai.errors import InputRefused
from convformer_monai.outputs.dicom_sc import dicom_sc, write_dicom_sc
from convformer_monai.phantoms.dicom import linear_series, save_dataset, save_series
from convformer_monai.phantoms.dicom_photo import photograph_dataset
from convformer_monai.readers import read_series

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", ["ct", "enhanced MR", "cine by level"])
def test_a_picture_in_the_study_of_its_source(name: str, tmp_path: Path) -> None:
    series = CASES[name].read(tmp_path / "in")
    path = write_dicom_sc(tmp_path / "x_sc.dcm", PICTURE, series, algorithm_name="Some bundle", algorithm_version="1.2")
    assert dciodvfy_errors(path) == []
    image = dcmread(path)
    np.testing.assert_array_equal(image.pixel_array, PICTURE)
    source = dcmread(series.frames[0][0].path)
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber", "StudyDate"):
        assert image[keyword].value == source[keyword].value
    assert image.SeriesInstanceUID != source.SeriesInstanceUID and image.Modality == "OT"
    assert image.SeriesDescription == "Preview by Some bundle" and image.BurnedInAnnotation == "NO"
    listed = {item.ReferencedSOPInstanceUID for item in image.SourceImageSequence}
    assert listed == {frame.sop_instance_uid for phase in series.frames for frame in phase}


@pytest.mark.parametrize(
    ("characters", "name", "doctor"),
    [
        ("ISO_IR 192", "Łódź^Ægir=山田^太郎", "Åse^Ørjan"),
        ("ISO_IR 100", "Müller^Jürgen", "Çelik^René"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "Suzuki^Jirou=鈴木^次郎"),
        (None, "Doe^Jane", "Roe^Richard"),
    ],
)
def test_names_in_any_character_set(characters: str | list[str] | None, name: str, doctor: str, tmp_path: Path) -> None:
    datasets = linear_series()
    latin = characters in ("ISO_IR 192", "ISO_IR 100")
    texts = {
        "PatientName": name,
        "ReferringPhysicianName": doctor,
        "PatientID": "Köln 7" if latin else "Cologne 7",
        "AccessionNumber": "Zürich 3" if latin else "Zurich 3",
        "StudyID": "Étude 1" if latin else "Study 1",
    }
    for dataset in datasets:
        if characters is None:
            dataset.pop("SpecificCharacterSet", None)
        else:
            dataset.SpecificCharacterSet = characters
        for keyword, text in texts.items():
            setattr(dataset, keyword, text)
    save_series(datasets, tmp_path / "in")
    path = write_dicom_sc(tmp_path / "x_sc.dcm", PICTURE, read_series(tmp_path / "in"))
    image = dcmread(path)
    assert {keyword: image[keyword].value for keyword in texts} == texts
    assert dciodvfy_errors(path) == []


def test_of_a_photograph(tmp_path: Path) -> None:
    path = save_dataset(photograph_dataset(dermoscopic=True), tmp_path / "photo.dcm")
    written = write_dicom_sc(tmp_path / "x_sc.dcm", PICTURE, read_series(path))
    assert dciodvfy_errors(written) == []
    assert dcmread(written).SourceImageSequence[0].ReferencedSOPInstanceUID == dcmread(path).SOPInstanceUID


@pytest.mark.parametrize(("said", "expected"), [("YES", "YES"), ("NO", "NO"), (None, None), ("", None)])
def test_what_a_photograph_says_of_its_annotations_is_repeated(
    said: str | None, expected: str | None, tmp_path: Path
) -> None:
    photo = photograph_dataset(dermoscopic=True)
    del photo.BurnedInAnnotation
    if said is not None:
        photo.BurnedInAnnotation = said
    source = save_dataset(photo, tmp_path / "photo.dcm")
    written = write_dicom_sc(tmp_path / "x_sc.dcm", PICTURE, read_series(source))
    assert dciodvfy_errors(written) == [] and dcmread(written).get("BurnedInAnnotation") == expected


def test_a_volume_with_annotations_says_so(tmp_path: Path) -> None:
    series = CASES["ct"].read(tmp_path / "in")
    path = series.frames[0][0].path
    source = dcmread(path)
    source.BurnedInAnnotation = "YES"
    source.save_as(path)
    assert dicom_sc(PICTURE, series).BurnedInAnnotation == "YES"


def test_what_is_refused(tmp_path: Path) -> None:
    series = CASES["ct"].read(tmp_path / "in")
    with pytest.raises(ValueError, match="picture must be"):
        dicom_sc(PICTURE[..., 0], series)
    with pytest.raises(ValueError, match=r"path must end in \.dcm"):
        write_dicom_sc(tmp_path / "x.png", PICTURE, series)
    series.frames[0][0].path.unlink()
    with pytest.raises(InputRefused):
        dicom_sc(PICTURE, series)
