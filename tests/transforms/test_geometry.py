"""Orientation and spacing in the plane of the slices: independent of storage, and exactly undone."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from nifti_files import SHORT_AXIS, affine, restored

from convformer_monai.errors import InputRefused
from convformer_monai.transforms import InPlaneOrientationd, InPlaneSpacingd, geometry
from convformer_monai.transforms.geometry import InPlaneOrientation, InPlaneSpacing, slice_axis

STORAGES = [
    (order, flips)
    for order in permutations(range(3))
    for flips in [tuple(axis for axis in range(3) if on[axis]) for on in product((0, 1), repeat=3)]
]
CORONAL = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])  # columns in LPS: rows to L, columns to I, slices to P
SAGITTAL = np.array([[0, 0, 1.0], [1.0, 0, 0], [0, -1.0, 0]])
DIAGONAL = np.array([[1.0, -1.0, 0], [1.0, 1.0, 0], [0, 0, np.sqrt(2)]]) / np.sqrt(2)  # each as close to L as to P


def image(data: np.ndarray, matrix: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(data)).float()[None], affine=torch.from_numpy(matrix))


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).random((9, 7, 4)).astype(np.float32)


def directions(data: MetaTensor) -> np.ndarray:
    """Unit vectors of the three axes in LPS, as columns."""
    columns = np.diag([-1.0, -1.0, 1.0]) @ data.affine.numpy()[:3, :3]
    return columns / np.linalg.norm(columns, axis=0)


@pytest.mark.parametrize("plane", [None, SHORT_AXIS, CORONAL, SAGITTAL, DIAGONAL], ids=lambda p: "other")
def test_every_storage_order_gives_the_same_array(volume: np.ndarray, plane: np.ndarray | None) -> None:
    matrix = affine((1.4, 1.4, 8.0), plane)
    orient = InPlaneOrientation()
    reference = orient(image(volume, matrix))
    for order, flips in STORAGES:
        data, stored = restored(volume, matrix, order, flips)
        oriented = orient(image(data, stored))
        np.testing.assert_array_equal(oriented.numpy(), reference.numpy())
        np.testing.assert_allclose(oriented.affine, reference.affine, atol=1e-9)
        back = orient.inverse(oriented)
        np.testing.assert_array_equal(back.numpy()[0], data)
        np.testing.assert_allclose(back.affine, stored, atol=1e-9)
        assert not back.applied_operations


@pytest.mark.parametrize(
    ("plane", "expected"),
    [
        (None, np.diag([1.0, 1.0, 1.0])),  # axial: left, posterior
        (CORONAL, [[1, 0, 0], [0, 0, 1], [0, -1, 0]]),  # left, inferior
        (SAGITTAL, [[0, 0, 1], [1, 0, 0], [0, -1, 0]]),  # posterior, inferior
        (SHORT_AXIS, SHORT_AXIS),  # as the scanner shows it
    ],
)
def test_axes_point_as_displayed(volume: np.ndarray, plane: np.ndarray | None, expected: np.ndarray) -> None:
    oriented = InPlaneOrientation()(image(volume, affine((1.4, 1.4, 8.0), plane)))
    np.testing.assert_allclose(directions(oriented)[:, :2], np.asarray(expected, float)[:, :2], atol=0.02)


def test_acdc_storage_is_left_as_it_is(volume: np.ndarray) -> None:
    oriented = InPlaneOrientation()(image(volume, affine()))
    np.testing.assert_array_equal(oriented.numpy()[0], volume)


@pytest.mark.parametrize(
    ("spacing", "shape", "expected"),
    [
        ((1.4, 1.4, 8.0), (9, 9, 9), 2),
        ((8.0, 1.4, 1.4), (9, 9, 9), 0),
        ((1.4, 3.0, 1.4), (9, 9, 9), 1),
        ((1.0, 1.0, 1.2), (9, 9, 9), 2),
        ((1.2, 1.0, 1.0), (9, 9, 9), 2),
        ((1.0, 1.0, 1.0), (1, 9, 9), 0),
        ((1.0, 1.0, 1.0), (1, 1, 9), 2),
    ],
)
def test_slice_axis(spacing: tuple[float, ...], shape: tuple[int, ...], expected: int) -> None:
    assert slice_axis(affine(spacing), shape) == expected


def test_image_and_label_must_share_a_grid(volume: np.ndarray) -> None:
    orient = InPlaneOrientationd(keys=["image", "label"])
    good = image(volume, affine())
    for bad in (image(volume[:-1], affine()), image(volume, affine((1.5, 1.4, 8.0)))):
        with pytest.raises(InputRefused, match="GRIDS_DIFFER"):
            orient({"image": good, "label": bad})


@pytest.mark.parametrize("spacing", [(0.3, 0.4, 8.0), (1.4, 1.2, 8.0), (3.1, 2.7, 8.0)])
def test_spacing_is_met_and_undone(spacing: tuple[float, ...]) -> None:
    x, y = np.meshgrid(np.linspace(0, 3, 61), np.linspace(0, 2, 47), indexing="ij")
    smooth = np.stack([np.sin(x + k) + np.cos(y) for k in range(3)], axis=-1)
    before = image(smooth, affine(spacing, SHORT_AXIS))
    resample = InPlaneSpacing((1.5, 1.5))
    after = resample(before)
    np.testing.assert_allclose(after.pixdim[:2], 1.5, rtol=0.04)
    assert after.pixdim[2] == pytest.approx(8.0) and after.shape[3] == 3
    field = np.array(before.shape[1:]) * spacing
    np.testing.assert_allclose(np.array(after.shape[1:]) * after.pixdim.numpy(), field, rtol=1e-6)
    back = resample.inverse(after)
    assert back.shape == before.shape and not back.applied_operations
    np.testing.assert_allclose(back.affine, before.affine, atol=1e-9)
    inner = (0, slice(6, -6), slice(6, -6))
    np.testing.assert_allclose(back.numpy()[inner], before.numpy()[inner], atol=0.03)


def test_voxels_stay_where_they_are() -> None:
    """Voxels whose value is their place in millimetres keep it to 0.1 mm (the filter's error); enlarged, exactly."""
    for spacing, tolerance in (((1.1, 0.9, 8.0), 0.1), ((0.3, 0.4, 8.0), 0.1), ((1.9, 2.7, 8.0), 1e-4)):
        matrix = affine(spacing, SHORT_AXIS)
        for shape in ((80, 71, 3), (77, 92, 3)):
            before = image(_millimetres(shape, matrix), matrix)
            resample = InPlaneSpacing((1.5, 1.5))
            after = resample(before)
            expected = _millimetres(after.shape[1:], after.affine.numpy())
            np.testing.assert_allclose(after.numpy()[0, 2:-2, 2:-2], expected[2:-2, 2:-2], atol=tolerance)


def _millimetres(shape: tuple[int, ...], matrix: np.ndarray) -> np.ndarray:
    index = np.stack([*np.indices(shape), np.ones(shape)], axis=-1)
    return (index @ matrix.T) @ np.array([0.36, 0.48, 0.8, 0.0])


def test_identity_is_exact(volume: np.ndarray) -> None:
    before = image(volume, affine((1.5, 1.5, 8.0)))
    after = InPlaneSpacing((1.5, 1.5))(before)
    np.testing.assert_array_equal(after.numpy(), before.numpy())
    np.testing.assert_array_equal(after.affine, before.affine)


def test_slices_never_blend() -> None:
    data = np.zeros((20, 20, 5), np.float32)
    data[..., 2] = 1.0
    after = InPlaneSpacing((1.5, 1.5))(image(data, affine((1.0, 1.1, 4.0), SHORT_AXIS)))
    assert after.numpy()[0, ..., 2].min() == pytest.approx(1.0) and not after.numpy()[0, ..., [0, 1, 3, 4]].any()


def test_labels_stay_labels() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (33, 21, 4)).astype(np.float32)
    both = {"image": image(labels, affine()), "label": image(labels, affine())}
    after = InPlaneSpacingd(keys=["image", "label"], pixdim=(1.5, 1.5), mode=["bilinear", "nearest"])(both)
    assert set(np.unique(after["label"].numpy())) == {0.0, 1.0, 2.0, 3.0}
    assert len(np.unique(after["image"].numpy())) > 4
    assert after["image"].shape == after["label"].shape


def test_phases_are_resampled_alone(volume: np.ndarray) -> None:
    resample, matrix = InPlaneSpacing((1.5, 1.5)), torch.from_numpy(affine())
    cine = torch.from_numpy(np.stack([volume, volume**2]))
    together = resample(MetaTensor(cine, affine=matrix))
    for phase in range(2):
        alone = resample(MetaTensor(cine[phase : phase + 1], affine=matrix))
        np.testing.assert_allclose(together.numpy()[phase], alone.numpy()[0], atol=1e-6)


def test_monai_label_keys_do_not_disturb(volume: np.ndarray) -> None:
    """MONAI Label puts a string `image_path` beside the image, on which MONAI's own Spacingd fails."""
    transform = Compose([InPlaneOrientationd("image"), InPlaneSpacingd("image", (1.5, 1.5))])
    after = transform({"image": image(volume, affine()), "image_path": "/somewhere/x.nii.gz"})
    assert after["image_path"] == "/somewhere/x.nii.gz"


def test_invertd_with_nearest_interpolation(volume: np.ndarray) -> None:
    matrix = affine((1.0, 0.7, 8.0), SHORT_AXIS)
    data, stored = restored(volume, matrix, (2, 0, 1), (1,))
    transform = Compose([InPlaneOrientationd("image"), InPlaneSpacingd("image", (1.5, 1.5))])
    after = transform({"image": image(data, stored)})
    after["pred"] = (after["image"] > 0.5).float()
    labels = Invertd("pred", transform, orig_keys="image", nearest_interp=True)(after)["pred"]
    assert labels.shape[1:] == data.shape and set(np.unique(labels.numpy())) <= {0.0, 1.0}
    np.testing.assert_allclose(labels.affine, stored, atol=1e-9)


def test_wrong_arguments_and_absurd_fields_of_view(volume: np.ndarray) -> None:
    for pixdim in ((1.5,), (1.5, 0.0), (1.5, 1.5, 8.0)):
        with pytest.raises(ValueError, match="pixdim"):
            InPlaneSpacing(pixdim)
    with pytest.raises(ValueError, match="mode"):
        InPlaneSpacing((1.5, 1.5), mode="bicubic")
    with pytest.raises(InputRefused, match="FIELD_OF_VIEW"):
        InPlaneSpacing((1.5, 1.5))(image(np.zeros((600, 2, 2)), affine((20.0, 20.0, 20.0))))


def test_photograph_is_refused() -> None:
    photo = MetaTensor(torch.zeros(3, 6, 5), meta={"filename_or_obj": "skin.jpg"})
    with pytest.raises(InputRefused, match="skin.jpg is a photograph") as refusal:
        InPlaneOrientationd("image")({"image": photo})
    assert refusal.value.code == "WRONG_KIND"


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("spacing", [(0.9, 1.1), (2.3, 1.5)])
def test_slices_of_a_deep_volume_are_resampled_as_all_at_once(mode: str, spacing: tuple[float, float]) -> None:
    image = MetaTensor(
        torch.randn(2, 30, 26, 2 * geometry.SLICES + 3), affine=torch.diag(torch.tensor([1.5, 1.5, 4, 1]))
    )
    few = InPlaneSpacing(spacing, mode)(image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "SLICES", 1000)
        whole = InPlaneSpacing(spacing, mode)(image)
    assert torch.equal(few.as_tensor(), whole.as_tensor())


def test_resampling_makes_a_copy() -> None:
    image = MetaTensor(torch.randn(1, 8, 8, 2), affine=torch.diag(torch.tensor([1.5, 1.5, 4, 1])))
    before = image.clone()
    InPlaneSpacing((1.5, 1.5))(image)[:] = 0
    assert torch.equal(image.as_tensor(), before.as_tensor())
