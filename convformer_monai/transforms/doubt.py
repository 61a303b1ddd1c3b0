"""What the scores of one structure tell beside its mask: numbers from which flags of doubt are raised."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from convformer_monai.transforms.confidence import CLASSES
from convformer_monai.transforms.geometry import voxel_volume_ml

__all__ = ["EVIDENCE", "NoteDoubtd", "add_evidence"]

EVIDENCE = "evidence"  # the key under which transforms leave numbers for the flags


def add_evidence(data: dict[Hashable, Any], **numbers: float) -> None:
    """Adds numbers to what earlier transforms left."""
    data[EVIDENCE] = {**data.get(EVIDENCE, {}), **numbers}


class NoteDoubtd(MapTransform):
    """Notes the highest probability, and the volume in which it is above a low level; the scores stay as they are.

    An empty mask hides whether the network saw nothing, or something it was not sure enough of.

    Args:
        keys: scores (T * 2, X, Y, Z), phase-major, background before the structure.
        level: probability above which a voxel counts for ``low_ml``.
        image_key: the image (T, X, Y, Z) on the same grid, for the size of a voxel.
        allow_missing_keys: do not fail if a key is missing.
    """

    def __init__(
        self, keys: KeysCollection, level: float = 0.2, image_key: str = "image", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level}")
        self.level = level
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Adds ``highest_probability`` and ``low_ml``, of the phase with most, to the evidence."""
        result = dict(data)
        affine = np.asarray(result[self.image_key].affine, dtype=np.float64)
        voxel_ml = voxel_volume_ml(affine)
        for key in self.key_iterator(result):
            highest, volume = 0.0, 0.0
            for background, structure in convert_to_tensor(result[key], track_meta=False).float().split(CLASSES):
                probability = (structure - background).sigmoid()
                highest = max(highest, float(probability.max()))
                volume = max(volume, int((probability > self.level).sum()) * voxel_ml)
            add_evidence(result, highest_probability=highest, low_ml=volume)
        return result
