"""Millimetres of voxels: volumes and in-plane coordinates under any invertible affine, sheared ones included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convformer_monai.tasks.task import Code
from convformer_monai.transforms.geometry import slice_axis

__all__ = ["VOLUME", "Plane", "longest_diameter", "outline_points"]

VOLUME = Code("SCT", "118565006", "Volume")


@dataclass(frozen=True)
class Plane:
    """The slices of a volume.

    Attributes:
        axis: along which they are stacked.
        basis: (2, 2) from the two in-plane indices to mm in the plane, rectangular even where the axes are not.
        thickness: distance between slices along their normal, mm.
    """

    axis: int
    basis: NDArray[np.float64]
    thickness: float

    @staticmethod
    def of(affine: NDArray[np.float64], shape: tuple[int, ...]) -> Plane:
        """Finds the slices of a volume.

        Args:
            affine: (4, 4) voxel index to mm.
            shape: (X, Y, Z).
        """
        axis = slice_axis(affine, shape)
        columns = np.delete(affine[:3, :3], axis, axis=1)
        basis = np.asarray(np.linalg.qr(columns)[1], dtype=np.float64)
        area = abs(float(np.linalg.det(basis)))
        return Plane(axis, basis, abs(float(np.linalg.det(affine[:3, :3]))) / area)


def outline_points(mask: NDArray[np.bool_], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns points of the outlines of a mask, halfway between its pixels and their neighbours.

    Args:
        mask: (X, Y), not empty.
        basis: (2, 2) from index to mm.

    Returns:
        (N, 2) mm.
    """
    padded = np.pad(mask, 1)
    points = []
    for step in np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]):
        neighbour = np.roll(padded, -step, axis=(0, 1))  # never wraps: the rim is empty
        points.append(np.argwhere(padded & ~neighbour) - 1 + 0.5 * step)
    return np.asarray(np.concatenate(points) @ basis.T, dtype=np.float64)


def longest_diameter(points: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Returns the largest distance between two points (Feret's diameter), and its direction.

    Args:
        points: (N, 2).
    """
    from scipy.spatial import ConvexHull, QhullError
    from scipy.spatial.distance import cdist

    try:
        points = points[ConvexHull(points).vertices]
    except QhullError:  # fewer than three points, or all on a line
        pass
    distances = cdist(points, points)
    first, second = np.unravel_index(int(distances.argmax()), distances.shape)
    length = float(distances[first, second])
    direction = (points[second] - points[first]) / length if length > 0 else np.array([1.0, 0.0])
    return length, direction
