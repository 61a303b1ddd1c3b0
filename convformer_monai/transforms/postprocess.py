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

__all__ = ["KeepLargestPerPhased", "keep_largest"]


def keep_largest(labels: NDArray[np.uint8], structures: Sequence[int]) -> NDArray[np.uint8]:
    """Sets all but the largest connected part of each structure to background.

    Args:
        labels: (X, Y, Z) label map.
        structures: label values that are each one connected piece of anatomy; voxels touch at faces, edges, corners.

    Returns:
        The cleaned copy.
    """
    from scipy import ndimage

    cleaned = labels.copy()
    for structure in structures:
        parts, count = ndimage.label(labels == structure, structure=np.ones((3, 3, 3)))
        if count > 1:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            cleaned[(parts > 0) & (parts != sizes.argmax())] = 0
    return cleaned


class KeepLargestPerPhased(MapTransform):
    """Keeps the largest connected part of each structure in each phase.

    Args:
        keys: label maps (T, X, Y, Z).
        structures: label values to clean.
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
