"""How little the probabilities of a slice agree with its mask.

The doubt of a slice is 1 - Dice between its mask and the probabilities that the mask comes of, with the soft Dice of
Milletari et al. (V-Net, 3DV 2016) without squares: ``1 - 2 sum(p m) / (sum(p) + sum(m))``. A mask of voxels that are
all certain has 0; one of coin tosses 0.5, and one that holds none of what is probable 1. Small structures have more
outline for their area, and so more doubt.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["slice_doubt"]

FULL = 255
LEAST_VOXELS = 1.0  # of probability and mask together: less is nothing at all


def slice_doubt(
    labels: NDArray[np.uint8], probabilities: NDArray[np.uint8], axis: int = 2
) -> tuple[tuple[float | None, ...], ...]:
    """Measures the doubt of each slice.

    Args:
        labels: (phases, X, Y, Z); more than 0 is mask.
        probabilities: that a voxel belongs to any structure, times 255, of the same shape.
        axis: of (X, Y, Z), along which the slices are stacked.

    Returns:
        For each phase, of each slice 0 to 1; ``None`` where there is neither mask nor probability.

    Raises:
        ValueError: if the shapes differ.
    """
    if labels.shape != probabilities.shape:
        raise ValueError(f"probabilities must have the shape of labels, {labels.shape}, got {probabilities.shape}")
    others = tuple(other for other in range(3) if other != axis)
    result = []
    for mask, likely in zip(labels, probabilities, strict=True):
        inside = mask > 0
        total = likely.sum(axis=others, dtype=np.float64) / FULL + inside.sum(axis=others)
        shared = np.where(inside, likely, 0).sum(axis=others, dtype=np.float64) / FULL
        result.append(
            tuple(
                float(1 - 2 * both / one) if one >= LEAST_VOXELS else None
                for both, one in zip(shared, total, strict=True)
            )
        )
    return tuple(result)
