"""What a transaction is about to do, in a hidden file, so that the next run can tidy up after one that was killed.

The journal is locked for as long as its process lives; the lock goes with the process, however it ends. A journal that
nobody holds is therefore one of a dead run: files that were all in place stay, else what was there before comes back.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any, BinaryIO

from convformer_monai.locks import is_there, try_lock

__all__ = ["Journal", "tidy_up"]

SUFFIX = ".convformer-journal"
STALE_SECONDS = 24 * 3600  # where there are no locks, a journal of this age is one of a dead run


class Journal:
    """The journal of one transaction.

    Args:
        folder: of the files.

    Raises:
        OSError: if it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        while True:
            self.path = folder / f".{secrets.token_hex(8)}{SUFFIX}"
            self._file: BinaryIO = open(self.path, "xb")  # noqa: SIM115 (held until `close`)
            if try_lock(self._file) is not False and is_there(self.path, self._file):
                return
            self._file.close()  # before it was locked, another run took it for one of a dead run

    def note(self, **entry: Any) -> None:
        """Adds a line, which is on the disk when this returns."""
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Removes it: the transaction has ended."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._file.close()


def tidy_up(folder: Path) -> None:
    """Ends the transactions of dead runs in a folder, which are complete then or never happened.

    Args:
        folder: of results; nothing happens if it does not exist.
    """
    for path in sorted(folder.glob(f".*{SUFFIX}")):
        with contextlib.suppress(OSError), open(path, "rb+") as file:
            if _lock(file):
                _settle(folder, _entries(file.read()))
                path.unlink()


def _lock(file: BinaryIO) -> bool:
    """Locks a journal; False if a living process holds it."""
    ours = try_lock(file)
    return time.time() - os.fstat(file.fileno()).st_mtime > STALE_SECONDS if ours is None else ours


def _entries(content: bytes) -> list[dict[str, Any]]:
    """The lines; the last one may be cut off, and whoever can write to the folder may have written others."""
    entries = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict) and all(map(_is_name, _paths(entry)))]


def _paths(entry: dict[str, Any]) -> list[Any]:
    return [entry[key] for key in ("target", "temporary", "backup") if key in entry]


def _is_name(path: Any) -> bool:
    """Whether a path stays in the journal's folder: results of a case lie in one folder."""
    return isinstance(path, str) and path not in ("", ".", "..") and os.path.basename(path) == path


def _settle(folder: Path, entries: list[dict[str, Any]]) -> None:
    """Leaves all files of a transaction in place, or none."""
    temporary = {entry["target"]: folder / entry["temporary"] for entry in entries if "temporary" in entry}
    backups = {entry["target"]: folder / entry["backup"] for entry in entries if "backup" in entry}
    commit = next((entry for entry in entries if "commit" in entry), None)
    if commit is not None and not all(_is_placed(folder / name, path) for name, path in temporary.items()):
        for name, path in temporary.items():
            target = folder / name
            if name in backups and os.path.lexists(backups[name]):
                os.replace(backups[name], target)
            elif _is_placed(target, path) or (commit["new"] and _is_reserved(target)):
                target.unlink(missing_ok=True)
    for path in (*temporary.values(), *backups.values()):
        path.unlink(missing_ok=True)


def _is_placed(target: Path, temporary: Path) -> bool:
    """Whether a committed file has its own name: renamed, or linked."""
    if not os.path.lexists(temporary):
        return os.path.lexists(target)
    return target.exists() and os.path.samefile(target, temporary)


def _is_reserved(target: Path) -> bool:
    """Whether a name was taken for a file that did not come; see ``atomic._rename_new``."""
    return target.is_file() and target.stat().st_size == 0
