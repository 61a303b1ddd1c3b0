"""The stamp of an image changes when its files do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convformer_monai.readers.file_stamp import file_stamp


def changed(path: Path, size: int = 0, seconds: float = 0.0) -> None:
    """Writes so many bytes more, or sets the time back."""
    state = path.stat()
    path.write_bytes(path.read_bytes() + b"x" * size)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns - int(seconds * 1e9)))


def test_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "x.nii"
    assert file_stamp(file) is None
    file.write_bytes(b"voxels")
    stamps = [file_stamp(file), file_stamp(file)]
    for size, seconds in ((1, 0.0), (0, 1000.0)):
        changed(file, size, seconds)
        stamps.append(file_stamp(file))
    assert stamps[0] == stamps[1] and len(set(stamps)) == 3 and None not in stamps


@pytest.mark.parametrize("changes", [{"size": 1}, {"seconds": 10.0}])
@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("x.mhd", "ObjectType = Image\nElementType = MET_SHORT\nElementDataFile = x.raw\n"),
        ("x.nhdr", "NRRD0004\r\ntype: short\r\ndata file: x.raw\r\n"),
        ("x.nrrd", "NRRD0004\ntype: short\ndatafile: x.raw\n\n"),
    ],
)
def test_of_a_header_is_that_of_its_voxels(tmp_path: Path, name: str, header: str, changes: dict) -> None:
    (tmp_path / name).write_bytes(header.encode())
    (tmp_path / "x.raw").write_bytes(b"voxels")
    before = file_stamp(tmp_path / name)
    (tmp_path / "y.raw").write_bytes(b"of another image")
    assert file_stamp(tmp_path / name) == before
    changed(tmp_path / "x.raw", **changes)
    assert file_stamp(tmp_path / name) not in (before, None)
    (tmp_path / "x.raw").unlink()
    assert file_stamp(tmp_path / name) is not None


def test_of_a_folder_is_that_of_all_files_but_the_results(tmp_path: Path) -> None:
    series, out = tmp_path / "series", tmp_path / "series" / "b" / "out"
    out.mkdir(parents=True)
    for name in ("1.dcm", "b/2.dcm"):
        (series / name).write_bytes(b"slice")
    before = file_stamp(series, out)
    (out / "x_seg.nii.gz").write_bytes(b"mask")
    assert file_stamp(series, out) == before != file_stamp(series)
    changed(series / "b" / "2.dcm", seconds=10.0)
    assert file_stamp(series, out) != before
    (tmp_path / "link").symlink_to(series)
    assert file_stamp(tmp_path / "link", out) == file_stamp(series, out)
    assert file_stamp(series, tmp_path) == file_stamp(series)
