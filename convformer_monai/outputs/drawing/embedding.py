"""A volume or cine with its mask, as small NIfTI files that a page holds, and what its viewer must know of them."""

from __future__ import annotations

import gzip
from typing import Any

import nibabel as nib
import numpy as np
from monai.utils import convert_to_numpy
from numpy.typing import NDArray

from convformer_monai.readers.series import ImageSeries
from convformer_monai.transforms.geometry import slice_axis

__all__ = ["MOST_BYTES", "embedded", "own_type", "settings_of"]

MOST_BYTES = 128 * 2**20  # of voxels, uncompressed; a larger image is not put into a page
LEVEL = 6  # of gzip
TYPES = (np.uint8, np.int16, np.uint16)


def own_type(values: NDArray[Any]) -> NDArray[Any]:
    """Returns voxels in the smallest type that changes none of them.

    Args:
        values: float32, as the readers return them.
    """
    if np.array_equal(values, np.trunc(values)):
        low, high = float(values.min()), float(values.max())
        for kind in TYPES:
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return values.astype(kind)
    return values.astype(np.float32, copy=False)


def embedded(voxels: NDArray[Any], affine: NDArray[np.float64]) -> bytes:
    """Makes a NIfTI file, compressed, the same for the same voxels.

    Args:
        voxels: (phases, X, Y, Z); the phases become the fourth dimension.
        affine: (4, 4) voxel index to RAS mm.
    """
    image = nib.Nifti1Image(np.moveaxis(voxels, 0, -1), None)
    image.header.set_sform(affine, code=1)
    image.header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    image.header.set_xyzt_units("mm", "sec")
    return gzip.compress(image.to_bytes(), LEVEL, mtime=0)


def settings_of(
    series: ImageSeries, labels: NDArray[np.uint8], window: tuple[float, float], moments: dict[str, int]
) -> dict[str, Any]:
    """What ``report.js`` must know of a volume, as JSON types.

    Args:
        series: the volume.
        labels: (phases, X, Y, Z).
        window: values that are black and white.
        moments: indices of end diastole and end systole, as far as they are known.

    Returns:
        ``phases``, ``slices``: their numbers; ``numbers``, ``times``: of the phases in the source, and in ms;
        ``plane``: the axis (0 to 2: right, anterior, superior) that the slices are stacked along, roughly; ``centre``
        and ``step``: RAS mm of the middle of the first slice, and from one to the next; ``row``: factors of x, y, z, 1
        whose sum is the number of the slice; ``window``; ``moments``; ``start``: phase and slice to begin with.
    """
    affine, shape = series.affine, labels.shape[1:]
    axis = slice_axis(affine, shape)
    middle = (np.array(shape) - 1) / 2
    middle[axis] = 0
    world = nib.orientations.io_orientation(affine)[axis, 0]
    start = moments.get("ed", 0)
    areas = np.moveaxis(labels[start] > 0, axis, -1).sum(axis=(0, 1))
    first = int(areas.argmax()) if areas.any() else shape[axis] // 2
    return {
        "phases": len(labels),
        "slices": int(shape[axis]),
        "numbers": list(series.phases),
        "times": [float(time) for time in series.phase_times_ms],
        "plane": int(world),
        "centre": (affine[:3, :3] @ middle + affine[:3, 3]).tolist(),
        "step": affine[:3, axis].tolist(),
        "row": np.linalg.inv(affine)[axis].tolist(),
        "window": [float(one) for one in window],
        "moments": moments,
        "start": [start, first],
    }


def voxels_of(series: ImageSeries) -> NDArray[Any]:
    """The voxels (phases, X, Y, Z) in their own type; of photographs (3, X, Y)."""
    return own_type(np.asarray(convert_to_numpy(series.image)))
