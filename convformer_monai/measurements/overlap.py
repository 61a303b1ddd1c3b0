"""Overlap of two label maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["dice"]


def dice(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Returns the Dice of two label maps, all structures together; 1 if both are empty.

    Args:
        first: label map, or mask, of any shape.
        second: another of the same shape.
    """
    size = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return 2 * int(np.count_nonzero((first == second) & (first > 0))) / size if size else 1.0
