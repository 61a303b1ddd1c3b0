"""Whole commands, each in a process of its own, from the start of Python to its end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

__all__ = ["run_python"]

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss, getrusage(2)


def run_python(arguments: Sequence[str]) -> tuple[float, float]:
    """Runs Python with these arguments; returns seconds, and the peak resident memory of the process in MB.

    Linux counts the caller's own memory at that moment as the least that the process had.

    Raises:
        RuntimeError: if it fails, with the last line that it said.
    """
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)  # of this process alone; getrusage knows the largest of all only
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"exit status {process.returncode}")
    return seconds, usage.ru_maxrss * RSS_UNIT / 1e6
