"""Clean-up of label maps; each phase of a cine is a volume of its own.

MONAI's ``KeepLargestConnectedComponentd`` takes more than one channel for one-hot classes, so it cannot be used on the
label maps (T, X, Y, Z) of a cine; it also needs scikit-image.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_numpy
from numpy.typing import NDArray

__all__ = ["FillHolesd", "KeepLargestPerPhased", "extent", "fill_holes", "keep_largest", "largest_part"]


def keep_largest(labels: NDArray[np.uint8], structures: Sequence[int]) -> NDArray[np.uint8]:
    """Sets all but the largest connected part of an organ, and then of each of its structures, to background.

    The organ comes first, so that a large false part elsewhere cannot displace a structure of it.

    Args:
        labels: (X, Y, Z) or (X, Y) label map.
        structures: label values that are each one connected piece of anatomy, and together one organ; voxels touch at
            faces, edges, corners.

    Returns:
        The cleaned copy.
    """
    cleaned = labels.copy()
    for mask_of in (structures, *([structure] for structure in structures)):
        mask = np.isin(cleaned, mask_of)
        cleaned[mask & ~largest_part(mask)] = 0
    return cleaned


def largest_part(mask: NDArray[np.bool_], corners: bool = True) -> NDArray[np.bool_]:
    """The largest connected part of a mask, whose voxels touch at faces, or also at edges and ``corners``."""
    from scipy import ndimage

    box = extent(mask)
    parts, count = ndimage.label(mask[box], structure=np.ones([3] * mask.ndim) if corners else None)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest = np.zeros_like(mask)
    largest[box] = parts == sizes.argmax()
    return largest


def extent(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds a mask; the first voxel, if the mask is empty.

    Numbering the parts of a mask takes four bytes a voxel: within its box that is little.
    """
    box = []
    for axis in range(mask.ndim):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 1))
    return tuple(box)


class KeepLargestPerPhased(MapTransform):
    """Keeps the largest connected part of an organ and of each of its structures in each phase.

    Args:
        keys: label maps (T, X, Y, Z), of photographs (1, X, Y).
        structures: label values that make up the organ.
        allow_missing_keys: do not fail if a key is missing.
    """

    def __init__(self, keys: KeysCollection, structures: Sequence[int], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.structures = tuple(int(structure) for structure in structures)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cleans each phase by itself."""
        result = dict(data)
        for key in self.key_iterator(result):
            labels = convert_to_numpy(result[key])
            cleaned = np.stack([keep_largest(phase, self.structures) for phase in labels])
            result[key] = convert_to_dst_type(cleaned, result[key])[0]
        return result


def fill_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Adds to a mask what it encloses.

    Why not ``scipy.ndimage.binary_fill_holes``: it repeats a dilation until nothing changes, minutes on a large
    photograph; here the background is labelled once.

    Args:
        mask: (X, Y); background pixels touch at their edges.

    Returns:
        The mask with every background part that does not reach the border.
    """
    from scipy import ndimage

    parts, count = ndimage.label(~mask)
    if count < 2:
        return mask
    open_parts = np.zeros(count + 1, dtype=bool)
    for border in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        open_parts[border] = True
    open_parts[0] = False
    filled: NDArray[np.bool_] = ~open_parts[parts]
    return filled


class FillHolesd(MapTransform):
    """Fills the holes of masks of one structure in pictures.

    Args:
        keys: masks (1, X, Y), 0 and 1.
        allow_missing_keys: do not fail if a key is missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Fills each mask."""
        result = dict(data)
        for key in self.key_iterator(result):
            filled = fill_holes(convert_to_numpy(result[key])[0] > 0)[None].astype(np.uint8)
            result[key] = convert_to_dst_type(filled, result[key])[0]
        return result
