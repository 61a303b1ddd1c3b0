"""Runs a function in several processes that talk by gloo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing


def _work(rank: int, size: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    torch.save(function(*arguments), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def in_processes(folder: Path, size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What the function returns in each process.

    Args:
        folder: an empty one.
        size: processes.
        function: of a module.
        arguments: that it takes.
    """
    multiprocessing.spawn(_work, (size, str(folder), function, arguments), size)
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]
