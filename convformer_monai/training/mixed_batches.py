"""Batches of several sources in fixed proportions; blood-free slices drawn by how wrong the network is there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from convformer_monai.inferers import AutocastInferer
from convformer_monai.training.draws import Rows, drawing_for
from convformer_monai.training.head_ct_pool import HeadCTPart
from convformer_monai.training.processes import of_all, rank_and_size

__all__ = ["HardNegatives", "MixedBatches", "Source"]

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Draws pictures at random, from torch's global generator; see :mod:`convformer_monai.training.draws`."""

    def draw(self, count: int) -> dict[str, Tensor]:
        """``image`` (count, C, X, Y) and ``label`` (count, 1, X, Y)."""


class MixedBatches:
    """Batches with a fixed number of pictures of each source.

    Args:
        sources: what draws them.
        shares: of each source in a batch; they need not add up to 1. The largest remainders are rounded up.
        batch_size: pictures in a batch; with torch.distributed, which each process gets.
        length: batches an epoch; with torch.distributed each process makes as many fewer.
    """

    def __init__(self, sources: Sequence[Source], shares: Sequence[float], batch_size: int, length: int) -> None:
        if len(sources) != len(shares) or min(shares) < 0 or sum(shares) == 0:
            raise ValueError(
                f"shares must be one number of at least 0 for each of {len(sources)} sources, got {shares}"
            )
        self.rank, self.world_size = rank_and_size()
        pictures = batch_size * self.world_size
        parts = [pictures * share / sum(shares) for share in shares]
        counts = [int(part) for part in parts]
        for index in sorted(range(len(parts)), key=lambda one: counts[one] - parts[one])[: pictures - sum(counts)]:
            counts[index] += 1
        self.sources = [source for source, count in zip(sources, counts, strict=True) if count]
        self.counts = [count for count in counts if count]
        self.length = max(1, length // self.world_size)
        self.epoch = 0

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.length

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """One epoch of batches ``{"image": (B, C, X, Y), "label": (B, 1, X, Y)}``."""
        self.epoch += 1
        for _ in range(self.length):
            yield self._batch()

    def _batch(self) -> dict[str, Tensor]:
        """This process's pictures of one batch: its rows of each source, of which the last processes may have none."""
        parts, first = [], 0
        *seeds, after = torch.randint(2**31, (len(self.sources) + 1,)).tolist()
        for source, count, seed in zip(self.sources, self.counts, seeds, strict=True):
            rows = Rows.of_part(first, count)
            first += count
            torch.manual_seed(seed)
            if len(rows):
                with drawing_for(rows):
                    parts.append(source.draw(len(rows)))
        torch.manual_seed(after)
        return {key: torch.cat([part[key] for part in parts]) for key in ("image", "label")}

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
        rank, size = rank_and_size()
        for indices in seen[rank::size].split(self.batch_size):
            image = self.part[indices]["image"].float().contiguous(memory_format=torch.channels_last)
            scores = self.inferer(image, self.network)
            found.append((scores.float().softmax(1)[:, 1] > self.probability).flatten(1).sum(1).float().cpu())
        self.network.train(training)
        area = of_all(torch.cat([*found, torch.zeros(0)]), len(seen))
        wrong = (area / self.area).clamp(max=1)
        self.part.weights[seen] = self.part.base[seen] * (1 + (self.strength - 1) * wrong)
        logger.info("%d of %d blood-free slices have a finding", int((wrong > 0).sum()), len(seen))
