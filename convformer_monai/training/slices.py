"""Volumes or photographs preprocessed once and held in memory as pictures of one size; batches are taken by index.

Preprocessing is deterministic, so it runs once. Pictures are kept as float16 (or bytes) and labels as bytes on
``device`` (a gigabyte of accelerator memory holds about 5,000 slices of 256 x 256), and a batch costs two index
operations.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import ResizeWithPadOrCrop
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.utils.data import Dataset

from convformer_monai.training.processes import rank_and_size

logger = logging.getLogger(__name__)


def _on_canvas(volume: Tensor, canvas: Sequence[int], value: float) -> Tensor:
    """Slices (Z, C, *canvas) of a volume (C, X, Y, Z), or the one of a photograph (C, X, Y)."""
    if volume.ndim == 3:
        volume = volume[..., None]
    placed: Tensor = convert_to_tensor(ResizeWithPadOrCrop((*canvas, -1), value=value)(volume), track_meta=False)
    return placed.permute(3, 0, 1, 2)


class SliceDataset(Dataset[dict[str, Tensor]]):
    """All slices of a list of volumes, or a list of photographs, in memory.

    Args:
        data: dictionaries with ``image`` and ``label``.
        transform: loads and preprocesses a dictionary to ``(1, X, Y, Z)`` image and label; of a photograph
            ``(3, X, Y)`` and ``(1, X, Y)``.
        canvas: size (X, Y) that every slice is padded (with the volume's minimum) or cropped to, about its centre.
        device: where the slices are kept.
        dtype: of the kept images.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        canvas: Sequence[int] = (256, 256),
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self.data = data
        logger.info("reading %d files", len(data))
        images, labels = [], []
        for case in data:
            volume = transform(dict(case))
            images.append(_on_canvas(volume["image"], canvas, float(volume["image"].min())).to(dtype))
            labels.append(_on_canvas(volume["label"], canvas, 0).to(torch.uint8))
        self.images = torch.cat(images).to(device)  # (N, C, X, Y)
        self.labels = torch.cat(labels).to(device)
        logger.info("%d pictures of %d files in memory", len(self), len(data))

    def __len__(self) -> int:
        """Number of slices."""
        return self.images.shape[0]

    def __getitem__(self, index: int | Tensor) -> dict[str, Tensor]:
        """One slice ``(C, X, Y)`` for an integer, a batch ``(B, C, X, Y)`` for a tensor of indices."""
        return {"image": self.images[index], "label": self.labels[index]}


class SliceBatches:
    """Shuffled batches of a :class:`SliceDataset`; with torch.distributed each process gets its own part.

    Args:
        dataset: the slices.
        batch_size: slices a batch and process; an incomplete last batch is left out, unless it is the only one, from
            which every process then takes as many slices.
        seed: of the order, which differs in every epoch and is the same in all processes, and for any number of them.

    Raises:
        ValueError: there are fewer slices than processes.
    """

    def __init__(self, dataset: SliceDataset, batch_size: int, seed: int = 0) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.rank, self.world_size = rank_and_size()
        if len(dataset) < self.world_size:
            raise ValueError(f"{len(dataset)} slices are too few for {self.world_size} processes")

    def __len__(self) -> int:
        """Batches an epoch."""
        return max(1, len(self.dataset) // (self.world_size * self.batch_size))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """One epoch of batches ``{"image": (B, C, X, Y), "label": (B, 1, X, Y)}``."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        self.epoch += 1
        order = torch.randperm(len(self.dataset), generator=generator)
        order = order[: len(order) // self.world_size * self.world_size][self.rank :: self.world_size]
        for indices in order.to(self.dataset.images.device).split(self.batch_size)[: len(self)]:
            yield self.dataset[indices]

    def state_dict(self) -> dict[str, int]:
        """The number of epochs begun."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on after the epochs of ``state``."""
        self.epoch = state["epoch"]
