"""The folder for temporary files of one server: uploads and masks, which are of patients, go with it.

Also at SIGTERM and Ctrl+C. What a killed server leaves is removed by the next one that starts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from convformer_monai.locks import try_lock

__all__ = ["own_temporary_folder"]

PREFIX = "convformer-label-"
LOCK = ".lock"  # held for as long as the server lives, however it ends


@contextlib.contextmanager
def own_temporary_folder() -> Iterator[Path]:
    """Gives this process, and those that it starts, a folder of their own for temporary files.

    Yields:
        The folder; at the end of the block it is gone. SIGTERM ends the block as an exit of the program does.
    """
    parent = Path(tempfile.gettempdir())
    _remove_stale(parent)
    former = tempfile.tempdir, os.environ.get("TMPDIR"), signal.signal(signal.SIGTERM, _leave)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with open(folder / f"{LOCK}.new", "wb") as lock:
            if try_lock(lock):
                os.replace(lock.name, folder / LOCK)  # only now may others ask whether it is held
            tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        tempfile.tempdir, variable, handler = former
        signal.signal(signal.SIGTERM, handler)
        os.environ.pop("TMPDIR")
        if variable is not None:
            os.environ["TMPDIR"] = variable


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _remove_stale(parent: Path) -> None:
    """Removes the folders of servers that are dead; those that say nothing of their server stay."""
    for lock in parent.glob(f"{PREFIX}*/{LOCK}"):
        with contextlib.suppress(OSError), open(lock, "rb+") as file:
            if try_lock(file):
                shutil.rmtree(lock.parent, ignore_errors=True)
