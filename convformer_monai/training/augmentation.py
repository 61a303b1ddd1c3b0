"""Augmentation of whole batches on the compute device, as the ``prepare_batch`` of a MONAI engine.

MONAI's random transforms work on one item at a time; here every operation is one call for the whole batch, so that an
accelerator is kept busy and a CPU spends a few percent of a training step. Strengths follow nnU-Net (Isensee et al.,
Nature Methods 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class BatchAugmentation:
    """Random geometry, then random intensities, for a batch of slices or photographs.

    Args:
        geometry: changes image and label together; see :class:`convformer_monai.training.BatchGeometry`.
        intensities: change the image alone, one after another, given image and label.
        memory_format: layout of the resulting images.
    """

    def __init__(
        self,
        geometry: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        intensities: Sequence[Callable[[Tensor, Tensor], Tensor]] = (),
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.geometry = geometry
        self.intensities = tuple(intensities)
        self.memory_format = memory_format

    def __call__(
        self,
        batchdata: Mapping[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            batchdata: ``image`` (B, C, X, Y), any number type; ``label`` (B, 1, X, Y), integers.
            device: compute device.
            non_blocking: of the copy to the device.
            _kwargs: other arguments that the engine passes on; unused.

        Returns:
            image (B, C, *size) float32 and label (B, 1, *size) float32.
        """
        image = batchdata["image"].to(device, non_blocking=non_blocking).float()
        label = batchdata["label"].to(device, non_blocking=non_blocking)
        image, label = self.geometry(image, label)
        for change in self.intensities:
            image = change(image, label)
        return image.contiguous(memory_format=self.memory_format), label
