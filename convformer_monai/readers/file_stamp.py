"""A stamp of the files of an image, which changes with them, without reading them whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from convformer_monai.readers.cases import ITK_SUFFIXES

__all__ = ["file_stamp"]

HEADER_BYTES = 2**16
DATA_FILE = re.compile(rb"^(?:ElementDataFile *=|data ?file:) *([^\r\n]+?) *\r?$", re.IGNORECASE | re.MULTILINE)


def file_stamp(path: Path, leave_out: Path | None = None) -> str | None:
    """A hash of name, size and time of a file; of a folder those of all files in it.

    Of an NRRD or MetaImage header whose voxels are in another file, that one counts, too.

    Args:
        path: of a file or folder.
        leave_out: a folder inside that is not looked at, as the output folder.

    Returns:
        A text; ``None`` if there is nothing.
    """
    try:
        folder = path.resolve() if path.is_dir() else path.parent
        names = sorted(_names_in(folder, leave_out)) if path.is_dir() else _parts(path)
        states = [os.stat(os.path.join(folder, name)) for name in names]
    except OSError:
        return None
    content = [[name, state.st_size, state.st_mtime_ns] for name, state in zip(names, states, strict=True)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _names_in(folder: Path, leave_out: Path | None) -> Iterator[str]:
    """Names of all files, seen from the folder."""
    inside = None if leave_out is None else str(leave_out.expanduser().resolve())
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if os.path.join(where, name) != inside]
        files = (os.path.join(where, name) for name in names)
        yield from (file[len(str(folder)) + 1 :] for file in files if os.path.isfile(file))


def _parts(file: Path) -> list[str]:
    """Names of the file, and of the one beside it that its NRRD or MetaImage header names."""
    if not file.name.lower().endswith(ITK_SUFFIXES) or not file.is_file():
        return [file.name]
    with open(file, "rb") as opened:
        found = DATA_FILE.search(opened.read(HEADER_BYTES))
    name = os.fsdecode(found[1]) if found else ""
    return [file.name, name] if (file.parent / name).is_file() else [file.name]
