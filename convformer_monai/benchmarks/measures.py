"""Time and memory of calls in this process."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["exponent", "median_seconds", "peak_growth"]


def median_seconds(
    calls: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median time of each, called in turn ``repeats`` times after a first call that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if repeat:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _peak_rss() -> int:
    """Peak resident memory of this process in bytes."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_growth(call: Callable[[], object]) -> int:
    """Bytes by which a call raises this process's memory above what it was before the call.

    Linux lets the peak be reset; elsewhere the peak before the call is what it must exceed.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        before = _peak_rss()
        call()
        return _peak_rss() - before

    def read(field: str) -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024

    reset.write_text("5")
    before = read("VmRSS")
    call()
    return read("VmHWM") - before


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent b of cost = a * size^b, fitted to the logarithms: 1 is linear, 0 does not grow.

    Args:
        sizes: at least two.
        costs: above zero.
    """
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
