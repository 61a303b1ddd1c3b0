"""The networks that a worker process holds: each loaded once, and shared by its threads.

A worker of two threads reads the next image, and writes the last one's results, while the network runs.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from typing import Any

from convformer_monai.cohort.plan import BundleOf, Job, describe_bundle
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.segmenter import Segmenter

__all__ = ["loaded"]

KEPT = 3  # networks of a process, when the manifest names several bundles

_lock = threading.Lock()
_kept: OrderedDict[tuple[Any, ...], Segmenter] = OrderedDict()


def loaded(bundle: BundleOf, job: Job) -> Segmenter:
    """The loaded bundle of a case.

    Args:
        bundle: as the run began with it.
        job: the run.

    Raises:
        InputRefused: if it cannot be loaded here, or is another one here.
    """
    device = _device(job.device)
    key = (bundle, device, job.flips, job.force_modality, job.network_engine)
    with _lock:
        if key not in _kept:
            here = describe_bundle(bundle.where)
            if (here.config_sha256, here.weights_sha256) != (bundle.config_sha256, bundle.weights_sha256):
                raise InputRefused(
                    RefusalCode.WEIGHTS_HASH,
                    f"{bundle.where} has other configs or weights on this worker than where the run began; "
                    "install the same version everywhere",
                )
            if job.threads:
                import torch

                torch.set_num_threads(job.threads)
            while len(_kept) >= KEPT:
                _kept.popitem(last=False)
            _kept[key] = Segmenter(
                bundle.where,
                device,
                flips=job.flips,
                force_modality=job.force_modality,
                engine=job.network_engine,
            )
        _kept.move_to_end(key)
        return _kept[key]


def _device(device: str) -> str:
    """The device of this worker: of several GPUs that it sees, the one of its number."""
    if device not in ("auto", "cuda"):
        return device
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count < 2:
        return device
    with contextlib.suppress(ImportError, ValueError):
        from distributed import get_worker

        return f"cuda:{int(get_worker().name) % count}"
    return device
