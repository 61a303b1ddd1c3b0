"""Images in memory and back: each voxel stays at its place, through nibabel, SimpleITK, itk and MetaTensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from nifti_files import SHORT_AXIS, affine

from convformer_monai.errors import InputRefused
from convformer_monai.readers.memory import like, series_from

itk = pytest.importorskip("itk")

GRIDS = {
    "oblique": affine((0.7, 1.3, 8.0), SHORT_AXIS),
    "anisotropic": affine((0.5, 2.0, 10.0)),
    "flipped": np.array([[0, 0, 5.0, -9], [1.5, 0, 0, 8], [0, -1.5, 0, 7], [0, 0, 0, 1]]),
}
LPS = np.diag([-1.0, -1.0, 1.0])
CORNERS = [(0, 0, 0), (6, 0, 0), (0, 4, 0), (0, 0, 3), (6, 4, 3)]


def volume(phases: int = 1) -> np.ndarray:
    """(phases, X, Y, Z)."""
    return np.random.default_rng(0).integers(-999, 999, (phases, 7, 5, 4)).astype(np.int16)


def cine_axes(directions: np.ndarray, n: int) -> np.ndarray:
    result = np.eye(n)
    result[:3, :3] = directions
    return result


def to_nibabel(data: np.ndarray, matrix: np.ndarray) -> nib.Nifti1Image:
    image = nib.Nifti1Image(data[0] if len(data) == 1 else np.moveaxis(data, 0, -1), matrix)
    image.set_qform(matrix, code=1)
    image.set_sform(matrix, code=3)
    return image


def to_itk(library: Any) -> Callable[[np.ndarray, np.ndarray], Any]:
    def make(data: np.ndarray, matrix: np.ndarray) -> Any:
        values = np.ascontiguousarray(data.transpose(0, 3, 2, 1)[0 if len(data) == 1 else slice(None)])
        image = library.GetImageFromArray(values, False) if library is sitk else library.image_from_array(values)
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        directions = cine_axes(LPS @ matrix[:3, :3] / spacing, values.ndim)
        extra = values.ndim - 3
        image.SetSpacing([*map(float, spacing), *[40.0] * extra])
        image.SetOrigin([*map(float, LPS @ matrix[:3, 3]), *[0.0] * extra])
        image.SetDirection(directions.ravel().tolist() if library is sitk else itk.matrix_from_array(directions))
        return image

    return make


def to_meta_tensor(data: np.ndarray, matrix: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(data.astype(np.float32)), affine=torch.from_numpy(matrix))


def place(image: Any, index: tuple[int, int, int]) -> np.ndarray:
    """Where the library itself says that a voxel lies, RAS mm."""
    if isinstance(image, nib.Nifti1Image | MetaTensor):
        return (np.asarray(image.affine) @ (*index, 1))[:3]
    n = image.GetImageDimension() if hasattr(image, "GetImageDimension") else image.GetDimension()
    return LPS @ np.array(list(image.TransformIndexToPhysicalPoint([*index, *[0] * (n - 3)])))[:3]


def values(image: Any) -> np.ndarray:
    """([phases,] X, Y, Z)."""
    if isinstance(image, nib.Nifti1Image):
        data = np.asanyarray(image.dataobj)
        return np.moveaxis(data, -1, 0) if data.ndim == 4 else data
    if isinstance(image, MetaTensor):
        return image.numpy()
    data = sitk.GetArrayFromImage(image) if isinstance(image, sitk.Image) else itk.array_from_image(image)
    return np.moveaxis(data, (-3, -2, -1), (-1, -2, -3))


KINDS = {"nibabel": to_nibabel, "SimpleITK": to_itk(sitk), "itk": to_itk(itk), "MetaTensor": to_meta_tensor}


@pytest.mark.parametrize("phases", [1, 3])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, grid: str, phases: int) -> None:
    data = volume(phases)
    image = KINDS[kind](data, GRIDS[grid])
    series = series_from(image)
    assert series.format == "memory" and series.phases == tuple(range(phases)) and series.image.dtype == torch.float32
    np.testing.assert_array_equal(series.image.numpy(), data)
    for index in CORNERS:
        np.testing.assert_allclose((series.affine @ (*index, 1))[:3], place(image, index), rtol=1e-6, atol=1e-5)
    labels = (np.abs(data) % 4).astype(np.uint8)
    mask = like(image, labels)
    assert type(mask).__module__.split(".")[0] == type(image).__module__.split(".")[0]
    np.testing.assert_array_equal(values(mask).reshape(labels.shape), labels)
    assert values(mask).dtype == np.uint8 and values(mask).shape == values(image).shape
    for index in CORNERS:
        np.testing.assert_allclose(place(mask, index), place(image, index), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_one_phase_of_several(kind: str) -> None:
    data = volume(3)
    image = KINDS[kind](data, GRIDS["oblique"])
    np.testing.assert_array_equal(series_from(image, phase=1).image.numpy(), data[1:2])
    mask = like(image, np.ones((1, 7, 5, 4), np.uint8))
    assert values(mask).size == 7 * 5 * 4
    np.testing.assert_allclose(place(mask, (6, 4, 3)), place(image, (6, 4, 3)), rtol=1e-12)
    with pytest.raises(InputRefused, match="SEVERAL_PHASES"):
        series_from(image, phase=None)


def test_itk_and_simpleitk_copy_geometry_exactly() -> None:
    for kind in ("SimpleITK", "itk"):
        image = KINDS[kind](volume(), GRIDS["oblique"])
        mask = like(image, np.zeros((1, 7, 5, 4), np.uint8))
        for name in ("GetOrigin", "GetSpacing", "GetDirection"):
            first, second = getattr(mask, name)(), getattr(image, name)()
            if kind == "itk" and name == "GetDirection":
                first, second = itk.array_from_matrix(first), itk.array_from_matrix(second)
            np.testing.assert_array_equal(np.asarray(first), np.asarray(second))


def test_nifti_header_geometry_is_copied_and_nothing_else() -> None:
    image = to_nibabel(volume(), GRIDS["oblique"])
    image.header["descrip"] = b"DOE^JANE"
    mask = like(image, np.zeros((1, 7, 5, 4), np.uint8))
    for name in ("pixdim", "qform_code", "sform_code", "srow_x", "quatern_b", "qoffset_z"):
        np.testing.assert_array_equal(mask.header[name], image.header[name])
    assert "DOE" not in str(mask.header) and "DOE" not in repr(series_from(image))


def test_sform_without_scale_in_memory() -> None:
    image = nib.Nifti1Image(volume()[0], np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.header["pixdim"][1:4] = 1.68, 1.68, 5.0
    series = series_from(image)
    np.testing.assert_allclose(series.affine, np.diag([-1.68, -1.68, 5, 1]), atol=1e-6)
    assert "pixdim" in series.warnings[0]
    mask = like(image, np.zeros((1, 7, 5, 4), np.uint8))
    np.testing.assert_array_equal(mask.header["pixdim"], image.header["pixdim"])
    np.testing.assert_array_equal(mask.affine, image.affine)


def test_scale_of_the_input_is_not_on_the_mask(tmp_path: Path) -> None:
    image = to_nibabel(volume(), GRIDS["oblique"])
    image.header.set_slope_inter(2.0, -7.0)
    labels = np.full((1, 7, 5, 4), 3, np.uint8)
    nib.save(like(image, labels), tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(nib.load(tmp_path / "x.nii.gz").get_fdata(), labels[0])


def test_other_nibabel_images() -> None:
    image = nib.MGHImage(volume()[0].astype(np.float32), GRIDS["oblique"])
    np.testing.assert_allclose(series_from(image).affine, GRIDS["oblique"], atol=1e-4)
    assert np.array_equal(like(image, np.zeros((1, 7, 5, 4), np.uint8)).affine, image.affine)


def test_itk_image_whose_first_index_is_not_zero() -> None:
    """As ITK's ExtractImageFilter leaves it."""
    image = KINDS["itk"](volume(), GRIDS["oblique"])
    region = image.GetLargestPossibleRegion()
    region.SetIndex([3, 2, 1])
    image.SetRegions(region)
    first = LPS @ np.array(list(image.TransformIndexToPhysicalPoint([3, 2, 1])))
    np.testing.assert_allclose(series_from(image).affine[:3, 3], first)
    np.testing.assert_allclose(place(like(image, np.zeros((1, 7, 5, 4), np.uint8)), (0, 0, 0)), first)


def test_truncated_file_behind_an_image(tmp_path: Path) -> None:
    nib.save(to_nibabel(volume(), GRIDS["oblique"]), tmp_path / "x.nii")
    content = (tmp_path / "x.nii").read_bytes()
    (tmp_path / "x.nii").write_bytes(content[:-60])
    with pytest.raises(InputRefused, match="NIFTI_UNREADABLE"):
        series_from(nib.load(tmp_path / "x.nii"))


def test_volume_without_phase_axis() -> None:
    image = MetaTensor(torch.from_numpy(volume()[0]), affine=torch.from_numpy(GRIDS["oblique"]))
    assert series_from(image).image.shape == (1, 7, 5, 4)
    assert like(image, np.zeros((1, 7, 5, 4), np.uint8)).shape == (7, 5, 4)


@pytest.mark.parametrize(
    ("code", "image"),
    [
        ("DIMENSIONS", lambda: sitk.Image(4, 4, sitk.sitkInt16)),
        ("DIMENSIONS", lambda: itk.image_from_array(np.zeros((4, 4), np.int16))),
        ("DIMENSIONS", lambda: MetaTensor(torch.zeros(4, 4))),
        ("DATA_TYPE", lambda: sitk.Image([4, 4, 4], sitk.sitkVectorInt16, 3)),
        ("DATA_TYPE", lambda: itk.image_from_array(np.zeros((4, 4, 4, 3), np.uint8), is_vector=True)),
        ("DATA_TYPE", lambda: MetaTensor(torch.zeros(4, 4, 4, dtype=torch.complex64))),
        ("DATA_TYPE", lambda: MetaTensor(torch.zeros(4, 4, 4, dtype=torch.bool))),
        ("DATA_TYPE", lambda: nib.Nifti1Image(np.zeros((4, 4, 4), np.complex64), np.eye(4))),
        ("NOT_FINITE", lambda: MetaTensor(torch.full((4, 4, 4), torch.nan))),
        ("NOT_FINITE", lambda: nib.Nifti1Image(np.full((4, 4, 4), np.inf), np.eye(4))),
        ("SPACING", lambda: MetaTensor(torch.zeros(4, 4, 4), affine=torch.diag(torch.tensor([0.01, 1, 1, 1])))),
        ("SPACING", lambda: nib.Nifti1Image(np.zeros((4, 4, 4)), np.diag([30.0, 1, 1, 1]))),
        ("AFFINE", lambda: MetaTensor(torch.zeros(4, 4, 4), affine=torch.full((4, 4), torch.nan))),
        ("NO_GEOMETRY", lambda: nib.Nifti1Image(np.zeros((4, 4, 4)), None)),
    ],
)
def test_refusals(code: str, image: Callable[[], Any]) -> None:
    with pytest.raises(InputRefused) as caught:
        series_from(image())
    assert caught.value.code == code and "\n" not in str(caught.value)


def test_wrong_arguments() -> None:
    image = to_nibabel(volume(), GRIDS["oblique"])
    for wrong in (np.zeros((1, 7, 5, 3), np.uint8), np.zeros((7, 5, 4), np.uint8), np.zeros((1, 7, 5, 4))):
        with pytest.raises(ValueError, match="labels"):
            like(image, wrong)
    for nothing in (np.zeros((4, 4, 4)), torch.zeros(4, 4, 4), "x.nii"):
        with pytest.raises(TypeError, match="image must be"):
            series_from(nothing)
        with pytest.raises(TypeError, match="image must be"):
            like(nothing, np.zeros((1, 4, 4, 4), np.uint8))
