"""Random numbers of a batch that several processes share: each process gets those of its own pictures.

All processes are seeded alike and draw the numbers of the whole batch, of which each keeps its rows. So a picture gets
the same numbers, and the same augmentation, however many processes share the batch. What is drawn beyond a process's
own rows costs little: most draws are a few numbers a picture.

Of a batch of ``N * B`` pictures in ``N`` processes, process ``r`` has the rows ``r, r + N, r + 2N, ...``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from convformer_monai.training.processes import rank_and_size

__all__ = ["Rows", "chosen", "chosen_rows", "draw", "drawing_for", "normal", "numbers", "uniform"]


@dataclass(frozen=True)
class Rows:
    """The rows of a shared batch that are this process's.

    Attributes:
        total: pictures of the whole batch.
        own: which of them, as an index of a tensor.
    """

    total: int
    own: slice | Tensor

    @classmethod
    def of_batch(cls, count: int) -> Rows:
        """Those of a batch of which each process has ``count`` pictures."""
        rank, size = rank_and_size()
        return cls(count * size, slice(rank, None, size))

    @classmethod
    def of_part(cls, first: int, count: int) -> Rows:
        """Those of a part of the batch: ``count`` pictures from row ``first`` on."""
        rank, size = rank_and_size()
        return cls(count, slice((rank - first) % size, None, size))

    def __len__(self) -> int:
        """Number of this process's rows."""
        return len(range(self.total)[self.own]) if isinstance(self.own, slice) else len(self.own)


_rows: ContextVar[Rows | None] = ContextVar("rows", default=None)


@contextmanager
def drawing_for(rows: Rows) -> Iterator[None]:
    """Within it numbers are drawn for ``rows``, instead of for a batch of which each process has as many pictures."""
    token = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(token)


def _rows_for(count: int) -> Rows:
    named = _rows.get()
    return Rows.of_batch(count) if named is None else named


def draw(make: Callable[[int], Tensor], count: int) -> Tensor:
    """Draws what each picture gets.

    Args:
        make: draws ``(n, ...)`` for ``n`` pictures.
        count: pictures of this process.

    Returns:
        ``(count, ...)``.

    Raises:
        ValueError: ``count`` is not that of the rows which :func:`drawing_for` names.
    """
    rows = _rows_for(count)
    if len(rows) != count:
        raise ValueError(f"count must be {len(rows)}, the number of this process's rows, got {count}")
    return make(rows.total)[rows.own]


def uniform(low: float, high: float, batch: int, device: torch.device, *shape: int) -> Tensor:
    """``(batch, *shape)`` uniform numbers; without a shape ``(batch, 1, 1, 1)``."""
    size = shape or (1, 1, 1)
    return draw(lambda total: torch.empty(total, *size, device=device).uniform_(low, high), batch)


def normal(batch: int, device: torch.device, *shape: int) -> Tensor:
    """``(batch, *shape)`` normal numbers of mean 0 and variance 1."""
    return draw(lambda total: torch.randn(total, *shape, device=device), batch)


def numbers(high: int, batch: int, device: torch.device) -> Tensor:
    """``(batch,)`` whole numbers from 0 to ``high - 1``."""
    return draw(lambda total: torch.randint(0, high, (total,), device=device), batch)


def chosen(probability: float, batch: int, device: torch.device) -> Tensor:
    """``(batch, 1, 1, 1)`` booleans, each true with ``probability``."""
    return draw(lambda total: torch.rand(total, 1, 1, 1, device=device) < probability, batch)


def chosen_rows(probability: float, batch: int, device: torch.device) -> tuple[Tensor, Rows]:
    """Some pictures, each with ``probability``.

    Returns:
        Their indices in this process's batch, and their rows among those chosen in all processes.
    """
    outer = _rows_for(batch)
    every = torch.rand(outer.total, device=device) < probability
    here = torch.zeros_like(every)
    here[outer.own] = True
    return every[outer.own].nonzero().flatten(), Rows(int(every.sum()), here[every].nonzero().flatten())
