"""Batches of several sources in fixed proportions; blood-free slices drawn by how wrong the network is there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import Tensor, nn

from convformer_monai.inferers import AutocastInferer
from convformer_monai.training.head_ct_pool import HeadCTPart

__all__ = ["HardNegatives", "MixedBatches", "Source"]

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Draws pictures at random, from torch's global generator."""

    def draw(self, count: int) -> dict[str, Tensor]:
        """``image`` (count, C, X, Y) and ``label`` (count, 1, X, Y)."""


class MixedBatches:
    """Batches with a fixed number of pictures of each source.

    Args:
        sources: what draws them.
        shares: of each source in a batch; they need not add up to 1. The largest remainders are rounded up.
        batch_size: pictures in a batch.
        length: batches an epoch; with torch.distributed each process makes as many fewer.
    """

    def __init__(self, sources: Sequence[Source], shares: Sequence[float], batch_size: int, length: int) -> None:
        if len(sources) != len(shares) or min(shares) < 0 or sum(shares) == 0:
            raise ValueError(
                f"shares must be one number of at least 0 for each of {len(sources)} sources, got {shares}"
            )
        parts = [batch_size * share / sum(shares) for share in shares]
        counts = [int(part) for part in parts]
        for index in sorted(range(len(parts)), key=lambda one: counts[one] - parts[one])[: batch_size - sum(counts)]:
            counts[index] += 1
        self.sources = [source for source, count in zip(sources, counts, strict=True) if count]
        self.counts = [count for count in counts if count]
        processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self.length = max(1, length // processes)
        self.epoch = 0

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.length

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """One epoch of batches ``{"image": (B, C, X, Y), "label": (B, 1, X, Y)}``."""
        self.epoch += 1
        for _ in range(self.length):
            parts = [source.draw(count) for source, count in zip(self.sources, self.counts, strict=True)]
            yield {key: torch.cat([part[key] for part in parts]) for key in ("image", "label")}

    def state_dict(self) -> dict[str, int]:
        """The number of epochs begun."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on after the epochs of ``state``."""
        self.epoch = state["epoch"]


class HardNegatives:
    """Draws those blood-free slices more often in which the network finds blood.

    Every few epochs some slices of the part, drawn at random, are segmented; the weight of each then grows with the
    area of what is found, up to ``strength`` times the least, until it is looked at again.

    Args:
        part: blood-free slices.
        network: that finds blood, class 1 of 2; e.g. the average of the weights.
        interval: epochs between two looks; 0 for none.
        most: slices of a look.
        area: pixels at which a slice counts fully.
        strength: how much more often a fully wrong slice is drawn than a right one.
        probability: above which a pixel counts.
        batch_size: slices at once.
    """

    def __init__(
        self,
        part: HeadCTPart,
        network: nn.Module,
        interval: int = 4,
        most: int = 500,
        area: float = 60.0,
        strength: float = 8.0,
        probability: float = 0.3,
        batch_size: int = 32,
    ) -> None:
        self.part, self.network, self.interval, self.most = part, network, interval, most
        self.area, self.strength, self.probability, self.batch_size = area, strength, probability, batch_size
        self.inferer = AutocastInferer()

    def attach(self, engine: Engine) -> None:
        """Watch ``engine``."""
        if self.interval > 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self._look)

    @torch.no_grad()
    def _look(self, _engine: Engine) -> None:
        training = self.network.training
        self.network.eval()
        found = []
        seen = torch.randperm(len(self.part))[: self.most]
        for indices in seen.split(self.batch_size):
            image = self.part[indices]["image"].float().contiguous(memory_format=torch.channels_last)
            scores = self.inferer(image, self.network)
            found.append((scores.float().softmax(1)[:, 1] > self.probability).flatten(1).sum(1).float().cpu())
        self.network.train(training)
        wrong = (torch.cat(found) / self.area).clamp(max=1)
        self.part.weights[seen] = self.part.base[seen] * (1 + (self.strength - 1) * wrong)
        logger.info("%d of %d blood-free slices have a finding", int((wrong > 0).sum()), len(seen))
