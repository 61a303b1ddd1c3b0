"""A volume or cine with its mask, as small NIfTI files that a page holds, and what its viewer must know of them.

The voxels are stored upright, as radiologists see the slices, and the files state that the axes are those of the
screen. So the viewer has no choice of its own: of strongly oblique slices NiiVue would take other planes or turn them.
"""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from convformer_monai.outputs.drawing.preview import edge_letters, slice_numbers
from convformer_monai.readers.series import ImageSeries
from convformer_monai.transforms.postprocess import extent

__all__ = ["MOST_BYTES", "SHOWN_BYTES", "Stored", "embedded", "own_type", "reduction", "settings_of"]

SHOWN_BYTES = 64 * 2**20  # of voxels, uncompressed; a larger image is shown at a lower resolution
MOST_BYTES = 4 * SHOWN_BYTES  # and one that is larger still is not put into a page
MOST_REDUCED = 4
MOST_ZOOM = 4.0
LEVEL = 6  # of gzip
SLOPE_AT = 112  # bytes into the header: scl_slope and scl_inter, float32
TYPES = (np.uint8, np.int16, np.uint16)
STEPS = 4095  # of fractions: more than a screen and an eye tell apart


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


def embedded(stored: Stored, spacing: NDArray[np.float64], factor: int = 1) -> bytes:
    """Makes a NIfTI file, compressed, the same for the same voxels, whose axes are those of the screen.

    Args:
        stored: the voxels, upright; the phases become the fourth dimension.
        spacing: mm of the three axes.
        factor: of so many voxels of a row and of a column one is taken.
    """
    voxels = stored.voxels[:, ::factor, ::factor]
    image = nib.Nifti1Image(np.moveaxis(voxels, 0, -1), None, nib.Nifti1Header(endianness="<"))
    image.set_data_dtype(voxels.dtype)
    image.header.set_sform(np.diag([-spacing[0] * factor, -spacing[1] * factor, spacing[2], 1.0]), code=1)
    image.header["pixdim"][1:4] = spacing * [factor, factor, 1]
    image.header.set_xyzt_units("mm", "sec")
    content = bytearray(image.to_bytes())
    # nibabel would choose slope and intercept, and store other numbers
    struct.pack_into("<2f", content, SLOPE_AT, stored.slope, stored.intercept)
    return gzip.compress(bytes(content), LEVEL, mtime=0)


def settings_of(
    series: ImageSeries,
    shown: NDArray[np.uint8],
    affine: NDArray[np.float64],
    window: tuple[float, float],
    moments: dict[str, int],
    margin_mm: float | None = None,
) -> dict[str, Any]:
    """What ``report.js`` must know of a volume, as JSON types.

    Args:
        series: the volume.
        shown: (phases, X, Y, Z) labels, upright.
        affine: of these, (4, 4) voxel index to RAS mm.
        window: values that are black and white.
        moments: indices of end diastole and end systole, as far as they are known.
        margin_mm: shown around what is labelled; ``None`` shows whole slices.

    Returns:
        ``phases``, ``slices``: their numbers; ``numbers``, ``times``: of the phases in the source, and in ms;
        ``centre`` and ``step``: mm of the middle of the first slice, as the image is stored, and from one to the next,
        on the axes of the screen; ``row``: factors of x, y, z, 1 whose sum is the number of the slice; ``window``;
        ``moments``; ``start``: phase and slice to begin with; ``focus``: the middle of what is labelled, and how many
        times it is magnified; ``letters``: the patient's directions at left, right, top and bottom of a slice.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    size = np.array(shown.shape[1:])
    numbers = slice_numbers(range(int(size[2])), affine, series)
    backwards = numbers[0] > numbers[-1]
    step = -spacing[2] if backwards else spacing[2]
    first = (size[2] - 1) * spacing[2] if backwards else 0.0
    start = moments.get("ed", 0)
    areas = (shown[start] > 0).sum(axis=(0, 1))[:: -1 if backwards else 1]
    begin = int(size[2]) // 2
    if areas.any():  # in the middle of what is labelled
        filled = np.flatnonzero(areas)
        begin = int(filled[np.abs(filled - np.average(np.arange(len(areas)), weights=areas)).argmin()])
    return {
        "phases": len(shown),
        "slices": int(size[2]),
        "numbers": list(series.phases),
        "times": [float(time) for time in series.phase_times_ms],
        "centre": [*(-(size[:2] - 1) / 2 * spacing[:2]).tolist(), float(first)],
        "step": [0.0, 0.0, float(step)],
        "row": [0.0, 0.0, float(1 / step), float(-first / step)],
        "window": [float(one) for one in window],
        "moments": moments,
        "start": [start, begin],
        "focus": _focus(shown, spacing, margin_mm),
        "letters": list(edge_letters(affine)),
    }


def _focus(shown: NDArray[np.uint8], spacing: NDArray[np.float64], margin_mm: float | None) -> dict[str, Any] | None:
    """What a slice is centred on, and its magnification, so that the labels of all phases and slices are seen."""
    labelled: NDArray[np.bool_] = np.any(shown != 0, axis=0)
    if margin_mm is None or not labelled.any():
        return None
    box = extent(labelled)
    zoom = min(
        labelled.shape[axis] * spacing[axis] / ((box[axis].stop - box[axis].start) * spacing[axis] + 2 * margin_mm)
        for axis in (0, 1)
    )
    middle = np.array([(part.start + part.stop - 1) / 2 for part in box]) * spacing * [-1, -1, 1]
    return {"centre": middle.tolist(), "zoom": float(np.clip(zoom, 1, MOST_ZOOM))}
