"""Values of DICOM tags that no scanner writes: a series that is right, or one line that quotes nothing of them."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dicom_checks import OBLIQUE, check_refused, check_values
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from convformer_monai.errors import InputRefused
from convformer_monai.phantoms.dicom import linear_series, save_series
from convformer_monai.readers import read_series

SECRET = "Planted^Patient"
TAGS = (
    *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"),
    *("PatientName", "PatientBirthDate", "Modality", "ImageType", "InstanceNumber", "FrameOfReferenceUID"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    *("PhotometricInterpretation", "RescaleSlope", "RescaleIntercept", "NumberOfFrames", "TriggerTime"),
    *("AcquisitionDate", "ContentTime", "SeriesDescription"),
)
VALUES = (
    *(SECRET.encode(), b"", b"\0\0", b"\x1b[2J" + SECRET.encode(), b"\\".join([SECRET.encode()] * 3)),
    *(b"nan ", b"1e308 ", b"-1\\-1 ", b"\xff" * 8, SECRET.encode() * 2000),
)


def with_value(tag: str, value: bytes) -> list[Dataset]:
    """A good series, but for one tag of all its slices."""
    series = linear_series(OBLIQUE)
    for dataset in series:
        number = Tag(tag_for_keyword(tag))
        padded = value + b" " * (len(value) % 2)
        dataset[number] = RawDataElement(number, dictionary_VR(number), len(padded), padded, 0, False, True)
    return series


@pytest.mark.filterwarnings("ignore")  # of pydicom, which writes them
@pytest.mark.parametrize("tag", TAGS)
def test_hostile_values(
    tag: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
) -> None:
    trials = 0
    caplog.set_level(logging.DEBUG)
    for number, value in enumerate(VALUES):
        folder = tmp_path / str(number)
        try:
            save_series(with_value(tag, value), folder)
        except Exception:
            continue  # no file has such a value: pydicom cannot write it
        trials += 1
        caplog.clear()
        said = ""
        try:
            check_values(read_series(folder, phase="all"))
        except InputRefused as refusal:
            said = str(refusal)
        said += "".join(capfd.readouterr()) + caplog.text
        assert SECRET not in said and "\x1b" not in said and "\0" not in said
        assert said.count("error[") <= 1
    record_property("trials", trials)


@pytest.mark.parametrize("tiled", ["image type", "private tag"])
def test_a_siemens_mosaic_is_refused(tmp_path: Path, tiled: str) -> None:
    series = linear_series(OBLIQUE, modality="MR")
    for dataset in series:
        if tiled == "image type":
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
        else:
            dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 36)
    save_series(series, tmp_path)
    check_refused(tmp_path, "MOSAIC", "tiled", "dcm2niix")


def test_real_mosaics_are_refused_by_the_command(data_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convformer_monai.cli", "segment", "-i", str(data_dir / "dicom" / "mosaic")]
    done = subprocess.run([*command, "-q", "-o", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error[MOSAIC]"), done.stderr
