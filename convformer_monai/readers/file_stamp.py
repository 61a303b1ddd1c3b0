"""What changes when an image does, told by its files without reading them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

__all__ = ["file_stamp"]


def file_stamp(path: Path) -> str | None:
    """A hash of size and time of a file; of a folder of the names, sizes and times of all files in it.

    Args:
        path: of a file or folder.

    Returns:
        A text; ``None`` if there is nothing.
    """
    try:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        states = [(str(file.relative_to(path)), file.stat()) for file in files]
    except OSError:
        return None
    content = [[name, state.st_size, state.st_mtime_ns] for name, state in states]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
