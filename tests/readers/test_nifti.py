"""The NIfTI reader: what it refuses, and that it is exact in what it accepts."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import EnsureChannelFirst, LoadImage
from nifti_files import SHORT_AXIS, affine, save, trap

from convformer_monai.errors import InputRefused
from convformer_monai.readers import SeriesReader


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, (7, 6, 5)).astype(np.int16)


def read(path: Path) -> tuple[np.ndarray, dict]:
    reader = SeriesReader()
    return reader.get_data(reader.read(str(path)))


def refusal(path: Path) -> InputRefused:
    with pytest.raises(InputRefused) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return caught.value


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "ünï cödé.nii.gz"])
def test_volume_and_affine_are_exact(tmp_path: Path, volume: np.ndarray, name: str) -> None:
    matrix = affine((1.4, 1.2, 8.0), SHORT_AXIS)
    data, meta = read(save(tmp_path / name, volume, matrix))
    assert data.dtype == np.float32
    np.testing.assert_array_equal(data, volume)
    np.testing.assert_allclose(meta["affine"], matrix, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, ">i2", ">f4"])
def test_stored_type_does_not_matter(tmp_path: Path, volume: np.ndarray, dtype: str) -> None:
    values = (volume % 200).astype(dtype)
    data, _ = read(save(tmp_path / "x.nii.gz", values))
    np.testing.assert_array_equal(data, values.astype(np.float32))


def test_big_endian_file(tmp_path: Path, volume: np.ndarray) -> None:
    image = nib.Nifti1Image(volume, affine(), nib.Nifti1Header(endianness=">"))
    image.set_qform(affine(), code=1)
    nib.save(image, tmp_path / "x.nii.gz")
    data, meta = read(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(data, volume)
    np.testing.assert_allclose(meta["affine"], affine(), atol=1e-5)


def test_scale_is_applied(tmp_path: Path, volume: np.ndarray) -> None:
    path = save(tmp_path / "x.nii", volume, scl_slope=2.0, scl_inter=-100.0)
    np.testing.assert_allclose(read(path)[0], volume * 2.0 - 100.0)


def test_channels(tmp_path: Path, volume: np.ndarray) -> None:
    cine = np.stack([volume, volume + 1, volume + 2], axis=-1)
    load, first = LoadImage(reader="convformer_monai.readers.SeriesReader"), EnsureChannelFirst()
    assert first(load(save(tmp_path / "a.nii.gz", volume))).shape == (1, 7, 6, 5)
    assert first(load(save(tmp_path / "b.nii.gz", volume[..., None]))).shape == (1, 7, 6, 5)
    phases = first(load(save(tmp_path / "c.nii.gz", cine)))
    assert phases.shape == (3, 7, 6, 5)
    np.testing.assert_array_equal(phases.numpy()[1], volume + 1)


def test_sform_without_scale(tmp_path: Path, volume: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _, meta = read(trap(tmp_path / "x.nii.gz", volume))
    np.testing.assert_allclose(meta["affine"], np.diag([-1.68, -1.68, 5.0, 1.0]), atol=1e-6)
    assert "sform has no scale" in caplog.text and "pixdim" in caplog.text


def test_real_traps(data_dir: Path) -> None:
    folder = data_dir / "dicom" / "nifti_traps"
    for path in sorted(folder.glob("*.nii.gz")):
        _, meta = read(path)
        spacing = np.linalg.norm(meta["affine"][:3, :3], axis=0)
        np.testing.assert_allclose(spacing, nib.load(path).header["pixdim"][1:4], rtol=1e-6)
    labels, meta = read(folder / "acdc139_ED_gt.nii.gz")
    millilitres = (labels == 3).sum() * abs(np.linalg.det(meta["affine"][:3, :3])) / 1000
    assert 60 < millilitres < 400  # 1 mm voxels would make it 14 times smaller


@pytest.mark.parametrize(
    ("code", "shape", "dtype"),
    [
        ("DIMENSIONS", (8, 8), np.int16),
        ("DIMENSIONS", (4, 4, 4, 1, 3), np.int16),
        ("DIMENSIONS", (4, 4, 4, 2, 2), np.int16),
        ("DATA_TYPE", (4, 4, 4), np.complex64),
        ("DATA_TYPE", (4, 4, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])),
    ],
)
def test_refuses_what_is_no_volume(tmp_path: Path, code: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    assert refusal(save(tmp_path / "x.nii.gz", np.zeros(shape, dtype))).code == code


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_non_finite_voxels(tmp_path: Path, value: float) -> None:
    data = np.zeros((4, 4, 4), np.float32)
    data[1, 2, 3] = value
    assert refusal(save(tmp_path / "x.nii.gz", data)).code == "NOT_FINITE"


def test_refuses_values_beyond_float32(tmp_path: Path) -> None:
    assert refusal(save(tmp_path / "x.nii.gz", np.full((4, 4, 4), 1e300))).code == "NOT_FINITE"


@pytest.mark.parametrize("spacing", [(0.01, 1.0, 8.0), (1.0, 25.0, 8.0), (1.0, 1.0, 30.0)])
def test_refuses_implausible_spacing(tmp_path: Path, volume: np.ndarray, spacing: tuple[float, ...]) -> None:
    assert refusal(save(tmp_path / "x.nii.gz", volume, affine(spacing))).code == "SPACING"


@pytest.mark.parametrize("codes", [{}, {"qform_code": 0}, {"sform_code": 0}])
@pytest.mark.parametrize("value", [0.0, -1.4, np.nan, np.inf])
def test_refuses_broken_pixdim(tmp_path: Path, volume: np.ndarray, value: float, codes: dict) -> None:
    path = save(tmp_path / "x.nii.gz", volume, pixdim=[1, value, 1.4, 8, 0, 0, 0, 0], **codes)
    assert refusal(path).code == "SPACING"


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("NO_GEOMETRY", {"qform_code": 0, "sform_code": 0}),
        ("AFFINE", {"srow_x": [0, 0, 0, 0], "qform_code": 0}),
        ("AFFINE", {"srow_x": [np.nan, 0, 0, 0]}),
        ("AFFINE", {"quatern_b": 0.9, "quatern_c": 0.9, "sform_code": 0}),
        ("AFFINE", {"quatern_b": np.nan, "sform_code": 0}),
        ("GEOMETRY_DISAGREES", {"qoffset_x": 80.0}),
        ("GEOMETRY_DISAGREES", {"quatern_d": 0.3}),
        ("GEOMETRY_DISAGREES", {"srow_x": [-2.0, 0, 0, 40], "qform_code": 0}),
        ("GEOMETRY_DISAGREES", {"srow_x": [-1, 0, 0, 0], "srow_y": [0, -1, 0, 0], "srow_z": [0, 0, 1, 0]}),
        ("UNITS", {"xyzt_units": 1}),
        ("UNITS", {"xyzt_units": 3}),
    ],
)
def test_refuses_untrustworthy_geometry(tmp_path: Path, volume: np.ndarray, code: str, fields: dict) -> None:
    assert refusal(save(tmp_path / "x.nii.gz", volume, **fields)).code == code


def test_either_code_alone_is_enough(tmp_path: Path, volume: np.ndarray) -> None:
    for name in ("qform_code", "sform_code"):
        _, meta = read(save(tmp_path / "x.nii.gz", volume, affine((1.4, 1.4, 8.0), SHORT_AXIS), **{name: 0}))
        np.testing.assert_allclose(meta["affine"], affine((1.4, 1.4, 8.0), SHORT_AXIS), atol=1e-4)


def test_small_rounding_between_qform_and_sform_is_accepted(tmp_path: Path, volume: np.ndarray) -> None:
    read(save(tmp_path / "x.nii.gz", volume, qoffset_x=40.2))


def test_refuses_files_that_are_none(tmp_path: Path, volume: np.ndarray) -> None:
    assert refusal(tmp_path / "missing.nii.gz").code == "FILE_NOT_FOUND"
    assert refusal(tmp_path).code == "EMPTY_FOLDER"
    (tmp_path / "x.png").write_bytes(b"x")
    assert refusal(tmp_path / "x.png").code == "NOT_PHOTO"
    for content in (b"", b"not NIfTI at all" * 100, gzip.compress(b"not NIfTI at all" * 100)):
        for name in ("x.nii", "x.nii.gz"):
            (tmp_path / name).write_bytes(content)
            assert refusal(tmp_path / name).code in ("NIFTI_UNREADABLE", "NOT_NIFTI")


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_refuses_truncated_files(tmp_path: Path, volume: np.ndarray, name: str) -> None:
    path = save(tmp_path / name, volume)
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(path).code == "NIFTI_UNREADABLE"


def test_refuses_corrupt_compression(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz", np.random.default_rng(0).integers(0, 999, (64, 64, 9)).astype(np.int16))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 64] = bytes(64)
    path.write_bytes(bytes(raw))
    assert refusal(path).code == "NIFTI_UNREADABLE"


def test_size_is_checked_before_the_voxels_are_read(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", np.zeros((4, 4, 4), np.int16), dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    assert refusal(path).code == "TOO_LARGE"


def test_several_files_are_no_volume(tmp_path: Path, volume: np.ndarray) -> None:
    reader = SeriesReader()
    files = [save(tmp_path / name, volume) for name in ("a.nii", "b.nii")]
    with pytest.raises(InputRefused, match="SEVERAL_FILES"):
        reader.get_data(reader.read(files))


def test_monai_cannot_fall_back_to_another_reader(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz", np.full((4, 4, 4), np.nan, np.float32))
    with pytest.raises(InputRefused):
        LoadImage(reader="convformer_monai.readers.SeriesReader")(path)


def test_metadata_hold_no_free_text(tmp_path: Path, volume: np.ndarray) -> None:
    path = save(tmp_path / "x.nii.gz", volume, descrip=b"DOE^JANE", aux_file=b"DOE^JANE", intent_name=b"DOE^JANE")
    assert "DOE" not in repr(read(path)[1])
