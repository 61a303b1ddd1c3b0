"""What scores tell beside the mask: numbers from which flags of doubt are raised."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from convformer_monai.transforms.confidence import CLASSES
from convformer_monai.transforms.phases import best_class

__all__ = ["EVIDENCE", "EXPECTED_DICE", "NoteDoubtd", "add_evidence", "box_around", "expected_dice"]

PIECE = 2**20  # voxels at a time: nothing of the size of the image is made
EVIDENCE = "evidence"  # the key under which transforms leave numbers for the flags
EXPECTED_DICE = "expected_dice"
MARGIN = 10  # pixels
SLICES = 32  # whose probabilities are held at a time


def add_evidence(data: dict[Hashable, Any], **numbers: float) -> None:
    """Adds numbers to what earlier transforms left."""
    data[EVIDENCE] = {**data.get(EVIDENCE, {}), **numbers}


def box_around(mask: torch.Tensor) -> tuple[slice, slice]:
    """The box in the plane around a mask (X, Y) or (X, Y, Z), grown by 10 pixels; all, if the mask is empty."""
    box = []
    for axis in range(2):
        there = mask.movedim(axis, 0).flatten(1).any(1).nonzero()
        last = mask.shape[axis]
        box.append(slice(max(0, int(there[0]) - MARGIN), int(there[-1]) + MARGIN + 1) if len(there) else slice(0, last))
    return box[0], box[1]


def expected_dice(scores: torch.Tensor, temperature: float = 1.0) -> float | None:
    """The Dice that class probabilities promise the mask of the most probable classes.

    For a structure with probabilities p and mask M it is ``2 sum_M(p) / (|M| + sum(p))``, the soft Dice confidence of
    Borges et al., arXiv 2402.10665. It is as good as the probabilities, so they should be calibrated. Voxels outside
    the box around the mask do not count: what is calibrated near the structures promises too much far from them.

    Args:
        scores: logits (K, X, Y) or (K, X, Y, Z), background first.
        temperature: by which they are divided; Guo et al., "On calibration of modern neural networks", ICML 2017.

    Returns:
        The mean over the structures that the mask has, 0 to 1; ``None`` if it has none.
    """
    volume = scores if scores.ndim == 4 else scores[..., None]  # (K, X, Y, Z)
    slabs = volume.split(SLICES, dim=-1)
    rows, columns = box_around(torch.stack([(best_class(slab) > 0).any(-1) for slab in slabs]).any(0))
    inside, sizes, total = (torch.zeros(len(scores), dtype=torch.float64) for _ in range(3))
    for slab in slabs:
        probabilities = (slab[:, rows, columns].float() / temperature).softmax(0).flatten(1)  # (K, N)
        highest, best = probabilities.max(0)
        inside.index_add_(0, best.cpu(), highest.double().cpu())
        sizes += torch.bincount(best, minlength=len(scores)).cpu()
        total += probabilities.sum(1, dtype=torch.float64).cpu()
    there = sizes[1:] > 0
    if not there.any():
        return None
    return float((2 * inside[1:] / (sizes[1:] + total[1:]))[there].mean())


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
