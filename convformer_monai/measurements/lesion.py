"""Size and shape of a skin lesion on a photograph.

The asymmetry is the share of the lesion that does not overlap its mirror image, averaged over its two principal axes
(through its centroid, along the eigenvectors of its second moments): 0% for an ellipse, 9% for half a disc, 17% for a
slender triangle with two equal sides. It regards the outline only; the "A" of the ABCD rule regards the colours, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from convformer_monai.measurements.geometry import longest_diameter, outline_points
from convformer_monai.measurements.values import Measurement
from convformer_monai.readers.series import ImageSeries
from convformer_monai.tasks.task import Code, Label

__all__ = ["asymmetry_of", "measure_lesion", "perimeter_of"]

AREA = Code("SCT", "42798000", "Area")
LONG_AXIS = Code("SCT", "103339001", "Long Axis")
PERIMETER = Code("SCT", "131191004", "Perimeter")
SAMPLES = 1_000_000  # of the lesion's pixels, for the asymmetry
REACH, LARGEST_REACH = 2, 32  # pixels that a line advances before it meets the centre of one again
ISOTROPIC_RTOL = 1e-3


def measure_lesion(
    labels: NDArray[np.uint8], series: ImageSeries, table: Sequence[Label]
) -> tuple[list[Measurement], dict[str, Any]]:
    """Measures the lesion: all labelled pixels together, should they be in several parts.

    Args:
        labels: (X, Y).
        series: their photograph; the unit is mm where it knows its pixel spacing, else pixels.
        table: the lesion.

    Returns:
        The measurements; and the details: ``image_share_percent``, ``components``, ``pixel_spacing_mm`` (or ``None``)
        and ``notes``.
    """
    (lesion,) = table
    mask = labels == lesion.index
    spacing = np.linalg.norm(series.affine[:3, :2], axis=0) if series.spacing_known else np.ones(2)
    basis = np.diag(spacing)
    area = float(np.count_nonzero(mask)) * float(np.prod(spacing))
    diameter = perimeter = 0.0
    asymmetry = None
    if mask.any():
        mask = mask[ndimage.find_objects(mask.astype(np.uint8))[0]]
        diameter, _ = longest_diameter(outline_points(mask, basis))
        perimeter = perimeter_of(mask, spacing)
        asymmetry = asymmetry_of(mask, basis)
    length_unit, area_unit = ("mm", "mm2") if series.spacing_known else ("{pixel}", "{pixel}")
    suffix = "" if series.spacing_known else ", in pixels"
    values: list[tuple[str, str, float | None, str, Code | None]] = [
        ("area", f"Lesion area{suffix}", area, area_unit, AREA),
        ("diameter", f"Largest lesion diameter{suffix}", diameter, length_unit, LONG_AXIS),
        ("perimeter", f"Lesion perimeter{suffix}", perimeter, length_unit, PERIMETER),
        ("asymmetry", "Asymmetry of the lesion's outline", asymmetry, "%", None),
    ]
    items = [
        Measurement(name, title, value, unit, code, structure=lesion.index) for name, title, value, unit, code in values
    ]
    notes = [] if series.spacing_known else ["the photograph has no pixel spacing: sizes are in pixels, not in mm"]
    details = {
        "image_share_percent": 100 * float(np.count_nonzero(labels == lesion.index)) / labels.size,
        "components": int(ndimage.label(mask, np.ones((3, 3)))[1]),
        "pixel_spacing_mm": [float(one) for one in spacing] if series.spacing_known else None,
        "notes": notes,
    }
    return items, details


def perimeter_of(mask: NDArray[np.bool_], spacing: NDArray[np.float64]) -> float:
    """Returns the length of the outlines in the unit of the spacing.

    Crofton's formula: half the integral, over all directions, of how often the lines of a direction cross the outline.
    The lines run through the pixels, along all steps to near ones; eight directions where the pixels are square.
    (scikit-image's ``perimeter_crofton`` has four, and regards pixels as square.)

    Args:
        mask: (X, Y).
        spacing: of the pixels along X and Y.
    """
    reach = np.minimum(np.ceil(REACH * spacing.max() / spacing - ISOTROPIC_RTOL), LARGEST_REACH).astype(int)
    steps = np.array(
        [
            (x, y)
            for x in range(reach[0] + 1)
            for y in range(-reach[1], reach[1] + 1)
            if math.gcd(x, y) == 1 and (x, y) > (0, 0)
        ]
    )
    angles = np.arctan2(*(steps * spacing).T[::-1]) % np.pi
    order = np.argsort(angles)
    steps, angles = steps[order], angles[order]
    around = np.concatenate([angles[-1:] - np.pi, angles, angles[:1] + np.pi])
    shares = (around[2:] - around[:-2]) / 2  # of the half circle, for each direction
    distances = np.prod(spacing) / np.linalg.norm(steps * spacing, axis=1)  # between the lines
    padded = np.pad(mask, int(reach.max()))  # so that nothing wraps around
    crossings = [np.count_nonzero(padded != np.roll(padded, step, axis=(0, 1))) for step in steps]
    return float(np.sum(shares * distances * crossings)) / 2


def asymmetry_of(mask: NDArray[np.bool_], basis: NDArray[np.float64]) -> float:
    """Returns the asymmetry in percent; see the head of this file.

    Args:
        mask: (X, Y), not empty.
        basis: (2, 2) from index to a length.
    """
    index = np.argwhere(mask)
    points = index @ basis.T  # (N, 2)
    centre = points.mean(axis=0)
    axes = np.linalg.eigh(np.cov(points.T, ddof=0))[1]  # (2, 2), columns
    back = np.linalg.inv(basis)
    sample = (points - centre)[:: max(1, len(points) // SAMPLES)]
    shares = []
    for axis in axes.T:
        mirrored = sample - 2 * np.outer(sample @ axis, axis) + centre
        indices = (mirrored @ back.T).T  # (2, N)
        overlap = ndimage.map_coordinates(mask.astype(np.float32), indices, order=1, mode="constant")
        shares.append(1 - float(overlap.mean()))
    return 100 * max(0.0, float(np.mean(shares)))
