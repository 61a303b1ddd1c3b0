"""DICOM that must be refused: one fault a case, in a series that is read without it."""

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from dicom_checks import OBLIQUE, check_refused, read_series
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from convformer_monai.phantoms.dicom import Identity, SliceStack, linear_series, localizer, save_dataset, save_series

MIDDLE = 3
CUT = {"TRUNCATED", "DICOM_UNREADABLE"}
Series = list[Dataset]
Fault = Callable[[Series], object]


def put(dataset: Dataset, keyword: str, text: str) -> None:
    """Sets a decimal string that pydicom would not write, such as NaN."""
    vr = dataset[keyword].VR
    tag = Tag(tag_for_keyword(keyword))
    dataset[tag] = RawDataElement(tag, vr, len(text), text.encode(), 0, False, True)


def putting(keyword: str, text: str, *slices: int) -> Fault:
    def fault(series: Series) -> None:
        for index in slices or range(len(series)):
            put(series[index], keyword, text)

    return fault


def lacking(keyword: str, *slices: int) -> Fault:
    def fault(series: Series) -> None:
        for index in slices or range(len(series)):
            del series[index][keyword]

    return fault


def clone(dataset: Dataset, **changes: object) -> Dataset:
    copy = deepcopy(dataset)
    copy.SOPInstanceUID = Identity().uid("clone", int(dataset.InstanceNumber))
    for keyword, value in changes.items():
        setattr(copy, keyword, value)
    return copy


def duplicate(series: Series) -> None:
    series.insert(MIDDLE, clone(series[MIDDLE]))


def duplicate_all(series: Series) -> None:
    series.extend([clone(dataset) for dataset in series])


def same_instance_other_pixels(series: Series) -> None:
    pixels = np.frombuffer(series[MIDDLE].PixelData, dtype="<u2") + 5
    series.append(clone(series[MIDDLE], SOPInstanceUID=series[MIDDLE].SOPInstanceUID, PixelData=pixels.tobytes()))


def crop(series: Series) -> None:
    dataset = series[MIDDLE]
    pixels = np.frombuffer(dataset.PixelData, dtype="<u2").reshape(dataset.Rows, dataset.Columns)
    dataset.Columns -= 2
    dataset.PixelData = np.ascontiguousarray(pixels[:, :-2]).tobytes()


def aside(series: Series) -> None:
    position = np.array(series[MIDDLE].ImagePositionPatient, dtype=float)
    moved = position + 3 * np.array(series[MIDDLE].ImageOrientationPatient[:3], dtype=float)
    series[MIDDLE].ImagePositionPatient = [f"{v:.6f}" for v in moved]


def turn(series: Series) -> None:
    other = SliceStack.regular(angles=(20, -15, 44))
    series[MIDDLE].ImageOrientationPatient = [f"{v:.8f}" for v in (*other.row, *other.column)]


def in_colour(series: Series) -> None:
    for dataset in series:
        grey = np.frombuffer(dataset.PixelData, dtype="<u2").astype(np.uint8)
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = np.repeat(grey, 3).tobytes()
        dataset["PixelData"].VR = "OB"


FAULTS: dict[str, tuple[Fault, str]] = {
    "middle slice missing": (lambda series: series.pop(MIDDLE), "MISSING_SLICES"),
    "second slice missing": (lambda series: series.pop(1), "MISSING_SLICES"),
    "two neighbours missing": (lambda series: [series.pop(MIDDLE) for _ in range(2)], "MISSING_SLICES"),
    "slice twice": (duplicate, "DUPLICATE_SLICES"),
    "all slices twice": (duplicate_all, "DUPLICATE_SLICES"),
    "one instance, two images": (same_instance_other_pixels, "DUPLICATE_SLICES"),
    "no position": (lacking("ImagePositionPatient"), "NO_GEOMETRY"),
    "one slice without position": (lacking("ImagePositionPatient", MIDDLE), "NO_GEOMETRY"),
    "no orientation": (lacking("ImageOrientationPatient"), "NO_GEOMETRY"),
    "one slice without orientation": (lacking("ImageOrientationPatient", MIDDLE), "NO_GEOMETRY"),
    "orientation of zeros": (putting("ImageOrientationPatient", "0\\0\\0\\0\\0\\0"), "NO_GEOMETRY"),
    "orientation not at right angles": (putting("ImageOrientationPatient", "1\\0\\0\\0.5\\0.9\\0 "), "NO_GEOMETRY"),
    "position of two numbers": (putting("ImagePositionPatient", "1\\2 ", MIDDLE), "NO_GEOMETRY"),
    "position of words": (putting("ImagePositionPatient", "here\\1\\2", MIDDLE), "DICOM_UNREADABLE"),
    "position NaN": (putting("ImagePositionPatient", "NaN\\1\\2 ", MIDDLE), "NOT_FINITE"),
    "no pixel spacing": (lacking("PixelSpacing"), "NO_SPACING"),
    "one slice without pixel spacing": (lacking("PixelSpacing", MIDDLE), "NO_SPACING"),
    "one slice with other pixel spacing": (putting("PixelSpacing", "1.2\\0.8 ", MIDDLE), "GEOMETRY_DISAGREES"),
    "one slice with swapped pixel spacing": (putting("PixelSpacing", "0.8\\1.1 ", MIDDLE), "GEOMETRY_DISAGREES"),
    "one slice of other size": (crop, "GEOMETRY_DISAGREES"),
    "one slice turned": (turn, "GEOMETRY_DISAGREES"),
    "one slice moved aside": (aside, "GEOMETRY_DISAGREES"),
    "spacing 0": (putting("PixelSpacing", "0\\0 "), "SPACING"),
    "spacing negative": (putting("PixelSpacing", "-1.1\\0.8 "), "SPACING"),
    "spacing NaN": (putting("PixelSpacing", "NaN\\0.8 "), "SPACING"),
    "spacing infinite": (putting("PixelSpacing", "inf\\0.8 "), "SPACING"),
    "slope NaN": (putting("RescaleSlope", "NaN ", MIDDLE), "RESCALE"),
    "slope infinite": (putting("RescaleSlope", "inf ", MIDDLE), "RESCALE"),
    "slope too large for a float": (putting("RescaleSlope", "1e60", MIDDLE), "NOT_FINITE"),
    "slope 0": (putting("RescaleSlope", "0 ", MIDDLE), "RESCALE"),
    "slope of words": (putting("RescaleSlope", "much", MIDDLE), "DICOM_UNREADABLE"),
    "intercept NaN": (putting("RescaleIntercept", "NaN ", MIDDLE), "RESCALE"),
    "CT without rescale on one slice": (lacking("RescaleIntercept", MIDDLE), "RESCALE"),
    "colour": (in_colour, "COLOUR"),
    "another series": (lambda series: series.extend(other_series(series=2)), "SEVERAL_SERIES"),
    "the series again under another name": (
        lambda series: series.extend(linear_series(OBLIQUE, identity=Identity(series=2))),
        "SEVERAL_SERIES",
    ),
    "another study": (lambda series: series.extend(other_series(study=2)), "SEVERAL_SERIES"),
    "another patient": (lambda series: series.extend(other_series(patient=2)), "SEVERAL_PATIENTS"),
}


def other_series(**identity: int) -> Series:
    return linear_series(SliceStack.regular(shape=(34, 40, 5)), identity=Identity(**identity))


@pytest.mark.parametrize(("fault", "code"), FAULTS.values(), ids=FAULTS.keys())
def test_fault(tmp_path: Path, fault: Fault, code: str) -> None:
    series = linear_series(OBLIQUE)
    fault(series)
    save_series(series, tmp_path)
    check_refused(tmp_path, code, str(tmp_path))


@pytest.mark.parametrize("tilt", [0, 18])
@pytest.mark.parametrize("gaps", [(2.5, 2.5, 2.5, 5, 5, 5), (2.5, 2.5, 2.9, 2.5, 2.5, 2.5), (1, 2, 3, 4, 5, 6)])
def test_uneven_spacing(tmp_path: Path, gaps: tuple[float, ...], tilt: float) -> None:
    save_series(linear_series(SliceStack.regular(gaps=gaps, tilt=tilt)), tmp_path)
    check_refused(tmp_path, "UNEVEN_SPACING", "--resample-uneven")


def test_missing_slice_is_named(tmp_path: Path) -> None:
    paths = save_series(linear_series(OBLIQUE), tmp_path)
    paths[MIDDLE].unlink()
    check_refused(tmp_path, "MISSING_SLICES", "0003.dcm", "0005.dcm")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("tiled", ["image type", "private tag", "another maker's tag"])
def test_mosaic(tmp_path: Path, tiled: str, syntax: UID) -> None:
    series = linear_series(OBLIQUE, modality="MR")
    for dataset in series:
        if tiled == "image type":
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
        else:
            maker = "SIEMENS MR HEADER" if tiled == "private tag" else "ANOTHER MAKER"
            dataset.private_block(0x0019, maker, create=True).add_new(0x0A, "US", 36)
    save_series(series, tmp_path, transfer_syntax=syntax)
    if tiled == "another maker's tag":
        assert read_series(tmp_path).image.ndim == 4
    else:
        check_refused(tmp_path, "MOSAIC", "tiled", "dcm2niix")


def test_several_series_are_listed(tmp_path: Path) -> None:
    save_series([*linear_series(OBLIQUE), *other_series(series=2)], tmp_path)
    uids = [str(Identity(series=number).uid("series")) for number in (1, 2)]
    check_refused(tmp_path, "SEVERAL_SERIES", "--series-uid", *uids)
    check_refused(tmp_path, "SERIES_NOT_FOUND", *uids, series_uid="1.2.3")


def test_fault_in_another_series_does_not_matter(tmp_path: Path) -> None:
    faulty = other_series(series=2)
    faulty.pop(MIDDLE)
    save_series([*linear_series(OBLIQUE), *faulty], tmp_path)
    assert read_series(tmp_path, series_uid=Identity().uid("series")).image.shape == (1, *OBLIQUE.shape)
    check_refused(tmp_path, "SEVERAL_SERIES")


def test_the_series_of_one_of_two_patients(tmp_path: Path) -> None:
    save_series([*linear_series(OBLIQUE), *other_series(patient=2)], tmp_path)
    check_refused(tmp_path, "SEVERAL_PATIENTS", "--series-uid")
    assert read_series(tmp_path, series_uid=Identity().uid("series")).image.shape == (1, *OBLIQUE.shape)


def test_codec_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_series(linear_series(OBLIQUE), tmp_path, transfer_syntax=JPEGLosslessSV1)
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
    check_refused(tmp_path, "CODEC_MISSING", "convformer_monai[dicom]")


@pytest.mark.parametrize("wanted", ["CT", ("CT", "MR")])
def test_wrong_modality(tmp_path: Path, wanted: str | tuple[str, ...]) -> None:
    save_series(linear_series(OBLIQUE, modality="PT"), tmp_path)
    check_refused(tmp_path, "WRONG_MODALITY", "PT", "CT", modality=wanted)


def test_a_modality_that_is_none_is_not_named(tmp_path: Path) -> None:
    series = linear_series(OBLIQUE)
    for dataset in series:
        dataset.Modality = "DOE"
    save_series(series, tmp_path)
    assert "DOE" not in check_refused(tmp_path, "WRONG_MODALITY", "another modality", modality="CT").message


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless], ids=lambda s: s.keyword)
def test_cut_in_the_pixels(tmp_path: Path, kept: float, syntax: UID) -> None:
    path = save_series(linear_series(OBLIQUE), tmp_path, transfer_syntax=syntax)[-1]  # so that nothing seems missing
    content = path.read_bytes()
    start = content.index(b"\xe0\x7f\x10\x00") + 12
    path.write_bytes(content[: start + int(kept * (len(content) - start))])
    check_refused(tmp_path, CUT, path.name)


@pytest.mark.parametrize("kept", [0, 100, 131, 133, 200, 400, 401, 500, 1000, -1])
@pytest.mark.parametrize("name", ["{}.dcm", "{}"])
def test_cut_in_the_header(tmp_path: Path, kept: int, name: str) -> None:
    path = save_series(linear_series(OBLIQUE), tmp_path, name=name)[-1]
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\xe0\x7f\x10\x00") if kept < 0 else kept])
    check_refused(tmp_path, CUT, path.name)


def test_corrupt_compressed_pixels(tmp_path: Path) -> None:
    path = save_series(linear_series(OBLIQUE), tmp_path, transfer_syntax=JPEGLosslessSV1)[MIDDLE]
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\xd8")
    content[start + 2 : start + 90] = bytes(88)
    path.write_bytes(content)
    check_refused(tmp_path, CUT, path.name)


def test_nothing_there(tmp_path: Path) -> None:
    check_refused(tmp_path / "nowhere", "FILE_NOT_FOUND")
    check_refused(tmp_path, "EMPTY_FOLDER")
    (tmp_path / "LICENSE.txt").write_text("Anyone may read this.")
    check_refused(tmp_path, "NO_IMAGES")


def test_no_slices_among_dicom(tmp_path: Path) -> None:
    report = clone(linear_series()[0], SOPClassUID=EncapsulatedPDFStorage, Modality="DOC")
    del report.PixelData
    capture = clone(linear_series()[1], SOPClassUID=SecondaryCaptureImageStorage, Modality="OT")
    save_series([report, capture], tmp_path)
    check_refused(tmp_path, "NO_IMAGES")
    save_series([localizer()], tmp_path, name="scout.dcm")
    check_refused(tmp_path, "NO_IMAGES")


def test_no_volume_in_the_file(tmp_path: Path) -> None:
    check_refused(save_dataset(localizer(), tmp_path / "scout.dcm"), "NOT_AN_IMAGE")
    named = tmp_path / "named.dcm"
    named.write_text("no DICOM at all")
    check_refused(named, "DICOM_UNREADABLE")


def test_one_slice_of_a_series(tmp_path: Path) -> None:
    paths = save_series(linear_series(OBLIQUE), tmp_path / "whole")
    check_refused(paths[MIDDLE], "MISSING_SLICES", "folder")
    (tmp_path / "alone").mkdir()
    single = Path(shutil.copy(paths[MIDDLE], tmp_path / "alone"))
    assert read_series(single).image.shape == (1, *OBLIQUE.size, 1)


def test_what_pydicom_says_goes_to_the_debug_log_without_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    series = linear_series(OBLIQUE)
    for dataset in series:
        put(dataset, "FrameOfReferenceUID", "PLANTED")
    save_series(series, tmp_path)
    caplog.clear()
    read_series(tmp_path)
    assert not caplog.records
    with caplog.at_level("DEBUG", "convformer_monai"):
        read_series(tmp_path)
    assert "Invalid value for VR UI: '...'" in caplog.text and "PLANTED" not in caplog.text
