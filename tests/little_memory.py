"""Reads files in a process that may hardly allocate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOM_BYTES = 192 * 2**20  # beyond what the process has mapped once it is warm
READ_ALL = """
import json, resource, sys
from convformer_monai.errors import InputRefused
from convformer_monai.readers import read_series

def read(path):
    try:
        read_series(path, phase="all")
    except InputRefused as refusal:
        return refusal.code
    except MemoryError:
        return "MemoryError"
    return "read"

room, good, bad = int(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
assert [read(path) for path in good] == ["read"] * len(good)
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + room, mapped + room))
try:
    bytearray(2 * room)
    raise SystemExit("the limit does not hold")
except MemoryError:
    pass
print(json.dumps({path: read(path) for path in bad}))
"""


def read_in_little_memory(good: Iterable[Path], bad: Iterable[Path]) -> dict[Path, str]:
    """Reads ``good`` to load what the readers need, takes the memory away, and reads ``bad``.

    Returns:
        The code of each refusal, ``read``, or ``MemoryError``.
    """
    arguments = [str(ROOM_BYTES), json.dumps(list(map(str, good))), json.dumps(list(map(str, bad)))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", READ_ALL, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {Path(path): code for path, code in json.loads(done.stdout.splitlines()[-1]).items()}
