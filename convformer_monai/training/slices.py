"""Volumes or photographs preprocessed once and kept as pictures of one size; batches are taken by index.

Preprocessing is deterministic, so it runs once. Pictures are kept as float16 (or bytes) and labels as bytes: in memory
on ``device`` (a gigabyte of accelerator memory holds about 5,000 slices of 256 x 256), where a batch costs two index
operations, or in files, of which a thread reads the next batch while the network has the last one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from monai.transforms import ResizeWithPadOrCrop, Transform
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.utils.data import Dataset

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.training.persistent import StoredRows, stored_rows
from convformer_monai.training.processes import rank_and_size

logger = logging.getLogger(__name__)


def _on_canvas(volume: Tensor, canvas: Sequence[int], value: float) -> Tensor:
    """Slices (Z, C, *canvas) of a volume (C, X, Y, Z), or the one of a photograph (C, X, Y)."""
    if volume.ndim == 3:
        volume = volume[..., None]
    placed: Tensor = convert_to_tensor(ResizeWithPadOrCrop((*canvas, -1), value=value)(volume), track_meta=False)
    return placed.permute(3, 0, 1, 2)


class _CaseSlices(Transform):
    """The slices of one case, as they are kept: ``images`` (Z, C, *canvas) and ``labels`` (Z, 1, *canvas)."""

    def __init__(
        self,
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        canvas: Sequence[int],
        dtype: torch.dtype,
        structures: int | None,
    ) -> None:
        self.transform, self.canvas, self.dtype, self.structures = transform, tuple(canvas), dtype, structures

    def __call__(self, case: Mapping[str, Any]) -> dict[str, Tensor]:
        volume = self.transform(dict(case))
        if volume["image"].ndim == 4 and len(volume["image"]) > 1:
            what = f"{case['image']} has {len(volume['image'])} phases"
            raise InputRefused(RefusalCode.SEVERAL_PHASES, f"{what}; training takes volumes: make each an entry")
        if self.structures is not None:
            values = torch.unique(volume["label"]).tolist()
            if any(value not in range(self.structures + 1) for value in values):
                found = ", ".join(f"{value:g}" for value in values)
                what = f"{case['label']} holds the values {found}"
                raise InputRefused(RefusalCode.LABEL_VALUES, f"{what}; 0 to {self.structures} are what is learned")
        return {
            "images": _on_canvas(volume["image"], self.canvas, float(volume["image"].min())).to(self.dtype),
            "labels": _on_canvas(volume["label"], self.canvas, 0).to(torch.uint8),
        }


class SliceDataset(Dataset[dict[str, Tensor]]):
    """All slices of a list of volumes, or a list of photographs, in memory or in files.

    Args:
        data: dictionaries with ``image`` and ``label``.
        transform: loads and preprocesses a dictionary to ``(1, X, Y, Z)`` image and label; of a photograph
            ``(3, X, Y)`` and ``(1, X, Y)``.
        canvas: size (X, Y) that every slice is padded (with the volume's minimum) or cropped to, about its centre.
        device: where the slices are kept in memory.
        dtype: of the kept images.
        cache_dir: keep the slices in files of this folder, and not in memory; None for memory.
        structures: labels may hold 0 to so many; None for any.

    Raises:
        InputRefused: an image or label cannot be used, or the folder not written to.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        canvas: Sequence[int] = (256, 256),
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float16,
        cache_dir: str | None = None,
        structures: int | None = None,
    ) -> None:
        self.data = data
        logger.info("reading %d files", len(data))
        prepare = _CaseSlices(transform, canvas, dtype, structures)
        self.images: Tensor | StoredRows  # (N, C, X, Y)
        self.labels: Tensor | StoredRows  # (N, 1, X, Y)
        if cache_dir:
            rows = stored_rows(data, prepare, cache_dir)
            self.images, self.labels = rows["images"], rows["labels"]
        else:
            cases = [prepare(case) for case in data]
            self.images, self.labels = (torch.cat([case[key] for case in cases]) for key in ("images", "labels"))
            self.images, self.labels = self.images.to(device), self.labels.to(device)
        logger.info("%d pictures of %d files in %s", len(self), len(data), cache_dir or "memory")

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
        of_cases: make the epoch as long as that of so many cases, of which the dataset has a part; None for its own.

    Raises:
        InputRefused: ``OPTION`` if there are fewer slices than processes.
    """

    def __init__(self, dataset: SliceDataset, batch_size: int, seed: int = 0, of_cases: int | None = None) -> None:
        self.dataset = dataset
        self.slices = round(len(dataset) * (of_cases or len(dataset.data)) / len(dataset.data))
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.rank, self.world_size = rank_and_size()
        if len(dataset) < self.world_size:
            what = f"{len(dataset)} pictures are too few for {self.world_size} processes"
            raise InputRefused(RefusalCode.OPTION, f"{what}; train in fewer")

    def __len__(self) -> int:
        """Batches an epoch."""
        return max(1, self.slices // (self.world_size * self.batch_size))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """One epoch of batches ``{"image": (B, C, X, Y), "label": (B, 1, X, Y)}``."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        self.epoch += 1
        rounds = math.ceil(self.slices / len(self.dataset))
        order = torch.cat([torch.randperm(len(self.dataset), generator=generator) for _ in range(rounds)])
        order = order[: self.slices]
        order = order[: len(order) // self.world_size * self.world_size][self.rank :: self.world_size]
        parts = order.to(self.dataset.images.device).split(self.batch_size)[: len(self)]
        if isinstance(self.dataset.images, Tensor):
            yield from map(self.dataset.__getitem__, parts)
            return
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self.dataset.__getitem__, parts[0])
            for indices in [*parts[1:], parts[0][:0]]:
                batch, ahead = ahead.result(), reader.submit(self.dataset.__getitem__, indices)
                yield batch

    def state_dict(self) -> dict[str, int]:
        """The number of epochs begun."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on after the epochs of ``state``."""
        self.epoch = state["epoch"]
