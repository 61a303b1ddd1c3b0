"""Geometry for slice-wise networks: slices along the last axis, upright, resampled in their plane only.

Why not MONAI's ``Orientationd("LPS")``: the slices of a short-axis stack are oblique, and "LPS" may put the slice axis
first. Here the slice axis is found from the spacing and always comes last; the two in-plane axes point as radiologists
display them (to the patient's left, posterior or *inferior*, in this order): axial LP, coronal LI, sagittal PI, and
short-axis with the chest wall above and the liver below, as the public data sets store it.

Why not MONAI's ``Spacingd``: it resamples the volume in 3-D and float64, without a filter when it makes an image
smaller. Here each slice is resized by itself, so that slices can never blend, with an antialiasing filter; the field of
view is kept exactly, so the spacing is the one asked for up to the rounding of the size to whole pixels.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.transforms.spatial.functional import orientation
from monai.transforms.utils import scale_affine
from monai.utils import TraceKeys, convert_to_numpy, ensure_tuple_rep
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = [
    "InPlaneOrientation",
    "InPlaneOrientationd",
    "InPlaneSpacing",
    "InPlaneSpacingd",
    "slice_axis",
    "stored_stack",
    "voxel_volume_ml",
]

SLICE_SPACING_RATIO = 1.5
SPACING_TOLERANCE_MM = 1e-3
SLICES = 8  # resampled at a time: the interpolation takes copies of what it gets
MAX_PIXELS = 4096  # per in-plane axis after resampling
IN_PLANE_SIGNS = (-1, -1, -1)  # left, posterior, inferior in RAS
SLICE_SIGNS = (-1, -1, 1)  # left, posterior, superior in RAS


def slice_axis(affine: NDArray[np.float64], shape: Sequence[int]) -> int:
    """Finds the storage axis along which the slices are stacked.

    Args:
        affine: (4, 4) voxel index to RAS mm.
        shape: the three spatial sizes.

    Returns:
        The axis whose spacing is clearly the largest; else the only axis of size 1; else the third.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    widest = int(np.argmax(spacing))
    if np.all(spacing[widest] >= SLICE_SPACING_RATIO * np.delete(spacing, widest)):
        return widest
    single = [axis for axis, size in enumerate(shape) if size == 1]
    return single[0] if len(single) == 1 else 2


def voxel_volume_ml(affine: NDArray[np.float64]) -> float:
    """Returns the volume of a voxel in mL: the determinant of the affine, right for tilted slices too."""
    return abs(float(np.linalg.det(affine[:3, :3]))) / 1000


def in_plane_orientation(affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """Computes the reordering and flips that bring a volume into the network's orientation.

    The result depends on where the voxels lie in space only, not on how they are stored.

    Args:
        affine: (4, 4) voxel index to RAS mm.
        shape: the three spatial sizes.

    Returns:
        (3, 2) nibabel orientation array: for each storage axis its output axis and the flip (1 or -1).
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    along = slice_axis(affine, shape)
    rows = [axis for axis in range(3) if axis != along]

    def closeness(pair: tuple[int, ...]) -> tuple[float, ...]:
        score = sum(abs(directions[world, axis]) for world, axis in zip(pair, rows, strict=True))
        # among equally close choices, take the one that any other storage order would lead to as well
        ordered = sorted(zip(pair, rows, strict=True))
        pointing = [
            directions[:, axis] * _flip(directions[world, axis], IN_PLANE_SIGNS[world]) for world, axis in ordered
        ]
        return (round(float(score), 5), *(round(float(value), 5) for value in np.concatenate(pointing)))

    pair = max(permutations(range(3), 2), key=closeness)
    remaining = ({0, 1, 2} - set(pair)).pop()
    result = np.empty((3, 2))
    for position, (world, axis) in enumerate(sorted(zip(pair, rows, strict=True))):
        result[axis] = position, _flip(directions[world, axis], IN_PLANE_SIGNS[world])
    result[along] = 2, _flip(directions[remaining, along], SLICE_SIGNS[remaining])
    return result


def stored_stack(operations: Sequence[Mapping[str, Any]]) -> tuple[int, bool] | None:
    """Tells where the slices of an image lie in the file, if all that was done to it leaves them slices.

    Args:
        operations: that MONAI recorded, ``applied_operations``.

    Returns:
        The axis of (X, Y, Z), and whether the slices run backwards there; None after other transforms than
        :class:`InPlaneOrientation` and :class:`InPlaneSpacing`.
    """
    orients, resizes = InPlaneOrientation.__name__, InPlaneSpacing.__name__
    if any(one[TraceKeys.CLASS_NAME] not in (orients, resizes) for one in operations):
        return None
    axis, backwards = 2, False
    for one in operations:
        if one[TraceKeys.CLASS_NAME] == orients:
            affine = np.asarray(convert_to_numpy(one[TraceKeys.EXTRA_INFO]["original_affine"]), dtype=np.float64)
            forward = in_plane_orientation(affine, [int(n) for n in one[TraceKeys.ORIG_SIZE]])
            axis = int(np.flatnonzero(forward[:, 0] == 2)[0])
            backwards = bool(forward[axis, 1] < 0)
    return axis, backwards


def _flip(component: float, sign: int) -> float:
    return -1.0 if component * sign < 0 else 1.0


class InPlaneOrientation(InvertibleTransform):
    """Brings a (C, X, Y, Z) volume into the orientation of :func:`in_plane_orientation`; exactly invertible."""

    def __call__(self, data: MetaTensor) -> MetaTensor:
        """Reorders and flips the axes.

        Args:
            data: (C, X, Y, Z) with an affine.

        Returns:
            The same voxels with the slice axis last.
        """
        affine = np.asarray(convert_to_numpy(data.affine), dtype=np.float64)
        target = in_plane_orientation(affine, data.shape[1:])
        info = self.get_transform_info()
        return orientation(data, affine, target, lazy=False, transform_info=info)  # type: ignore[return-value]

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Brings the voxels back into the order in which they were stored."""
        transform = self.pop_transform(data)
        affine = np.asarray(convert_to_numpy(transform[TraceKeys.EXTRA_INFO]["original_affine"]), dtype=np.float64)
        forward = in_plane_orientation(affine, [int(n) for n in transform[TraceKeys.ORIG_SIZE]])
        back = np.empty((3, 2))
        for axis, (position, flip) in enumerate(forward):
            back[int(position)] = axis, flip
        here = np.asarray(convert_to_numpy(data.affine), dtype=np.float64)
        return orientation(data, here, back, lazy=False, transform_info={})  # type: ignore[return-value]


class InPlaneSpacing(InvertibleTransform):
    """Resizes each slice of (C, X, Y, Z) to a given pixel spacing; the slice axis (the last) is left as it is.

    Args:
        pixdim: spacing asked for of the first two spatial axes in mm.
        mode: ``bilinear`` or ``nearest``.
    """

    def __init__(self, pixdim: Sequence[float], mode: str = "bilinear") -> None:
        if len(pixdim) != 2 or min(pixdim) <= 0:
            raise ValueError(f"pixdim must be two positive numbers in mm, got {pixdim}")
        self.pixdim = (float(pixdim[0]), float(pixdim[1]))
        self.mode = _checked_mode(mode)

    def __call__(self, data: MetaTensor, mode: str | None = None) -> MetaTensor:
        """Resamples the slices.

        Args:
            data: (C, X, Y, Z) with an affine.
            mode: instead of the mode given at construction.

        Returns:
            (C, X', Y', Z) float32, covering the same field of view; a copy, even if nothing changes.

        Raises:
            InputRefused: if the slices would get absurdly large (a wrong spacing in the header).
        """
        affine = np.asarray(convert_to_numpy(data.affine), dtype=np.float64)
        spacing = np.linalg.norm(affine[:3, :2], axis=0)
        size = [
            int(n) if abs(have - want) < SPACING_TOLERANCE_MM else max(1, round(int(n) * have / want))
            for n, have, want in zip(data.shape[1:3], spacing, self.pixdim, strict=True)
        ]
        if max(size) > MAX_PIXELS:
            raise InputRefused(
                RefusalCode.FIELD_OF_VIEW,
                f"slices of {spacing[0] * data.shape[1]:.0f} x {spacing[1] * data.shape[2]:.0f} mm are larger than any "
                "patient; correct the spacing in the header",
            )
        return _resize(data, size, _checked_mode(mode or self.mode), self.get_transform_info())

    def inverse(self, data: MetaTensor) -> MetaTensor:
        """Resizes the slices back to the size that they had."""
        transform = self.pop_transform(data)
        size = [int(n) for n in transform[TraceKeys.ORIG_SIZE]][:2]
        return _resize(data, size, _checked_mode(transform[TraceKeys.EXTRA_INFO]["mode"]), {})


def _checked_mode(mode: str) -> str:
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f"mode must be 'bilinear' or 'nearest', got {mode!r}")
    return str(mode)


def _resize(data: MetaTensor, size: Sequence[int], mode: str, transform_info: dict[str, Any]) -> MetaTensor:
    """Resizes the slices of (C, X, Y, Z), and tracks it in affine and transform record."""
    before, after = [int(n) for n in data.shape[1:]], [*size, int(data.shape[3])]
    meta = InPlaneSpacing.track_transform_meta(
        data,
        sp_size=after,
        affine=scale_affine(before, after),
        extra_info={"mode": mode},
        orig_size=tuple(before),
        transform_info=transform_info,
    )
    volumes = data.as_tensor()
    resized = torch.empty((len(volumes), *after), dtype=torch.float32, device=volumes.device)
    if before == after:
        resized.copy_(volumes)
    else:
        options: dict[str, Any] = {"mode": "nearest-exact"}
        if mode == "bilinear":
            options = {"mode": "bilinear", "align_corners": False, "antialias": True}
        for volume, target in zip(volumes, resized, strict=True):
            for few, place in zip(volume.split(SLICES, dim=2), target.split(SLICES, dim=2), strict=True):
                slices = few.float().permute(2, 0, 1)[None]  # (1, Z, X, Y)
                place.copy_(interpolate(slices, size=tuple(size), **options)[0].permute(1, 2, 0))
    return MetaTensor(resized).copy_meta_from(meta)  # type: ignore[no-any-return]


class InPlaneOrientationd(MapTransform, InvertibleTransform):
    """Dictionary version of :class:`InPlaneOrientation`.

    Args:
        keys: the volumes; those of one case must share one grid.
        allow_missing_keys: do not fail if a key is missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orient = InPlaneOrientation()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Orients each volume.

        Raises:
            InputRefused: if image and label do not lie on the same grid, or it is a photograph.
        """
        result = dict(data)
        present = list(self.key_iterator(result))
        for key in present:
            _check_is_volume(result[key], key)
        for key in present[1:]:
            _check_same_grid(result[present[0]], result[key])
        for key in present:
            result[key] = self.orient(result[key])
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Brings each volume back into its storage order."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.orient.inverse(result[key])
        return result


def _check_is_volume(data: MetaTensor, key: Hashable) -> None:
    if data.ndim != 4:
        name = data.meta.get("filename_or_obj", "the image") if isinstance(data, MetaTensor) else key
        raise InputRefused(RefusalCode.WRONG_KIND, f"{name} is a photograph; the bundle takes volumes only")


def _check_same_grid(image: MetaTensor, label: MetaTensor) -> None:
    if image.shape[1:] != label.shape[1:] or not torch.allclose(image.affine, label.affine, atol=1e-2):
        names = " and ".join(str(x.meta.get("filename_or_obj", "volume")) for x in (image, label))
        raise InputRefused(
            RefusalCode.GRIDS_DIFFER, f"{names} differ in shape or affine; resample the label onto the image"
        )


class InPlaneSpacingd(MapTransform, InvertibleTransform):
    """Dictionary version of :class:`InPlaneSpacing`.

    Args:
        keys: the volumes.
        pixdim: spacing asked for of the first two spatial axes in mm.
        mode: ``bilinear`` (images) or ``nearest`` (labels), one for all keys or one for each.
        allow_missing_keys: do not fail if a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        pixdim: Sequence[float],
        mode: Sequence[str] | str = "bilinear",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.resample = InPlaneSpacing(pixdim)
        self.mode = tuple(_checked_mode(one) for one in ensure_tuple_rep(mode, len(self.keys)))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resamples each volume in plane."""
        result = dict(data)
        for key, mode in self.key_iterator(result, self.mode):
            result[key] = self.resample(result[key], mode=mode)
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resizes each volume back to the size that it had."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.resample.inverse(result[key])
        return result
