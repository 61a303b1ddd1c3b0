"""Network output of a cine back on its own grid, one phase at a time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Invertd, InvertibleTransform
from monai.utils import convert_to_tensor

from convformer_monai.transforms.geometry import SLICES, stored_stack

__all__ = ["FULL", "InvertPhasesd", "best_class"]

FULL = 255  # a probability of 1


class InvertPhasesd(Invertd):
    """Inverts the preprocessing on class scores and takes the best class of each voxel of the native grid.

    Class *probabilities* are interpolated (linearly, within each slice), not labels, which gives smooth outlines at any
    native spacing. Only one phase at a time is held on the native grid, so a cine needs no more memory than a volume.

    Args:
        keys: class scores (T * K, X', Y', Z), phase-major, as
            :class:`convformer_monai.inferers.SliceBatchInferer` returns them; replaced by labels (T, X, Y, Z) uint8.
        transform: the preprocessing that was applied to ``orig_keys``.
        orig_keys: the preprocessed image (T, X', Y', Z); it tells the number of phases.
        image_channels: channels that one phase has: 3 of a photograph (3, X', Y'), whose labels are (1, X, Y).
        probabilities: instead of labels, how probable each structure is, times 255: ``(T * (K - 1), X, Y, Z)`` uint8,
            phase-major, without the background (class 0).
        temperature: by which scores are divided for ``probabilities``, so that they are calibrated; labels, which it
            does not change on the network's grid, are made without.
        allow_missing_keys: do not fail if a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: InvertibleTransform,
        orig_keys: KeysCollection = "image",
        image_channels: int = 1,
        probabilities: bool = False,
        temperature: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(
            keys, transform, orig_keys=orig_keys, nearest_interp=False, allow_missing_keys=allow_missing_keys
        )
        self.image_channels = image_channels
        self.probabilities = probabilities
        self.temperature = temperature if probabilities else 1.0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replaces the scores by labels on the native grid.

        Raises:
            ValueError: if the number of channels is not a multiple of the number of phases.
        """
        result = dict(data)
        for key, orig_key in self.key_iterator(result, self.orig_keys):
            scores = convert_to_tensor(result[key], track_meta=False)
            phases = int(result[orig_key].shape[0]) // self.image_channels
            if scores.shape[0] % phases:
                raise ValueError(f"{key} has {scores.shape[0]} channels, no multiple of the {phases} phases")
            volumes = scores.chunk(phases)  # T times (K, X', Y', Z)
            result[key] = _joined([self._native_labels(key, orig_key, volume, result) for volume in volumes])
        return result

    def _native_labels(
        self, key: Hashable, orig_key: Hashable, scores: torch.Tensor, data: Mapping[Hashable, Any]
    ) -> MetaTensor:
        """Inverts one phase: (K, X', Y', Z) scores to (1, X, Y, Z) labels, or (K - 1, X, Y, Z) probabilities."""
        probabilities = (scores.float() / self.temperature).softmax(dim=0)
        stack = stored_stack(data[orig_key].applied_operations)
        if stack is None or probabilities.shape[-1] <= SLICES:
            inverted = self._inverted(key, probabilities, data)
            labels = self._labels(inverted)
        else:
            # A few slices at a time: class probabilities of a whole volume on its own grid take gigabytes.
            inverted = self._inverted(key, probabilities[:0], data)  # of no class: the shape, and the metadata
            channels = len(scores) - 1 if self.probabilities else 1
            labels = torch.empty((channels, *inverted.shape[1:]), dtype=torch.uint8, device=scores.device)
            axis, backwards = stack[0] + 1, stack[1]
            start = 0
            for few in probabilities.split(SLICES, dim=-1):
                part = self._labels(self._inverted(key, few, data))
                count = part.shape[axis]
                first = labels.shape[axis] - start - count if backwards else start
                labels.narrow(axis, first, count).copy_(part)
                start += count
        return MetaTensor(labels).copy_meta_from(inverted)  # type: ignore[no-any-return]

    def _inverted(self, key: Hashable, probabilities: torch.Tensor, data: Mapping[Hashable, Any]) -> MetaTensor:
        """Class probabilities (K, X', Y', Z) on the native grid."""
        return super().__call__({**data, key: MetaTensor(probabilities)})[key]  # type: ignore[no-any-return]

    def _labels(self, inverted: MetaTensor) -> torch.Tensor:
        """What is asked for of class probabilities (K, *spatial): (K - 1 or 1, *spatial) uint8."""
        values = inverted.as_tensor()
        return _structures(values) if self.probabilities else best_class(values)[None]


def best_class(scores: torch.Tensor) -> torch.Tensor:
    """Returns the index of the largest of (K, *spatial), uint8; of equal ones the first.

    ``torch.argmax`` over the first axis of few is many times slower on a CPU: seconds for a large photograph.
    """
    best = scores[0].clone()
    labels = torch.zeros(best.shape, dtype=torch.uint8, device=scores.device)
    for index in range(1, len(scores)):
        labels.masked_fill_(scores[index] > best, index)
        torch.maximum(best, scores[index], out=best)
    return labels


def _structures(probabilities: torch.Tensor) -> torch.Tensor:
    """Returns 255 times the probability of each class but the first of (K, *spatial), uint8."""
    return (probabilities[1:].clamp(0, 1) * FULL).round().to(torch.uint8)


def _joined(phases: Sequence[MetaTensor]) -> MetaTensor:
    labels = MetaTensor(torch.cat([phase.as_tensor() for phase in phases]))  # (T, X, Y, Z)
    return labels.copy_meta_from(phases[0])  # type: ignore[no-any-return]
