"""Whole commands, each in a process of its own, from the start of Python to its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

__all__ = ["run_python"]

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss, getrusage(2)
# A small process between: Linux counts the memory of the process that starts another as the other's own.
LAUNCHER = """
import os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run_python(arguments: Sequence[str]) -> tuple[float, float]:
    """Runs Python with these arguments; returns seconds, and the peak resident memory of the process in MB.

    Raises:
        RuntimeError: if it fails, with the last line that it said.
    """
    command = [sys.executable, "-S", "-c", LAUNCHER, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit status {done.returncode}")
    seconds, peak = done.stdout.split()
    return float(seconds), float(peak) * RSS_UNIT / 1e6
