"""Limits: sizes are checked before anything is allocated, proven in a process that may not allocate."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from little_memory import read_in_little_memory
from nifti_files import save
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

from convformer_monai.errors import InputRefused
from convformer_monai.phantoms.dicom import save_dataset
from convformer_monai.phantoms.dicom_photo import photograph_dataset
from convformer_monai.readers.limits import (
    MAX_VOXELS,
    check_finite,
    check_spacing,
    check_voxels,
    inflated_size,
    read_capped,
)

MEMBER = gzip.compress(bytes(2**26), 9)  # 64 MiB in 64 KiB
MEMBERS = 24  # of them: 1.5 GiB
BELOW_LIMIT = (1024, 1024, 255)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that claims a size, with further chunks before its pixels."""
    plain = io.BytesIO()
    Image.new("RGB", (8, 8)).save(plain, "PNG")
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    result = plain.getvalue()[:8]
    for name, content in ((b"IHDR", size), *chunks):
        result += len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
    return result + plain.getvalue()[33:]


def nrrd(path: Path, sizes: tuple[int, ...], data: bytes, *, encoding: str = "gzip") -> None:
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkInt16), str(path), True)
    header = path.read_bytes().split(b"\n\n", 1)[0].decode()
    header = header.replace("sizes: 4 4 4", "sizes: " + " ".join(map(str, sizes)))
    path.write_bytes(header.replace("encoding: gzip", f"encoding: {encoding}").encode() + b"\n\n" + data)


def mha(path: Path, sizes: tuple[int, ...], data: bytes) -> None:
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkInt16), str(path), True)
    header = path.read_bytes().split(b"LOCAL\n", 1)[0].decode()
    header = header.replace("DimSize = 4 4 4", "DimSize = " + " ".join(map(str, sizes)))
    path.write_bytes(header.encode() + b"LOCAL\n" + data)


def good_files(folder: Path) -> list[Path]:
    folder.mkdir()
    save(folder / "x.nii.gz", np.zeros((4, 4, 4), np.int16))
    for ending in ("nrrd", "mha"):
        sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkInt16), str(folder / f"x.{ending}"), True)
    (folder / "x.png").write_bytes(png(8, 8))
    save_dataset(photograph_dataset(), folder / "x.dcm")
    save_dataset(photograph_dataset(), folder / "y.dcm", transfer_syntax=DeflatedExplicitVRLittleEndian)
    return sorted(folder.iterdir())


def bad_files(folder: Path) -> dict[Path, str]:
    """Files that would need gigabytes, and the code of their refusal."""
    folder.mkdir()
    small, dims = np.zeros((4, 4, 4), np.int16), [3, *BELOW_LIMIT, 1, 1, 1, 1]
    found: dict[Path, str] = {}

    def add(name: str, code: str) -> Path:
        found[folder / name] = code
        return folder / name

    save(add("huge.nii", "TOO_LARGE"), small, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    save(add("huge.nii.gz", "TOO_LARGE"), small, dim=[4, 30000, 30000, 3, 3, 1, 1, 1])
    save(add("claims.nii.gz", "NIFTI_UNREADABLE"), small, dim=dims)
    save(add("far.nii.gz", "NIFTI_UNREADABLE"), small, vox_offset=1e9)
    for name, fields in (("bomb.nii.gz", {}), ("far_bomb.nii.gz", {"vox_offset": 1e9})):
        path = save(add(name, "NIFTI_UNREADABLE"), small, **fields)
        path.write_bytes(path.read_bytes() + MEMBER * MEMBERS)
    extended = bytearray(gzip.decompress(path.read_bytes()[: -len(MEMBER) * MEMBERS]))
    extended[108:112] = np.float32(1e9).tobytes()
    extended[348:356] = b"\1\0\0\0" + (2**30).to_bytes(4, "little")  # a header extension of 1 GiB
    add("extension.nii.gz", "NIFTI_UNREADABLE").write_bytes(gzip.compress(bytes(extended)) + MEMBER * MEMBERS)
    bomb = zlib.compressobj(9)
    inflating = b"".join(bomb.compress(bytes(2**26)) for _ in range(8)) + bomb.flush()
    nrrd(add("huge.nrrd", "TOO_LARGE"), (30000, 30000, 30000), b"")
    nrrd(add("claims.nrrd", "ITK_UNREADABLE"), BELOW_LIMIT, MEMBER[:100])
    nrrd(add("claims_raw.nrrd", "ITK_UNREADABLE"), BELOW_LIMIT, b"", encoding="raw")
    nrrd(add("bomb.nrrd", "ITK_UNREADABLE"), (4, 4, 4), MEMBER * MEMBERS)
    mha(add("huge.mha", "TOO_LARGE"), (30000, 30000, 30000), b"")
    mha(add("claims.mha", "ITK_UNREADABLE"), BELOW_LIMIT, inflating[:30])
    mha(add("bomb.mha", "ITK_UNREADABLE"), (4, 4, 4), inflating)
    add("huge.png", "TOO_LARGE").write_bytes(png(30000, 30000))
    add("large.png", "TOO_LARGE").write_bytes(png(10001, 10000))
    add("profile.png", "PHOTO_UNREADABLE").write_bytes(png(8, 8, (b"iCCP", b"x\0\0" + inflating)))
    add("text.png", "PHOTO_UNREADABLE").write_bytes(png(8, 8, (b"zTXt", b"x\0\0" + inflating)))
    photo = photograph_dataset()
    photo.Rows = photo.Columns = 40000
    save_dataset(photo, add("huge.dcm", "TOO_LARGE"))
    photo = photograph_dataset()
    photo.PixelData = bytes(2**29)
    save_dataset(photo, add("deflated.dcm", "TOO_LARGE"), transfer_syntax=DeflatedExplicitVRLittleEndian)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS and /proc are Linux's")
def test_what_would_need_gigabytes_is_refused_in_little_memory(tmp_path: Path) -> None:
    good, bad = good_files(tmp_path / "good"), bad_files(tmp_path / "bad")
    found, expected = read_in_little_memory(good, bad), dict(bad)
    profile = tmp_path / "bad" / "profile.png"  # Pillow leaves a profile out that is too large to be one
    assert found.pop(profile) in ("read", expected.pop(profile))
    assert found == expected


def test_voxels() -> None:
    check_voxels((512, 512, 20, 30), "x")
    check_voxels((MAX_VOXELS, 1, 1), "x")
    for shape in ((MAX_VOXELS, 1, 2), (2**62, 2**62, 2**62)):  # no overflow
        with pytest.raises(InputRefused, match="TOO_LARGE"):
            check_voxels(shape, "x")
    for shape in ((4, 0, 4), (4, -4, -4)):
        with pytest.raises(InputRefused, match="DIMENSIONS"):
            check_voxels(shape, "x")


@pytest.mark.parametrize("wrong", [0.0, -1.0, 0.049, 20.1, np.nan, np.inf])
def test_spacing(wrong: float) -> None:
    check_spacing(np.array([0.05, 1, 20]), "x")
    with pytest.raises(InputRefused, match="SPACING"):
        check_spacing(np.array([1, wrong, 1]), "x")


def test_finite() -> None:
    check_finite(np.zeros((2, 2)), "x")
    with pytest.raises(InputRefused, match="holds 2 voxels"):
        check_finite(np.array([0, np.nan, -np.inf]), "x")


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:])]
)
def test_read_capped(tmp_path: Path, compress) -> None:
    data, path = bytes(range(256)) * 9, tmp_path / "x"
    path.write_bytes(compress(data))
    for count in (0, 1, 100, len(data), len(data) + 9):
        assert read_capped(path, count) == data[:count]


@pytest.mark.parametrize("compress", [zlib.compress, gzip.compress])
def test_inflated_size(compress) -> None:
    packed = compress(bytes(5000))
    assert inflated_size(io.BytesIO(packed + b"trailing"), 5000) == 5000
    assert inflated_size(io.BytesIO(packed), 4999) == 5000
    with pytest.raises(EOFError):
        inflated_size(io.BytesIO(packed[:-3]), 5000)
    with pytest.raises(zlib.error):
        inflated_size(io.BytesIO(packed[:-3] + b"abc"), 5000)
