"""The one grid on which parallel slices lie: same plane, one line, even steps; or the refusal that says where not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.dicom.frames import FrameHeader
from convformer_monai.readers.limits import check_spacing

__all__ = ["Plane", "SliceLine", "common_plane", "slice_line"]

Array = NDArray[np.float64]

ORIENTATION_ATOL = 1e-3  # of a direction cosine: 0.25 mm over 250 mm
SPACING_RTOL = 1e-3
OFFSET_ATOL_MM, OFFSET_RTOL = 0.05, 0.02  # of a slice from its even place: positions are often rounded to 0.1 mm
MAX_OFFSET_RTOL = 0.2
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Plane:
    """What all slices of a stack have in common.

    Attributes:
        row: unit vector along a row, the direction of growing column index (X), LPS.
        column: unit vector down a column, the direction of growing row index (Y), LPS.
        spacing: mm between rows, and between columns.
        size: rows and columns.
    """

    row: Array
    column: Array
    spacing: tuple[float, float]
    size: tuple[int, int]

    @property
    def normal(self) -> Array:
        """Unit normal; the slices are stacked along it."""
        normal: Array = np.cross(self.row, self.column)
        return normal / np.linalg.norm(normal)


@dataclass(frozen=True)
class SliceLine:
    """Where the slices lie along their stack.

    Attributes:
        origin: position of the first slice, LPS mm.
        step: from one voxel along Z to the next, LPS mm.
        indices: place of each slice along Z; whole numbers if the slices are evenly spaced.
        length: number of voxels along Z.
        problem: refusal code and message if they are not evenly spaced.
    """

    origin: Array
    step: Array
    indices: Array
    length: int
    problem: tuple[RefusalCode, str] | None = None

    def affine(self, plane: Plane) -> Array:
        """Voxel index (X, Y, Z) to RAS mm (PS3.3 equation C.7.6.2.1-1); sheared if the gantry was tilted."""
        matrix = np.eye(4)
        matrix[:3, 0] = plane.row * plane.spacing[1]
        matrix[:3, 1] = plane.column * plane.spacing[0]
        matrix[:3, 2] = self.step
        matrix[:3, 3] = self.origin
        return np.asarray(LPS_TO_RAS @ matrix)

    def tilt_degrees(self, plane: Plane) -> float:
        """Angle between the direction in which the slices are stacked and their normal."""
        cosine = float(self.step @ plane.normal / np.linalg.norm(self.step))
        return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def common_plane(frames: Sequence[FrameHeader]) -> Plane:
    """Checks that all frames have one size, pixel spacing and orientation.

    Raises:
        InputRefused: if one differs, or they are not plausible.
    """
    first = frames[0]
    orientation = np.median([frame.orientation for frame in frames], axis=0)
    row, column = orientation[:3], orientation[3:]
    lengths = np.linalg.norm([row, column], axis=1)
    if not (np.allclose(lengths, 1.0, atol=1e-2) and abs(row @ column) < 1e-2):
        raise InputRefused(RefusalCode.NO_GEOMETRY, f"{first.path} has no valid orientation; export it again")
    for frame in frames:
        check_spacing(np.asarray(frame.spacing), frame.path)
    spacing = np.median([frame.spacing for frame in frames], axis=0)
    for frame in frames:
        if frame.size != first.size:
            raise InputRefused(
                RefusalCode.GEOMETRY_DISAGREES,
                f"{frame.path.parent}: {frame.name} has {_by(frame.size)} pixels, {first.name} {_by(first.size)}; "
                "leave the odd one out",
            )
        if not np.allclose(frame.spacing, spacing, rtol=SPACING_RTOL):
            raise InputRefused(
                RefusalCode.GEOMETRY_DISAGREES,
                f"{frame.path.parent}: {frame.name} has another pixel spacing than the other slices; leave it out",
            )
        if not np.allclose(frame.orientation, orientation, atol=ORIENTATION_ATOL):
            raise InputRefused(
                RefusalCode.GEOMETRY_DISAGREES,
                f"{frame.path.parent}: {frame.name} has another orientation than the other slices; leave it out",
            )
    return Plane(row / lengths[0], column / lengths[1], (float(spacing[0]), float(spacing[1])), first.size)


def slice_line(slices: Sequence[FrameHeader], plane: Plane) -> SliceLine:
    """Finds the line and the even steps on which slices lie.

    Args:
        slices: sorted along the normal.
        plane: what they have in common.

    Returns:
        Where they lie. Of unevenly spaced ones, the steps are about the smallest gap between any two and the last slice
        lies on the last step, so that nothing is lost when they are resampled.

    Raises:
        InputRefused: if they do not lie on one line, or their distance is not plausible.
    """
    positions = np.array([frame.position for frame in slices])
    heights = positions @ plane.normal
    if len(slices) == 1:
        if not slices[0].thickness:
            raise InputRefused(RefusalCode.NO_SPACING, f"{slices[0].path} is one slice and does not tell its thickness")
        check_spacing(np.asarray([slices[0].thickness]), slices[0].path)
        return SliceLine(positions[0], plane.normal * slices[0].thickness, np.zeros(1), 1)
    gaps = np.diff(heights)
    along = (positions[-1] - positions[0]) / (heights[-1] - heights[0])  # mm per mm of height
    aside = np.linalg.norm(positions - positions[0] - np.outer(heights - heights[0], along), axis=1)
    if aside.max() > _tolerance(float(gaps.min())):
        worst = slices[int(aside.argmax())]
        raise InputRefused(
            RefusalCode.GEOMETRY_DISAGREES,
            f"{worst.path.parent}: {worst.name} lies {aside.max():.2f} mm beside the line of the others; leave it out",
        )
    even = float(heights[-1] - heights[0]) / len(gaps)
    off = np.abs(heights - heights[0] - even * np.arange(len(slices)))
    problem = None if off.max() <= _tolerance(even) else _uneven(slices, heights)
    count = len(gaps) if problem is None else int(np.ceil((heights[-1] - heights[0]) / gaps.min() - 1e-3))
    spacing = float(heights[-1] - heights[0]) / count
    check_spacing(np.asarray([spacing]), slices[0].path)
    indices = np.arange(len(slices), dtype=float) if problem is None else (heights - heights[0]) / spacing
    return SliceLine(positions[0], along * spacing, indices, count + 1, problem)


def _uneven(slices: Sequence[FrameHeader], heights: Array) -> tuple[RefusalCode, str]:
    """Tells a missing slice from a change of spacing."""
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    folder = slices[0].path.parent
    wide = np.flatnonzero(np.abs(gaps - usual) > max(OFFSET_ATOL_MM, 0.05 * usual))
    times = gaps[wide] / usual
    lone = len(wide) == 1 or (len(wide) <= len(gaps) / 4 and (np.diff(wide) > 1).all())
    if len(gaps) > 2 and lone and (times > 1.5).all() and (np.abs(times - np.rint(times)) < 0.1).all():
        missing = int((np.rint(times) - 1).sum())
        before, after = slices[wide[0]], slices[wide[0] + 1]
        return (
            RefusalCode.MISSING_SLICES,
            f"slices of {folder} are missing ({missing}), the first between {before.name} and {after.name} ("
            f"{heights[wide[0]]:.1f} and {heights[wide[0] + 1]:.1f} mm along the normal, else {usual:.2f} mm apart); "
            "fetch the whole series",
        )
    return (
        RefusalCode.UNEVEN_SPACING,
        f"{folder}: slices lie from {gaps.min():.2f} to {gaps.max():.2f} mm apart; give an evenly spaced "
        "series, or resample with --resample-uneven",
    )


def _tolerance(spacing: float) -> float:
    return min(max(OFFSET_ATOL_MM, OFFSET_RTOL * spacing), MAX_OFFSET_RTOL * spacing)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
