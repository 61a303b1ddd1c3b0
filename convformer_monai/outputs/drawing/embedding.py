"""A volume or cine with its mask, as small NIfTI files that a page holds, and what its viewer must know of them."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from monai.utils import convert_to_numpy
from numpy.typing import NDArray

from convformer_monai.readers.series import ImageSeries
from convformer_monai.transforms.geometry import slice_axis
from convformer_monai.transforms.postprocess import extent

__all__ = ["MOST_BYTES", "SHOWN_BYTES", "Stored", "embedded", "own_type", "reduction", "settings_of", "voxels_of"]

SHOWN_BYTES = 64 * 2**20  # of voxels, uncompressed; a larger image is shown at a lower resolution
MOST_BYTES = 4 * SHOWN_BYTES  # and one that is larger still is not put into a page
MOST_REDUCED = 4
MOST_ZOOM = 4.0
LEVEL = 6  # of gzip
SLOPE_AT = 112  # bytes into the header: scl_slope and scl_inter, float32
TYPES = (np.uint8, np.int16, np.uint16)
STEPS = 4095  # of values that are no whole numbers: more than a screen and an eye tell apart


@dataclass(frozen=True)
class Stored:
    """Voxels as a page holds them.

    Attributes:
        voxels: (phases, X, Y, Z).
        slope: the value of a voxel is ``slope`` times what is stored, plus ``intercept``.
        intercept: see there.
    """

    voxels: NDArray[Any]
    slope: float = 1.0
    intercept: float = 0.0


def own_type(values: NDArray[Any]) -> Stored:
    """Returns voxels in the smallest type that changes none of them; fractions in 4,096 steps of their range.

    Args:
        values: float32, as the readers return them.
    """
    low, high = float(values.min()), float(values.max())
    if np.array_equal(values, np.trunc(values)):
        for kind in TYPES:
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return Stored(values.astype(kind))
    slope = (high - low) / STEPS or 1.0
    return Stored(((values - low) / slope).round().astype(np.int16), slope, low)


def reduction(voxels: NDArray[Any]) -> int:
    """Returns of how many voxels of a row and of a column one is shown, so that a page is not too large.

    Args:
        voxels: (phases, X, Y, Z).
    """
    factor = 1
    while voxels.nbytes > SHOWN_BYTES * factor**2 and factor < MOST_REDUCED:
        factor *= 2
    return factor


def embedded(stored: Stored, affine: NDArray[np.float64], factor: int = 1) -> bytes:
    """Makes a NIfTI file, compressed, the same for the same voxels.

    Args:
        stored: the voxels; the phases become the fourth dimension.
        affine: (4, 4) voxel index to RAS mm.
        factor: of so many voxels of a row and of a column one is taken.
    """
    axis = slice_axis(affine, stored.voxels.shape[1:])
    steps = [1 if place == axis else factor for place in range(3)]
    voxels = stored.voxels[:, :: steps[0], :: steps[1], :: steps[2]]
    affine = affine @ np.diag([*map(float, steps), 1.0])
    image = nib.Nifti1Image(np.moveaxis(voxels, 0, -1), None, nib.Nifti1Header(endianness="<"))
    image.set_data_dtype(voxels.dtype)
    image.header.set_sform(affine, code=1)
    image.header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    image.header.set_xyzt_units("mm", "sec")
    content = bytearray(image.to_bytes())
    # nibabel would choose slope and intercept, and store other numbers
    struct.pack_into("<2f", content, SLOPE_AT, stored.slope, stored.intercept)
    return gzip.compress(bytes(content), LEVEL, mtime=0)


def settings_of(
    series: ImageSeries,
    labels: NDArray[np.uint8],
    window: tuple[float, float],
    moments: dict[str, int],
    margin_mm: float | None = None,
) -> dict[str, Any]:
    """What ``report.js`` must know of a volume, as JSON types.

    Args:
        series: the volume.
        labels: (phases, X, Y, Z).
        window: values that are black and white.
        moments: indices of end diastole and end systole, as far as they are known.
        margin_mm: shown around what is labelled; ``None`` shows whole slices.

    Returns:
        ``phases``, ``slices``: their numbers; ``numbers``, ``times``: of the phases in the source, and in ms;
        ``plane``: the axis (0 to 2: right, anterior, superior) that the slices are stacked along, roughly; ``centre``
        and ``step``: RAS mm of the middle of the first slice, and from one to the next; ``row``: factors of x, y, z, 1
        whose sum is the number of the slice; ``window``; ``moments``; ``start``: phase and slice to begin with;
        ``focus``: RAS mm of the middle of what is labelled, and how many times it is magnified.
    """
    affine, shape = series.affine, labels.shape[1:]
    axis = slice_axis(affine, shape)
    middle = (np.array(shape) - 1) / 2
    middle[axis] = 0
    world = nib.orientations.io_orientation(affine)[axis, 0]
    start = moments.get("ed", 0)
    areas = np.moveaxis(labels[start] > 0, axis, -1).sum(axis=(0, 1))
    first = shape[axis] // 2
    if areas.any():  # in the middle of what is labelled
        filled = np.flatnonzero(areas)
        first = int(filled[np.abs(filled - np.average(np.arange(len(areas)), weights=areas)).argmin()])
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
        "focus": _focus(labels, affine, axis, margin_mm),
    }


def _focus(
    labels: NDArray[np.uint8], affine: NDArray[np.float64], axis: int, margin_mm: float | None
) -> dict[str, Any] | None:
    """What a slice is centred on, and its magnification, so that the labels of all phases and slices are seen."""
    labelled: NDArray[np.bool_] = np.any(labels != 0, axis=0)
    if margin_mm is None or not labelled.any():
        return None
    box = extent(labelled)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    wanted = [(part.stop - part.start) * size + 2 * margin_mm for part, size in zip(box, spacing, strict=True)]
    whole = np.array(labelled.shape) * spacing
    zoom = min(whole[place] / wanted[place] for place in range(3) if place != axis)
    middle = [(part.start + part.stop - 1) / 2 for part in box]
    centre = affine[:3, :3] @ middle + affine[:3, 3]
    return {"centre": centre.tolist(), "zoom": float(np.clip(zoom, 1, MOST_ZOOM))}


def voxels_of(series: ImageSeries) -> Stored:
    """The voxels of a volume or cine as a page holds them.

    Args:
        series: the volume.
    """
    return own_type(np.asarray(convert_to_numpy(series.image)))
