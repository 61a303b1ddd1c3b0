"""What the scores of one structure tell beside its mask: numbers from which flags of doubt are raised."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from convformer_monai.transforms.confidence import CLASSES

__all__ = ["EVIDENCE", "NoteDoubtd", "add_evidence"]

PIECE = 2**20  # voxels at a time: nothing of the size of the image is made
EVIDENCE = "evidence"  # the key under which transforms leave numbers for the flags


def add_evidence(data: dict[Hashable, Any], **numbers: float) -> None:
    """Adds numbers to what earlier transforms left."""
    data[EVIDENCE] = {**data.get(EVIDENCE, {}), **numbers}


class NoteDoubtd(MapTransform):
    """Notes the highest probability; the scores stay as they are.

    An empty mask hides whether the network saw nothing, or something it was not sure enough of.

    Args:
        keys: scores (T * 2, X, Y, Z), phase-major, background before the structure.
        allow_missing_keys: do not fail if a key is missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Adds ``highest_probability``, of all phases, to the evidence."""
        result = dict(data)
        for key in self.key_iterator(result):
            highest = 0.0
            for background, structure in convert_to_tensor(result[key], track_meta=False).float().split(CLASSES):
                for low, high in zip(background.flatten().split(PIECE), structure.flatten().split(PIECE), strict=True):
                    highest = max(highest, float((high - low).sigmoid().max()))
            add_evidence(result, highest_probability=highest)
        return result
