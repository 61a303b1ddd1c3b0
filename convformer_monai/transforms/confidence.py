"""A mask of those voxels that are probable enough, in parts that the network is sure of somewhere.

Networks for hemorrhage find blood in blood-free slices mostly as parts of middling probability: streaks beside bone,
calcifications. Real blood has a core that the network is sure of. A part of the mask is therefore kept, whole, if the
probability reaches ``peak`` anywhere in it, as in Canny's thresholding with hysteresis (IEEE TPAMI 1986). And where
masks of the training data are drawn generously, a voxel more probable than not may lie outside of the blood: hence
``threshold``. What is seen in one slice of several only, and what is tiny, needs more evidence still.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_tensor

from convformer_monai.transforms.geometry import voxel_volume_ml
from convformer_monai.transforms.postprocess import extent

__all__ = ["KeepConfidentPartsd", "make_impossible"]

CLASSES = 2  # background and one structure
IMPOSSIBLE = 20.0  # by so much the structure's score lies below the background's: a probability of 2e-9


class KeepConfidentPartsd(MapTransform):
    """Changes the class scores of one structure such that its mask holds what is probable, in parts with a sure core.

    Args:
        keys: scores (T * 2, X, Y, Z), phase-major, background before the structure; a softmax over the two gives
            probabilities. Voxels of a part touch at faces, edges or corners.
        peak: probability that a part must reach somewhere; at ``threshold`` every part is kept.
        threshold: probability above which a voxel belongs to the structure; the scores are shifted to be equal there.
        lone_peak: ``peak`` of a part that lies in one slice, where there are several; ``None`` for the same.
        least_ml: volume that a part must have.
        least_mm: depth along Z that a part must have, where the image is deeper: in thin slices blood is seen in more
            than one.
        image_key: the image (T, X, Y, Z) on the same grid, for the size of a voxel; needed for the two before.
        allow_missing_keys: do not fail if a key is missing.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        keys: KeysCollection,
        peak: float,
        threshold: float = 0.5,
        lone_peak: float | None = None,
        least_ml: float = 0.0,
        least_mm: float = 0.0,
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
        if not threshold <= peak <= 1:
            raise ValueError(f"peak must lie within threshold={threshold} and 1, got {peak}")
        if lone_peak is not None and not peak <= lone_peak <= 1:
            raise ValueError(f"lone_peak must lie within peak={peak} and 1, got {lone_peak}")
        for name, least in (("least_ml", least_ml), ("least_mm", least_mm)):
            if least < 0:
                raise ValueError(f"{name} must not be negative, got {least}")
        self.peak = peak
        self.threshold = threshold
        self.lone_peak = peak if lone_peak is None else lone_peak
        self.least_ml = least_ml
        self.least_mm = least_mm
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Shifts the scores, and makes the structure impossible in the parts that are not kept.

        Raises:
            ValueError: if the number of channels is odd.
        """
        result = dict(data)
        least = slices = 0.0
        if self.least_ml or self.least_mm:
            affine = np.asarray(result[self.image_key].affine)
            least = self.least_ml / voxel_volume_ml(affine)
            slices = self.least_mm / float(np.linalg.norm(affine[:3, 2]))
        for key in self.key_iterator(result):
            scores = convert_to_tensor(result[key], track_meta=False).float().clone()
            if len(scores) % CLASSES:
                raise ValueError(f"{key} must have two channels for each phase, got {len(scores)}")
            for phase in scores.split(CLASSES):  # views
                self._clean(phase, least, slices)
            result[key] = convert_to_dst_type(scores, result[key])[0]
        return result

    def _clean(self, scores: torch.Tensor, least: float, slices: float) -> None:
        """Cleans (2, X, Y, Z) in place; ``least`` is a number of voxels, ``slices`` one of slices."""
        from scipy import ndimage

        background, structure = scores
        probability = (structure - background).sigmoid_().cpu().numpy()
        structure -= math.log(self.threshold / (1 - self.threshold))
        mask = probability > self.threshold
        box = extent(mask)
        parts, count = ndimage.label(mask[box], structure=np.ones([3] * probability.ndim))
        if not count:
            return
        inside = parts > 0
        numbers, peaks = parts[inside], np.zeros(count + 1, dtype=probability.dtype)
        np.maximum.at(peaks, numbers, probability[box][inside])
        depths = np.array([0, *(one[-1].stop - one[-1].start for one in ndimage.find_objects(parts))])
        needed = np.where((depths == 1) & (probability.shape[-1] > 1), self.lone_peak, self.peak)
        doubtful = (peaks < needed) | (np.bincount(numbers, minlength=count + 1) < least)
        if probability.shape[-1] >= slices:
            doubtful |= depths < slices
        doubtful[0] = False  # the background
        make_impossible(scores[(slice(None), *box)], torch.from_numpy(doubtful[parts]).to(scores.device))


def make_impossible(scores: torch.Tensor, where: torch.Tensor) -> None:
    """Makes the structure impossible in some voxels, in place.

    Args:
        scores: (2, X, Y, Z), background before the structure.
        where: (X, Y, Z) bool.
    """
    for (background, structure), out in zip(scores.unbind(1), where, strict=True):  # by X: nothing large is made
        structure.copy_(torch.where(out, background - IMPOSSIBLE, structure))
