"""NRRD and MetaImage: geometry and values as SimpleITK gives them, and what it would accept silently is refused."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nifti_files import SHORT_AXIS, affine

from convformer_monai.errors import InputRefused
from convformer_monai.readers.itk_formats import read_itk

ENDINGS = ("nrrd", "nhdr", "mha", "mhd")
VALUES = np.arange(2 * 3 * 4, dtype="<i2")  # (4, 3, 2), X fastest
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
NRRD = {
    "type": "short",
    "dimension": "3",
    "sizes": "4 3 2",
    "endian": "little",
    "encoding": "raw",
    "space": "left-posterior-superior",
    "space directions": "(2,0,0) (0,3,0) (0,0,4)",
    "space origin": "(10,20,30)",
}
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "10 20 30",
    "ElementSpacing": "2 3 4",
    "DimSize": "4 3 2",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}


def oblique(dimension: int = 3) -> sitk.Image:
    shape = (3, 4, 5) if dimension == 3 else (2, 3, 4, 5)
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-999, 999, shape).astype(np.int16), False)
    directions = np.eye(dimension)
    directions[:3, :3] = (LPS_TO_RAS @ affine((1, 1, 1), SHORT_AXIS))[:3, :3]
    image.SetDirection(directions.ravel().tolist())
    image.SetSpacing([0.7, 1.3, 8.0, 40.0][:dimension])
    image.SetOrigin([-31.5, 12.25, 99.0, 0.0][:dimension])
    return image


def nrrd(path: Path, changes: dict[str, str | None] | None = None, data: bytes = VALUES.tobytes()) -> Path:
    fields = {**NRRD, **(changes or {})}
    lines = [f"{key}: {value}\n" for key, value in fields.items() if value is not None]
    path.write_bytes(("NRRD0005\n" + "".join(lines) + "\n").encode() + data)
    return path


def meta(path: Path, changes: dict[str, str | None] | None = None, data: bytes = VALUES.tobytes()) -> Path:
    fields = {**META, **(changes or {})}
    last = fields.pop("ElementDataFile")
    lines = [f"{key} = {value}\n" for key, value in fields.items() if value is not None]
    path.write_bytes(("".join(lines) + f"ElementDataFile = {last}\n").encode() + data)
    return path


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(InputRefused) as caught:
        read_itk(path, **options)
    assert "\n" not in str(caught.value) and str(path) in caught.value.message
    return caught.value.code


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_voxel_is_where_simpleitk_puts_it(tmp_path: Path, ending: str, compressed: bool) -> None:
    image, path = oblique(), tmp_path / f"ünï cödé.{ending}"
    sitk.WriteImage(image, str(path), compressed)
    series = read_itk(path)
    assert series.image.shape == (1, 5, 4, 3) and (series.format, series.phases) == ("itk", (0,))
    np.testing.assert_array_equal(series.image.numpy()[0], sitk.GetArrayViewFromImage(image).T)
    for index in ((0, 0, 0), (4, 0, 0), (0, 3, 0), (4, 3, 2)):
        place = LPS_TO_RAS[:3, :3] @ image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((series.affine @ (*index, 1))[:3], place, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ending", ENDINGS)
def test_cine(tmp_path: Path, ending: str) -> None:
    image, path = oblique(4), tmp_path / f"x.{ending}"
    sitk.WriteImage(image, str(path))
    assert refusal(path) == "SEVERAL_PHASES"
    values = sitk.GetArrayFromImage(image).transpose(0, 3, 2, 1)
    np.testing.assert_array_equal(read_itk(path, phase="all").image.numpy(), values)
    np.testing.assert_array_equal(read_itk(path, phase=1).image.numpy(), values[1:])


@pytest.mark.parametrize(
    ("space", "signs"),
    [("LPS", (-1, -1, 1)), ("RAS", (1, 1, 1)), ("LAS", (-1, 1, 1)), ("left-anterior-superior", (-1, 1, 1))],
)
def test_nrrd_spaces(tmp_path: Path, space: str, signs: tuple[int, ...]) -> None:
    series = read_itk(nrrd(tmp_path / "x.nrrd", {"space": space}))
    expected = np.diag([*signs, 1]) @ np.array([[2, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(series.affine, expected)
    np.testing.assert_array_equal(series.image.numpy()[0], VALUES.reshape(2, 3, 4).T)


def test_sheared_nrrd_is_kept(tmp_path: Path) -> None:
    series = read_itk(nrrd(tmp_path / "x.nrrd", {"space directions": "(2,0,0) (0,3,0) (0,1.5,4)"}))
    np.testing.assert_allclose(series.affine[:3, 2], (0, -1.5, 4))


def test_nrrd_comments_and_key_values_pass(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "x.nrrd", {"# c": "DOE^JANE", "content": "DOE^JANE", "k:=DOE^JANE:": ""})
    assert "DOE" not in repr(read_itk(path))


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("NO_GEOMETRY", {"space": None}),
        ("NO_GEOMETRY", {"space": None, "space dimension": "3"}),
        ("NO_GEOMETRY", {"space": "scanner-xyz"}),
        ("NO_GEOMETRY", {"space": "right-anterior-superior-time"}),
        ("NO_GEOMETRY", {"space directions": None}),
        ("NO_GEOMETRY", {"space directions": None, "spacings": "2 3 4"}),
        ("NO_GEOMETRY", {"space directions": "none (0,3,0) (0,0,4)"}),
        ("NO_GEOMETRY", {"space origin": None}),
        ("AFFINE", {"space directions": "(nan,0,0) (0,3,0) (0,0,4)"}),
        ("AFFINE", {"space directions": "(2,0,0) (2,0,0) (0,0,4)"}),
        ("AFFINE", {"space origin": "(1e300,0,0)"}),
        ("SPACING", {"space directions": "(0,0,0) (0,3,0) (0,0,4)"}),
        ("SPACING", {"space directions": "(0.01,0,0) (0,3,0) (0,0,4)"}),
        ("SPACING", {"space directions": "(2,0,0) (0,3,0) (0,0,44)"}),
        ("UNITS", {"space units": '"um" "um" "um"'}),
        ("DATA_TYPE", {"type": "block"}),
        ("DATA_TYPE", {"kinds": "vector domain domain"}),
        ("DIMENSIONS", {"dimension": "2", "sizes": "4 6"}),
        ("DIMENSIONS", {"sizes": "4 3 0"}),
        ("TOO_LARGE", {"sizes": "40000 40000 40000"}),
        ("ITK_UNREADABLE", {"sizes": "4 3 -2"}),
        ("ITK_UNREADABLE", {"encoding": "hex"}),
        ("ITK_UNREADABLE", {"byte skip": "-1"}),
        ("ITK_UNREADABLE", {"line skip": "2"}),
        ("ITK_UNREADABLE", {"sizes": "4 3 3"}),
        ("DATA_FILE", {"data file": "../x.raw"}),
        ("DATA_FILE", {"data file": "/etc/passwd"}),
        ("DATA_FILE", {"data file": "LIST"}),
        ("DATA_FILE", {"data file": "x%03d.raw 1 3 1"}),
        ("DATA_FILE", {"data file": "missing.raw"}),
    ],
)
def test_refused_nrrd(tmp_path: Path, code: str, changes: dict[str, str | None]) -> None:
    assert refusal(nrrd(tmp_path / "x.nrrd", changes)) == code


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("NO_GEOMETRY", {"ElementSpacing": None}),
        ("NO_GEOMETRY", {"TransformMatrix": None}),
        ("NO_GEOMETRY", {"Offset": None}),
        ("NO_GEOMETRY", {"Position": "1 2 3"}),
        ("AFFINE", {"TransformMatrix": "1 0 0 0 1 0 0 0 nan"}),
        ("AFFINE", {"TransformMatrix": "1 0 0 1 0 0 0 0 1"}),
        ("AFFINE", {"TransformMatrix": "1 0 0 0 1 0 0 0.35 0.94"}),
        ("AFFINE", {"TransformMatrix": "2 0 0 0 2 0 0 0 2"}),
        ("SPACING", {"ElementSpacing": "0 3 4"}),
        ("SPACING", {"ElementSpacing": "-2 3 4"}),
        ("SPACING", {"ElementSpacing": "2 3 40"}),
        ("UNITS", {"DistanceUnits": "um"}),
        ("DATA_TYPE", {"ElementNumberOfChannels": "3"}),
        ("DATA_TYPE", {"ElementType": "MET_SHORT_ARRAY"}),
        ("DIMENSIONS", {"NDims": "2", "DimSize": "4 6"}),
        ("TOO_LARGE", {"DimSize": "40000 40000 40000"}),
        ("ITK_UNREADABLE", {"NDims": "4294967297"}),
        ("ITK_UNREADABLE", {"DimSize": "4 3 3"}),
        ("ITK_UNREADABLE", {"BinaryData": "False"}),
        ("ITK_UNREADABLE", {"HeaderSize": "-1"}),
        ("ITK_UNREADABLE", {"ObjectType": "Tube"}),
        ("ITK_UNREADABLE", {"NewField": "1"}),
        ("ITK_UNREADABLE", {"ElementSpacing": None, "elementSpacing": "2 3 4"}),
        ("ITK_UNREADABLE", {"CompressedData": "True"}),
        ("ITK_UNREADABLE", {"CompressedData": "True", "CompressedDataSize": "99999999999"}),
        ("DATA_FILE", {"ElementDataFile": "../x.raw"}),
        ("DATA_FILE", {"ElementDataFile": "LIST"}),
        ("DATA_FILE", {"ElementDataFile": "LoCAL"}),
        ("DATA_FILE", {"ElementDataFile": "missing.raw"}),
    ],
)
def test_refused_metaimage(tmp_path: Path, code: str, changes: dict[str, str | None]) -> None:
    assert refusal(meta(tmp_path / "x.mha", changes)) == code


def test_the_files_that_are_changed_above_are_good(tmp_path: Path) -> None:
    for path in (nrrd(tmp_path / "x.nrrd"), meta(tmp_path / "x.mha")):
        series = read_itk(path)
        np.testing.assert_array_equal(series.image.numpy()[0], VALUES.reshape(2, 3, 4).T)
        np.testing.assert_allclose(series.affine, LPS_TO_RAS @ np.array(
            [[2, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1.0]]
        ))  # fmt: skip


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.raw").write_bytes(VALUES.tobytes())
    (tmp_path / "inside" / "x.raw").symlink_to(tmp_path / "secret.raw")
    assert refusal(nrrd(tmp_path / "inside" / "x.nhdr", {"data file": "x.raw"}, b"")) == "DATA_FILE"
    assert refusal(meta(tmp_path / "inside" / "x.mhd", {"ElementDataFile": "x.raw"}, b"")) == "DATA_FILE"


@pytest.mark.parametrize("ending", ENDINGS)
def test_vectors_and_slices_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorInt16, 3), str(path))
    assert refusal(path) in ("DATA_TYPE", "NO_GEOMETRY")
    sitk.WriteImage(sitk.Image([4, 4], sitk.sitkInt16), str(path))
    assert refusal(path) == "DIMENSIONS"


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_files_are_refused_in_silence(
    tmp_path: Path, ending: str, compressed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"x.{ending}"
    sitk.WriteImage(oblique(), str(path), compressed)
    holder = next((file for file in tmp_path.iterdir() if "raw" in file.suffix), path)
    holder.write_bytes(holder.read_bytes()[:-9])
    assert refusal(path) == "ITK_UNREADABLE"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", ["0", "30", None, "-1", "9" * 15])
def test_wrong_compressed_size_is_refused(tmp_path: Path, size: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    """ITK would read no more than that, and make up the other voxels."""
    packed = zlib.compress(VALUES.tobytes())
    good = meta(tmp_path / "x.mha", {"CompressedData": "True", "CompressedDataSize": str(len(packed))}, packed)
    np.testing.assert_array_equal(read_itk(good).image.numpy()[0], VALUES.reshape(2, 3, 4).T)
    bad = meta(tmp_path / "y.mha", {"CompressedData": "True", "CompressedDataSize": size}, packed)
    assert refusal(bad) == "ITK_UNREADABLE"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_non_finite_voxels(tmp_path: Path, value: float) -> None:
    data = np.full(24, value, "<f4").tobytes()
    assert refusal(nrrd(tmp_path / "x.nrrd", {"type": "float"}, data)) == "NOT_FINITE"


def test_refuses_files_that_are_none(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing.nrrd") == "FILE_NOT_FOUND"
    assert refusal(tmp_path) == "FILE_NOT_FOUND"
    for ending in ENDINGS:
        for content in (b"", b"not an image" * 99, gzip.compress(b"x" * 99), b"NRRD0005\n\n"):
            (tmp_path / f"x.{ending}").write_bytes(content)
            assert refusal(tmp_path / f"x.{ending}") in ("ITK_UNREADABLE", "DIMENSIONS")
    (tmp_path / "x.vtk").write_bytes(b"x")
    assert refusal(tmp_path / "x.vtk") == "NOT_ITK"
