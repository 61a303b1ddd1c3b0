"""DICOM that would need gigabytes: refused in a process that may not allocate them."""

import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from dicom_checks import OBLIQUE
from little_memory import read_in_little_memory
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from convformer_monai.phantoms.dicom import linear_enhanced, linear_series, save_dataset, save_series

BOMB_BYTES = 2**30


def huge_slices(folder: Path) -> Path:
    series = linear_series(OBLIQUE)
    for dataset in series:
        dataset.Rows = dataset.Columns = 65535
    save_series(series, folder)
    return folder


def huge_slice(folder: Path) -> Path:
    """Within the limit of a series, but the pixels are not there."""
    series = linear_series(OBLIQUE)
    series[3].Rows = series[3].Columns = 15000
    save_series(series, folder)
    return folder


def many_frames(folder: Path) -> Path:
    dataset = linear_enhanced(OBLIQUE)
    dataset.NumberOfFrames = 2**31 - 1
    return save_dataset(dataset, folder / "enhanced.dcm")


def huge_frames(folder: Path) -> Path:
    dataset = linear_enhanced(OBLIQUE)
    dataset.Rows = dataset.Columns = 65535
    return save_dataset(dataset, folder / "enhanced.dcm")


def deflated(folder: Path, tag: int) -> Path:
    """One element grows to a gigabyte when inflated."""
    dataset = linear_series(OBLIQUE)[0]
    path = save_dataset(dataset, folder / "deflated.dcm", transfer_syntax=DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    meta_end = 132 + 12 + int.from_bytes(content[140:144], "little")
    before, after = Dataset(), Dataset()
    for element in dataset:
        if element.tag != tag:
            (before if element.tag < tag else after).add(element)
    header = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"OB", 0, BOMB_BYTES)
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = bytes(2**24)
    with path.open("wb") as file:
        file.write(content[:meta_end])
        file.write(packer.compress(explicit(before) + header))
        for _ in range(BOMB_BYTES // len(block)):
            file.write(packer.compress(block))
        file.write(packer.compress(explicit(after)) + packer.flush())
    assert path.stat().st_size < 2**24
    return path


def explicit(dataset: Dataset) -> bytes:
    """The dataset's elements, explicit VR little-endian."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def codestream(folder: Path, syntax: UID, patch: Callable[[bytearray], None]) -> Path:
    """The header is as it was, but the compressed pixels claim to be huge."""
    dataset = linear_series(OBLIQUE)[0]
    path = save_dataset(dataset, folder / "compressed.dcm", transfer_syntax=syntax)
    encoded = dcmread(path)
    stream = bytearray(next(generate_frames(encoded.PixelData, number_of_frames=1)))
    patch(stream)
    encoded.PixelData = encapsulate([bytes(stream)])
    encoded["PixelData"].is_undefined_length = True
    return save_dataset(encoded, path)


def patch_jpeg_2000(stream: bytearray) -> None:
    size = stream.index(b"\xff\x51") + 6  # Xsiz, Ysiz; the size of tiles comes after two offsets
    for place in (size, size + 4, size + 16, size + 20):
        stream[place : place + 4] = (60000).to_bytes(4, "big")


def patch_jpeg(stream: bytearray, marker: bytes) -> None:
    size = stream.index(marker) + 5
    stream[size : size + 4] = b"\xff\x00\xff\x00"


def nested(folder: Path) -> Path:
    """Sequences in sequences, more than any stack holds."""
    path = save_series(linear_series(OBLIQUE)[:1], folder)[0]
    content = path.read_bytes()
    meta_end = 132 + 12 + int.from_bytes(content[140:144], "little")
    level = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(content[:meta_end] + 100_000 * level + content[meta_end:])
    return path


def many_files(folder: Path) -> Path:
    path = save_series(linear_series(OBLIQUE)[:1], folder)[0]
    for number in range(20_001):
        os.link(path, folder / f"{number}.dcm")
    return folder


BOMBS: dict[str, tuple[Callable[[Path], Path], set[str]]] = {
    "huge slices": (huge_slices, {"TOO_LARGE"}),
    "huge slice": (huge_slice, {"TRUNCATED", "GEOMETRY_DISAGREES"}),
    "many frames": (many_frames, {"TOO_LARGE", "NO_GEOMETRY"}),
    "huge frames": (huge_frames, {"TOO_LARGE"}),
    "deflated pixels": (lambda folder: deflated(folder, 0x7FE00010), {"TOO_LARGE"}),
    "deflated header": (lambda folder: deflated(folder, 0x00091010), {"TOO_LARGE"}),
    "JPEG 2000": (lambda folder: codestream(folder, JPEG2000Lossless, patch_jpeg_2000), {"DICOM_UNREADABLE"}),
    "JPEG": (
        lambda folder: codestream(folder, JPEGLosslessSV1, lambda stream: patch_jpeg(stream, b"\xff\xc3")),
        {"DICOM_UNREADABLE"},
    ),
    "JPEG-LS": (
        lambda folder: codestream(folder, JPEGLSLossless, lambda stream: patch_jpeg(stream, b"\xff\xf7")),
        {"DICOM_UNREADABLE"},
    ),
    "nested": (nested, {"DICOM_UNREADABLE", "TOO_LARGE"}),
    "many files": (many_files, {"TOO_MANY_FILES"}),
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space as Linux does")
def test_what_would_need_gigabytes_is_refused_in_little_memory(tmp_path: Path) -> None:
    bad = {}
    for name, (make, _) in BOMBS.items():
        folder = tmp_path / name
        folder.mkdir()
        bad[name] = make(folder)
    good = []
    for syntax in (DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless):
        good.append(tmp_path / "good" / syntax.keyword)
        save_series(linear_series(OBLIQUE), good[-1], transfer_syntax=syntax)
    codes = read_in_little_memory(good, bad.values())
    wrong = {name: codes[path] for name, path in bad.items() if codes[path] not in BOMBS[name][1]}
    assert not wrong
