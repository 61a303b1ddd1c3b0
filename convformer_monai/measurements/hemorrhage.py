"""Volume of intracranial blood, and ABC/2 beside it.

ABC/2 is what is measured by hand in emergency rooms (Kothari et al., Stroke 1996;27:1304-1305). It assumes an ellipsoid
and is reported for comparison only. Here: A is the largest diameter on the slice with the largest area, B the width
perpendicular to it on the same slice, C the slice thickness times the weighted number of slices: those with more than
75% of the largest area count 1, those with 25% to 75% count 0.5, the others 0. The parts of a hemorrhage are taken one
by one and added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from convformer_monai.measurements.geometry import VOLUME, Plane, longest_diameter, outline_points
from convformer_monai.measurements.values import Flag, Measurement
from convformer_monai.readers.series import ImageSeries
from convformer_monai.tasks.task import Label
from convformer_monai.transforms.geometry import voxel_volume_ml
from convformer_monai.transforms.postprocess import extent

__all__ = ["abc_of", "hemorrhage_flags", "measure_hemorrhage"]

FULL_SHARE, HALF_SHARE = 0.75, 0.25
LISTED_PARTS = 20
MAYBE_MISSED = 0.05  # probability of blood with which an empty mask is flagged; see the model card


def measure_hemorrhage(
    labels: NDArray[np.uint8], series: ImageSeries, table: Sequence[Label]
) -> tuple[list[Measurement], dict[str, Any]]:
    """Measures the blood.

    Args:
        labels: (phases, X, Y, Z); a CT has one phase, and of others the first is measured.
        series: their image.
        table: the blood.

    Returns:
        The measurements; and the details: ``slices``, of each that shows blood its number from 0 as the file counts
        and its ``volume_ml``; ``parts``, the largest 20, for each its ``volume_ml``, ``a_mm``, ``b_mm``, ``c_mm`` and
        ``abc2_ml``; ``voxel_volume_ml``; ``notes``.
    """
    (blood,) = table
    unit = voxel_volume_ml(series.affine)
    mask = labels[0] == blood.index
    plane = Plane.of(series.affine, mask.shape)
    numbered, _ = ndimage.label(mask[extent(mask)], np.ones((3, 3, 3)))  # 26 neighbours
    parts = []
    for number, box in enumerate(ndimage.find_objects(numbered), start=1):
        part = numbered[box] == number
        a, b, c = abc_of(part, plane)
        volume = float(np.count_nonzero(part)) * unit
        parts.append({"volume_ml": volume, "a_mm": a, "b_mm": b, "c_mm": c, "abc2_ml": a * b * c / 2 / 1000})
    parts.sort(key=lambda one: one["volume_ml"], reverse=True)
    by_slice = np.moveaxis(mask, plane.axis, -1).sum((0, 1)) * unit
    slices = [{"slice": int(z), "volume_ml": float(by_slice[z])} for z in np.flatnonzero(by_slice)]
    phase = series.phases[0]
    items = [
        Measurement(
            "volume", "Hemorrhage volume", float(mask.sum()) * unit, "mL", VOLUME, structure=blood.index, phase=phase
        ),
        Measurement(
            "abc2_volume",
            "Hemorrhage volume by ABC/2 (for comparison only)",
            sum(part["abc2_ml"] for part in parts),
            "mL",
            structure=blood.index,
            phase=phase,
        ),
        Measurement(
            "components",
            "Number of separate parts",
            float(len(parts)),
            "1",
            structure=blood.index,
            phase=phase,
        ),
    ]
    notes = ["ABC/2 is for comparison only; the volume is the sum of the voxels"]
    if len(series.phases) > 1:
        notes.append(f"only the first of {len(series.phases)} phases is measured")
    return items, {"slices": slices, "parts": parts[:LISTED_PARTS], "voxel_volume_ml": unit, "notes": notes}


def hemorrhage_flags(items: Sequence[Measurement], evidence: Mapping[str, float]) -> list[Flag]:
    """Flags blood that may have been missed, and a skull that was not found.

    Args:
        items: what was measured.
        evidence: ``highest_probability`` and ``skull_found``, as far as the bundle's transforms left them.
    """
    flags = []
    if evidence.get("skull_found") == 0:
        flags.append(
            Flag("SKULL_NOT_FOUND", "the inside of the skull was not found: findings outside of it are not left out")
        )
    (volume,) = (item.value for item in items if item.name == "volume")
    likely = evidence.get("highest_probability", 0.0)
    if volume == 0 and likely >= MAYBE_MISSED:
        flags.append(
            Flag("MAYBE_MISSED", f"the mask is empty, but the probability of blood reaches {likely:.0%}: look")
        )
    return flags


def abc_of(part: NDArray[np.bool_], plane: Plane) -> tuple[float, float, float]:
    """Returns A, B and C of one part of a hemorrhage in mm; see the head of this file.

    Args:
        part: (X, Y, Z), not empty.
        plane: the slices of the volume that it was cut from.
    """
    slices = np.moveaxis(part, plane.axis, -1)
    areas = slices.sum(axis=(0, 1))
    points = outline_points(slices[..., int(areas.argmax())], plane.basis)
    a, direction = longest_diameter(points)
    across = points @ np.array([-direction[1], direction[0]])
    shares = areas / areas.max()
    weight = np.where(shares > FULL_SHARE, 1.0, np.where(shares >= HALF_SHARE, 0.5, 0.0)).sum()
    return a, float(np.ptp(across)), float(weight) * plane.thickness
