"""Locks that end with the process that holds them, however it ends; also between machines, on file systems that can."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["hold", "is_there", "try_lock"]

SUFFIX = ".convformer-lock"


def try_lock(file: BinaryIO) -> bool | None:
    """Locks an open file until it is closed.

    Args:
        file: open for writing.

    Returns:
        Whether it is ours now; False if a living process holds it; None where there are no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


@contextlib.contextmanager
def hold(base: Path) -> Iterator[bool]:
    """Holds a case for as long as the block lasts, so that no other process does it at the same time.

    Args:
        base: folder and name of the case's results; the folder is made.

    Yields:
        Whether it is ours; False if a living process holds it. True where there are no locks, and where nothing can be
        written: whoever writes the results says so.
    """
    path = base.with_name(f".{hashlib.sha256(os.fsencode(base.name)).hexdigest()[:16]}{SUFFIX}")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            opened = open(path, "ab")
        except OSError:
            yield True
            return
        with opened as file:
            ours = try_lock(file)
            if ours is not False and not is_there(path, file):
                continue  # the process that held it has just removed it
            try:
                yield ours is not False
            finally:
                if ours is not False:
                    path.unlink(missing_ok=True)
            return


def is_there(path: Path, file: BinaryIO) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
