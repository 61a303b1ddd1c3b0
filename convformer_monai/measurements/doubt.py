"""How little the probabilities of a slice agree with its mask.

The doubt of a slice is 1 - Dice between its mask and the probabilities that the mask comes of, with the soft Dice of
Milletari et al. (V-Net, 3DV 2016) without squares: ``1 - 2 sum(p m) / (sum(p) + sum(m))``. A mask of voxels that are
all certain has 0; one of coin tosses 0.5, and one that holds none of what is probable 1. Small structures have more
outline for their area, and so more doubt. What lies more than 10 pixels from the box around the mask does not count:
far from the structures, small probabilities of many voxels add up to much.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["slice_doubt"]

FULL = 255
MARGIN = 10  # pixels
PROBABLE = 128  # a half


def slice_doubt(
    labels: NDArray[np.uint8], probabilities: NDArray[np.uint8], axis: int = 2
) -> tuple[tuple[float | None, ...], ...]:
    """Measures the doubt of each slice.

    Args:
        labels: (phases, X, Y, Z); more than 0 is mask.
        probabilities: that a voxel belongs to any structure, times 255, of the same shape.
        axis: of (X, Y, Z), along which the slices are stacked.

    Returns:
        For each phase, of each slice 0 to 1; ``None`` where there is neither mask nor a voxel as probable as not.

    Raises:
        ValueError: if the shapes differ.
    """
    if labels.shape != probabilities.shape:
        raise ValueError(f"probabilities must have the shape of labels, {labels.shape}, got {probabilities.shape}")
    return tuple(
        tuple(
            _doubt(one > 0, probable)
            for one, probable in zip(np.moveaxis(mask, axis, 0), np.moveaxis(likely, axis, 0), strict=True)
        )
        for mask, likely in zip(labels, probabilities, strict=True)
    )


def _doubt(mask: NDArray[np.bool_], likely: NDArray[np.uint8]) -> float | None:
    """The doubt of one slice (X, Y)."""
    if not mask.any():
        return 1.0 if likely.max() >= PROBABLE else None
    box = tuple(
        slice(max(0, int(places.min()) - MARGIN), int(places.max()) + MARGIN + 1) for places in np.nonzero(mask)
    )
    inside, near = mask[box], likely[box]
    shared = near[inside].sum(dtype=np.float64) / FULL
    return float(1 - 2 * shared / (near.sum(dtype=np.float64) / FULL + inside.sum()))
