"""Links that lead out of a folder: a server must not hand out what lies behind them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["leads_out"]


def leads_out(path: Path, folder: Path) -> bool:
    """Tells whether a path, or for a folder anything below it, lies outside of a folder once links are followed.

    Args:
        path: file or folder; one that does not exist yet lies where it would be written.
        folder: to stay in.
    """
    root = folder.resolve()
    waiting, seen = [path], set()
    while waiting:
        real = waiting.pop().resolve()
        if not real.is_relative_to(root):
            return True
        if real not in seen and real.is_dir():
            waiting += [entry for entry in real.iterdir() if entry.is_symlink() or entry.is_dir()]
        seen.add(real)
    return False
