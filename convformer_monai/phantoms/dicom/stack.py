"""Stacks of slices in patient space, and the field whose value anywhere is known.

DICOM places each slice by the centre of its first pixel, two directions and a pixel spacing (PS3.3 C.7.6.2). A stack
keeps just these, so it can be oblique, sheared (gantry tilt) and uneven, which one affine cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

__all__ = ["PER_MM", "AT_ORIGIN", "PER_PHASE", "SliceStack", "linear_value"]

Array = NDArray[np.float64]

PER_MM = (7.0, 11.0, 17.0)  # along L, P, S; no two alike, so that no swap or flip of axes goes unseen
AT_ORIGIN = 1000.0
PER_PHASE = 100.0
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def linear_value(points_lps_mm: ArrayLike, phase: int = 0) -> Array:
    """The value of the linear phantom at points in the patient.

    Args:
        points_lps_mm: (..., 3), mm to the patient's left, posterior and superior, as DICOM has it.
        phase: 0-based place in time.

    Returns:
        Values (...); what is stored differs by rounding only.
    """
    points = np.asarray(points_lps_mm, dtype=np.float64)
    return np.asarray(points @ np.array(PER_MM) + AT_ORIGIN + PER_PHASE * phase)


@dataclass(frozen=True)
class SliceStack:
    """Where the pixels of parallel slices are, in LPS mm.

    Attributes:
        size: columns (X) and rows (Y) of a slice.
        spacing: mm between columns and between rows (DICOM's PixelSpacing has the two the other way round).
        row: unit vector along a row, the direction of growing X.
        column: unit vector down a column, the direction of growing Y.
        positions: (Z, 3) centre of each slice's first pixel.
    """

    size: tuple[int, int]
    spacing: tuple[float, float]
    row: Array
    column: Array
    positions: Array

    @classmethod
    def regular(
        cls,
        shape: Sequence[int] = (36, 32, 7),
        spacing: Sequence[float] = (0.8, 1.1, 2.5),
        *,
        angles: Sequence[float] = (0.0, 0.0, 0.0),
        tilt: float = 0.0,
        gaps: Sequence[float] | None = None,
        first: Sequence[float] = (-9.3, 4.1, -7.7),
    ) -> SliceStack:
        """A stack of axial slices, turned as a whole.

        Args:
            shape: voxels along X, Y and Z.
            spacing: mm along X and Y, and between neighbouring slices along the direction in which they are stacked.
            angles: degrees of rotation about L, P and S of the whole stack.
            tilt: degrees of gantry tilt about the X axis: the slices lean, the table moves on as before.
            gaps: mm between neighbouring slices along the stack, instead of an even ``spacing[2]``.
            first: the first pixel's centre.

        Raises:
            ValueError: if an argument does not fit the shape.
        """
        columns, rows, slices = (int(n) for n in shape)
        if min(columns, rows, slices) < 1:
            raise ValueError(f"shape must be three positive numbers, got {tuple(shape)}")
        steps = np.full(slices - 1, float(spacing[2])) if gaps is None else np.asarray(gaps, dtype=np.float64)
        if steps.shape != (slices - 1,):
            raise ValueError(f"gaps must be {slices - 1} numbers for {slices} slices, got {gaps!r}")
        whole = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
        lean = whole @ Rotation.from_euler("x", tilt, degrees=True).as_matrix()
        along = np.concatenate([[0.0], np.cumsum(steps)])
        return cls(
            size=(columns, rows),
            spacing=(float(spacing[0]), float(spacing[1])),
            row=lean[:, 0],
            column=lean[:, 1],
            positions=np.asarray(first, dtype=np.float64) + np.outer(along, whole[:, 2]),
        )

    @classmethod
    def from_affine(cls, shape: Sequence[int], affine: ArrayLike) -> SliceStack:
        """The stack of a volume whose last axis is the slices.

        Args:
            shape: voxels along X, Y and Z.
            affine: (4, 4) voxel index to RAS mm; X and Y at right angles.

        Raises:
            ValueError: if X and Y are not at right angles, which a DICOM slice cannot be.
        """
        matrix = np.asarray(affine, dtype=np.float64)
        axes, origin = LPS_TO_RAS @ matrix[:3, :3], LPS_TO_RAS @ matrix[:3, 3]
        lengths = np.linalg.norm(axes, axis=0)
        row, column = axes[:, 0] / lengths[0], axes[:, 1] / lengths[1]
        if abs(float(row @ column)) > 1e-4:
            raise ValueError(f"affine must have X and Y axes at right angles, got {matrix.tolist()}")
        return cls(
            size=(int(shape[0]), int(shape[1])),
            spacing=(float(lengths[0]), float(lengths[1])),
            row=row,
            column=column,
            positions=origin + np.outer(np.arange(shape[2]), axes[:, 2]),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along X, Y and Z."""
        return (*self.size, len(self.positions))

    @property
    def normal(self) -> Array:
        """Unit normal of the slices; a right-handed frame with ``row`` and ``column``."""
        return np.cross(self.row, self.column)

    @property
    def affine(self) -> Array:
        """Voxel index to RAS mm, (4, 4), sheared if the stack is tilted.

        Raises:
            ValueError: if the slices are not evenly spaced.
        """
        steps = np.diff(self.positions, axis=0)
        if len(steps) and not np.allclose(steps, steps[0], atol=1e-6):
            raise ValueError("the slices are not evenly spaced, so no affine places them")
        matrix = np.eye(4)
        matrix[:3, 0], matrix[:3, 1] = self.row * self.spacing[0], self.column * self.spacing[1]
        matrix[:3, 2] = steps[0] if len(steps) else self.normal
        matrix[:3, 3] = self.positions[0]
        matrix[:3] = LPS_TO_RAS @ matrix[:3]
        return matrix

    def points(self) -> Array:
        """Centre of every voxel, (X, Y, Z, 3) LPS mm."""
        x, y = (np.arange(n) * step for n, step in zip(self.size, self.spacing, strict=True))
        in_plane = x[:, None, None] * self.row + y[None, :, None] * self.column  # (X, Y, 3)
        return np.asarray(in_plane[:, :, None] + self.positions)

    def linear_volume(self, phases: int = 1) -> Array:
        """The linear phantom on this stack: (X, Y, Z), or (X, Y, Z, T) for several phases."""
        volumes = [linear_value(self.points(), phase) for phase in range(phases)]
        return volumes[0] if phases == 1 else np.stack(volumes, axis=-1)

    def reversed(self) -> SliceStack:
        """The same slices in the opposite order."""
        return replace(self, positions=self.positions[::-1].copy())
