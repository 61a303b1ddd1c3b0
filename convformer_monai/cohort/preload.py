"""What Dask runs in a worker process of this machine before its first task."""

from __future__ import annotations

import signal

__all__ = ["dask_setup"]


def dask_setup(worker: object) -> None:
    """Leaves signals to the run: what a terminal sends to all its processes would end a worker in the middle of a case.

    A worker ends when its run asks it to, or when the run's process is gone.

    Args:
        worker: Dask's.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
