"""What the values of an image tell where its header tells nothing; looked at in pieces, so that no copy is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GREY", "is_grey", "label_values", "looks_like_ct", "mask_values", "pieces"]

PIECE = 2**20  # values

AIR_HU = (-1100.0, -900.0)
AIR_SHARE = 0.03  # of the voxels that are not padding; a head has half of its volume in air
MOST_STRUCTURES = 10
GREY = "the photograph is grey, not coloured"


def looks_like_ct(values: NDArray[Any]) -> bool:
    """Tells whether values are plainly Hounsfield units: much air, and nothing below it but one value of padding.

    Args:
        values: of a volume, any shape.
    """
    padding: int = 0
    air: int = 0
    low, high = np.inf, -np.inf  # of the padding
    for piece in pieces(values):
        below = piece[piece < AIR_HU[0]]
        padding += below.size
        air += int(np.count_nonzero(piece < AIR_HU[1])) - below.size
        if below.size:
            low, high = min(low, float(below.min())), max(high, float(below.max()))
    if air < AIR_SHARE * (values.size - padding) or air == 0:
        return False
    return padding == 0 or low == high


def mask_values(values: NDArray[Any]) -> list[int]:
    """The values of what can only be a label map: 2 to 10 whole numbers from 0, below 256. Empty for an image.

    Args:
        values: of an image, any shape.
    """
    low, high = float(values.min()), float(values.max())
    if low != 0 or not 0 < high < 256 or any((piece % 1).any() for piece in pieces(values)):
        return []
    found = label_values(values)
    return found if len(found) <= MOST_STRUCTURES else []


def label_values(labels: NDArray[Any]) -> list[int]:
    """The values of a label map, in order.

    Args:
        labels: whole numbers from 0 to 255, any shape and type.
    """
    counts = sum(np.bincount(piece.astype(np.uint8), minlength=256) for piece in pieces(labels))
    return np.flatnonzero(counts).tolist()


def pieces(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yields all values of an array, flat, about a million at a time, in the order of the memory.

    Args:
        values: any shape; views, and no copies, of one that fills its memory, whatever the order of its axes.
    """
    flat = values.ravel(order="K")
    for start in range(0, flat.size, PIECE):
        yield flat[start : start + PIECE]


def is_grey(pixels: NDArray[Any]) -> bool:
    """Tells whether a photograph has no colours.

    Args:
        pixels: (3, X, Y).
    """
    return bool((pixels[0] == pixels[1]).all() and (pixels[1] == pixels[2]).all())
