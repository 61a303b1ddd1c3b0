"""The end of one of several training processes."""

from __future__ import annotations

import time

import torch.distributed as dist

GLOO_SECONDS = 1.0


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
