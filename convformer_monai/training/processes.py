"""What several training processes share: rank, parts of a list, one decision, the end."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset, Subset

__all__ = ["leave_process_group", "of_all", "of_first_process", "own_part", "rank_and_size", "wait_for_all"]

GLOO_SECONDS = 1.0


def rank_and_size() -> tuple[int, int]:
    """This process's number, from 0, and the number of processes; 0 and 1 without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def of_first_process(value: float) -> float:
    """The first process's value in all of them, so that what follows from a clock is the same everywhere."""
    if rank_and_size()[1] == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=_device())
    dist.broadcast(shared, 0)
    return float(shared)


def of_all(own: Tensor, total: int) -> Tensor:
    """Puts together a list of numbers of which process ``r`` of ``N`` has ``r, r + N, r + 2N, ...``.

    Args:
        own: those of this process, on the CPU.
        total: numbers in all.

    Returns:
        ``(total,)``, on the CPU, the same in all processes.
    """
    rank, size = rank_and_size()
    if size == 1:
        return own
    every = torch.zeros(total, dtype=own.dtype, device=_device())
    every[rank::size] = own.to(every.device)
    dist.all_reduce(every)
    return every.cpu()


def _device() -> str:
    """Where the processes' backend takes tensors."""
    return "cuda" if dist.get_backend() == dist.Backend.NCCL else "cpu"


def wait_for_all() -> None:
    """Waits until all processes are here."""
    if rank_and_size()[1] > 1:
        dist.barrier()


def own_part(items: Any) -> Any:
    """This process's part of the cases of a validation: each is in one part; all of them where there are too few.

    Where there are fewer cases than processes, each process validates all, which gives the same mean.

    Args:
        items: a list of cases, or a dataset.

    Returns:
        A list or a dataset.
    """
    rank, size = rank_and_size()
    count = len(items)
    if size == 1 or count < size:
        return items
    own = range(count)[rank::size]
    return Subset(items, own) if isinstance(items, Dataset) else [items[index] for index in own]


def leave_process_group() -> None:
    """Leaves the group of training processes, so that this process can end.

    Gloo's threads live on after ``destroy_process_group`` where DistributedDataParallel has used them. One that has not
    yet let go of the last collective's tensors when Python shuts down aborts the process (PyTorch issue 190489, for
    Python before 3.14): they get a second, which is thousands of times what they need.

    Raises:
        ValueError: this process is in no group.
    """
    if dist.get_backend() == dist.Backend.GLOO:
        time.sleep(GLOO_SECONDS)
    dist.destroy_process_group()
