"""What figures were measured on: processor, threads, versions, and how busy the machine was."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from convformer_monai import __version__
from convformer_monai.inferers import has_fast_bf16

__all__ = ["machine", "version_of"]


def machine() -> dict[str, str | int | float | bool]:
    """This machine and its software, as JSON types; no name that tells whose it is."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
        "bfloat16": has_fast_bf16(torch.device("cpu")),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else 0.0,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": version_of("monai") or "",
        "convformer_monai": __version__,
    }


def version_of(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's model."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
