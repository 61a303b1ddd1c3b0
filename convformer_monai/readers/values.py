"""What the values of an image tell where its header tells nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_grey", "looks_like_ct", "mask_values"]

AIR_HU = (-1100.0, -900.0)
AIR_SHARE = 0.03  # of the voxels that are not padding; a head has half of its volume in air
MOST_STRUCTURES = 10


def looks_like_ct(values: NDArray[Any]) -> bool:
    """Tells whether values are plainly Hounsfield units: much air, and nothing below it but one value of padding.

    Args:
        values: of a volume, any shape.
    """
    padding = values < AIR_HU[0]
    air = np.count_nonzero(values < AIR_HU[1]) - np.count_nonzero(padding)
    if air < AIR_SHARE * (values.size - np.count_nonzero(padding)) or air == 0:
        return False
    below = values[padding]
    return bool(below.size == 0 or below.min() == below.max())


def mask_values(values: NDArray[Any]) -> list[int]:
    """The values of what can only be a label map: 2 to 10 whole numbers from 0, below 256. Empty for an image.

    Args:
        values: of an image, any shape.
    """
    low, high = float(values.min()), float(values.max())
    if low != 0 or not 0 < high < 256 or (values % 1).any():
        return []
    found = np.flatnonzero(np.bincount(values.astype(np.uint8).ravel()))
    return found.tolist() if len(found) <= MOST_STRUCTURES else []


def is_grey(pixels: NDArray[Any]) -> bool:
    """Tells whether a photograph has no colours.

    Args:
        pixels: (3, X, Y).
    """
    return bool((pixels[0] == pixels[1]).all() and (pixels[1] == pixels[2]).all())
