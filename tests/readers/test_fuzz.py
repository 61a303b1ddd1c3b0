"""Damaged and hostile files: each parser gives a good series or a refusal, and nothing else, whatever is changed.

`CONVFORMER_FUZZ_EXAMPLES=20000 pytest tests/readers/test_fuzz.py` runs longer, on other examples each time.
"""

from __future__ import annotations

import faulthandler
import gzip
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nifti_files import affine, save
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from convformer_monai.errors import InputRefused
from convformer_monai.phantoms.dicom import SliceStack, linear_enhanced, linear_series, save_dataset
from convformer_monai.phantoms.dicom_photo import colour_chart, photograph_dataset
from convformer_monai.readers.dicom import read_dicom
from convformer_monai.readers.itk_formats import read_itk
from convformer_monai.readers.nifti import read_nifti
from convformer_monai.readers.photo import read_photo
from convformer_monai.readers.series import ImageSeries

EXAMPLES = int(os.environ.get("CONVFORMER_FUZZ_EXAMPLES", "0"))
HANG_SECONDS = 300  # a file takes milliseconds; native code that hangs can be ended by ending the process only
HEADER_BYTES = 600
NUMBERS = (0, 1, -1, 2, 3, 4, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**62)
FLOATS = (0.0, -1.0, 1e-30, 1e30, 1e308, np.nan, np.inf, -np.inf)
WORDS = (
    *(b"-1", b"0", b"1", b"2", b"4", b"7", b"65536", b"2147483647", b"-2147483648", b"4294967297", b"99999999999999"),
    *(b"1e308", b"-1e-308", b"nan", b"inf", b"", b" ", b"\0", b"%s%n", b"none", b"block", b"double", b"float", b"gzip"),
    *(b"hex", b"raw", b"LIST", b"LOCAL", b"True", b"False", b"MET_DOUBLE", b"RAS", b"../x", b"(0,0,0)", b"(1,1,1)"),
)


def extremes() -> list[bytes]:
    """Extreme numbers as binary headers hold them, either byte order."""
    found = {
        (number % 2 ** (8 * size)).to_bytes(size, order)
        for number in NUMBERS
        for size in (1, 2, 4, 8)
        for order in ("little", "big")
    }
    found |= {
        np.array(number, kind).tobytes() for number in FLOATS for kind in ("<f4", ">f4", "<f8") if number == number
    }
    return sorted(found)


@dataclass(frozen=True)
class Parser:
    """A reader and how a good file for it is made.

    Attributes:
        name: of the file that is changed.
        read: reads what it is part of.
        make: writes the good files into a folder; the one of that name is changed.
        inner: change what is compressed, not its compression.
        folder: what is read is the folder.
        noisy: a library beyond our reach (libtiff) writes of damage to the terminal.
    """

    name: str
    read: Callable[[Path], ImageSeries]
    make: Callable[[Path], object]
    inner: bool = False
    folder: bool = False
    noisy: bool = False


def noise(*shape: int, dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def write_itk(path: Path, compress: bool = False, cine: bool = False) -> None:
    image = sitk.GetImageFromArray(noise(2, 3, 4, 5) if cine else noise(3, 4, 5), False)
    image.SetSpacing([1.0, 2.0, 3.0, 40.0][: image.GetDimension()])
    sitk.WriteImage(image, str(path), compress)


def write_slices(folder: Path, transfer_syntax: str = ExplicitVRLittleEndian, side: int = 9) -> None:
    for k, dataset in enumerate(linear_series(SliceStack.regular(shape=(side, side, 3)))):
        save_dataset(dataset, folder / f"{k}.dcm", transfer_syntax=transfer_syntax)


def write_enhanced(path: Path) -> None:
    save_dataset(linear_enhanced(SliceStack.regular(shape=(9, 8, 3)), phases=2), path)


def write_photo(path: Path, **options: object) -> None:
    Image.fromarray(noise(16, 12, 3, dtype="uint8")).save(path, **options)


def write_dicom_photo(path: Path, jpeg: str | None) -> None:
    dataset = photograph_dataset(colour_chart((18, 12)), photometric="YBR_FULL_422" if jpeg else "RGB", jpeg=jpeg)
    syntax = dataset.file_meta.TransferSyntaxUID if jpeg else ExplicitVRLittleEndian
    save_dataset(dataset, path, transfer_syntax=syntax)


def all_phases(read: Callable[..., ImageSeries]) -> Callable[[Path], ImageSeries]:
    return lambda path: read(path, phase="all")


NIFTI, ITK, DICOM = all_phases(read_nifti), all_phases(read_itk), all_phases(read_dicom)
PARSERS = {
    "nifti": Parser("x.nii", NIFTI, lambda f: save(f / "x.nii", noise(5, 4, 3))),
    "nifti cine": Parser("x.nii", NIFTI, lambda f: save(f / "x.nii", noise(5, 4, 3, 2), affine((1, 2, 3)))),
    "nifti gzip": Parser("x.nii.gz", NIFTI, lambda f: save(f / "x.nii.gz", noise(5, 4, 3))),
    "nifti in gzip": Parser("x.nii.gz", NIFTI, lambda f: save(f / "x.nii.gz", noise(5, 4, 3)), inner=True),
    "nrrd": Parser("x.nrrd", ITK, lambda f: write_itk(f / "x.nrrd")),
    "nrrd gzip": Parser("x.nrrd", ITK, lambda f: write_itk(f / "x.nrrd", True)),
    "nrrd cine": Parser("x.nrrd", ITK, lambda f: write_itk(f / "x.nrrd", cine=True)),
    "nhdr": Parser("x.nhdr", ITK, lambda f: write_itk(f / "x.nhdr")),
    "mha": Parser("x.mha", ITK, lambda f: write_itk(f / "x.mha")),
    "mha zlib": Parser("x.mha", ITK, lambda f: write_itk(f / "x.mha", True)),
    "mha cine": Parser("x.mha", ITK, lambda f: write_itk(f / "x.mha", cine=True)),
    "mhd": Parser("x.mhd", ITK, lambda f: write_itk(f / "x.mhd")),
    "png": Parser("x.png", read_photo, lambda f: write_photo(f / "x.png")),
    "jpeg": Parser("x.jpg", read_photo, lambda f: write_photo(f / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")),
    "tiff": Parser("x.tif", read_photo, lambda f: write_photo(f / "x.tif")),
    "tiff lzw": Parser("x.tif", read_photo, lambda f: write_photo(f / "x.tif", compression="tiff_lzw"), noisy=True),
    "bmp": Parser("x.bmp", read_photo, lambda f: write_photo(f / "x.bmp")),
    "webp": Parser("x.webp", read_photo, lambda f: write_photo(f / "x.webp")),
    "dicom photo": Parser("x.dcm", read_photo, lambda f: write_dicom_photo(f / "x.dcm", None)),
    "dicom photo jpeg": Parser("x.dcm", read_photo, lambda f: write_dicom_photo(f / "x.dcm", "ybr")),
    "dicom": Parser("1.dcm", DICOM, lambda f: write_slices(f), folder=True),
    "dicom rle": Parser("1.dcm", DICOM, lambda f: write_slices(f, RLELossless), folder=True),
    "dicom jpeg 2000": Parser("1.dcm", DICOM, lambda f: write_slices(f, JPEG2000Lossless, 64), folder=True),
    "dicom jpeg-ls": Parser("1.dcm", DICOM, lambda f: write_slices(f, JPEGLSLossless), folder=True),
    "dicom enhanced": Parser("x.dcm", DICOM, lambda f: write_enhanced(f / "x.dcm")),
}


@cache
def extreme_bytes() -> st.SearchStrategy[bytes]:
    return st.sampled_from(extremes())


@st.composite
def changed(draw: st.DrawFn, good: bytes) -> bytes:
    """A few changes of a file, mostly in its header."""
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        last = max(len(content) - 1, 0)
        place = draw(st.integers(0, min(last, HEADER_BYTES)) | st.integers(0, last))
        kind = draw(st.sampled_from(("flip", "splice", "splice", "word", "word", "insert", "delete", "cut", "copy")))
        if kind == "flip" and content:
            content[place] ^= draw(st.integers(1, 255))
        elif kind == "splice":
            piece = draw(extreme_bytes())
            content[place : place + len(piece)] = piece
        elif kind == "word":
            replace_word(content, place, draw(st.sampled_from(WORDS)))
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=9))
        elif kind == "delete":
            del content[place : place + draw(st.integers(1, 40))]
        elif kind == "copy":
            content[place:place] = content[place : place + draw(st.integers(1, 40))]
        else:
            del content[place:]
    return bytes(content)


def replace_word(content: bytearray, place: int, word: bytes) -> None:
    """Replaces the word around a place, as text headers have them."""
    blanks = b" \n(),=:"
    start, end = place, place
    while start > 0 and content[start - 1] not in blanks and place - start < 20:
        start -= 1
    while end < len(content) and content[end] not in blanks and end - place < 20:
        end += 1
    content[start:end] = word


def assert_good(series: ImageSeries) -> None:
    image = series.image.numpy()
    assert image.size and np.isfinite(image).all()
    assert np.isfinite(series.affine).all() and abs(np.linalg.det(series.affine[:3, :3])) > 0
    if series.is_photo:
        assert image.ndim == 3 and image.shape[0] == 3 and image.dtype == np.uint8
    else:
        assert image.ndim == 4 and image.dtype == np.float32 and len(series.phases) == len(image)


@pytest.fixture
def watch(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], None]]:
    """A function that allows the next file ``HANG_SECONDS``; then the process ends and says where it was."""
    with capfd.disabled():
        terminal = os.dup(2)
    yield lambda: faulthandler.dump_traceback_later(HANG_SECONDS, exit=True, file=terminal)
    faulthandler.cancel_dump_traceback_later()
    os.close(terminal)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_nothing_but_refusals_comes_out(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], watch: Callable[[], None]
) -> None:
    parser = PARSERS[name]
    parser.make(tmp_path)
    path = tmp_path / parser.name
    target = tmp_path if parser.folder else path
    assert_good(parser.read(target))
    good = gzip.decompress(path.read_bytes()) if parser.inner else path.read_bytes()

    @settings(
        max_examples=EXAMPLES or 400,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(changed(good))
    def run(content: bytes) -> None:
        watch()
        path.write_bytes(gzip.compress(content, 1) if parser.inner else content)
        try:
            series = parser.read(target)
        except InputRefused as refusal:
            assert "\n" not in str(refusal)
        else:
            assert_good(series)
        assert capfd.readouterr() == ("", "") or parser.noisy

    run()


@pytest.mark.parametrize("name", PARSERS)
def test_random_bytes(name: str, tmp_path: Path) -> None:
    parser = PARSERS[name]
    path = tmp_path / parser.name
    for seed in range(8):
        path.write_bytes(np.random.default_rng(seed).bytes(2 ** (2 * seed)))
        with pytest.raises(InputRefused):
            parser.read(tmp_path if parser.folder else path)
