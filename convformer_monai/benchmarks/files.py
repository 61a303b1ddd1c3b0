"""Names and places of the files that a benchmark writes: known to be good before it measures, which takes long."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs.atomic import check_writable, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_output", "drawn", "file_name"]

LONGEST = 150  # bytes, which leaves room for endings


def file_name(case: str) -> str:
    """The name of a case's files, without ending: no two cases share one, and none leads into another folder.

    Args:
        case: its id, which is unique within a list.

    Returns:
        The id, with what is no letter, digit or one of ``_.-~`` percent-encoded; a long one is cut, and ends in a hash.
    """
    name = quote(case, safe="", errors="surrogatepass")
    if len(name) <= LONGEST:
        return name
    digest = hashlib.sha256(case.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{name[: LONGEST - len(digest) - 1]}-{digest}"


def check_output(output: Path, *endings: str) -> None:
    """Refuses at the start what would fail at the end: files that cannot be written, a plot without matplotlib.

    Args:
        output: path of the files, without ending; its folder is made if missing.
        endings: of the files, such as ``.csv``.

    Raises:
        InputRefused: ``OPTION``, ``CANNOT_WRITE`` or ``MISSING_PACKAGE``.
    """
    if not output.name:
        raise InputRefused(RefusalCode.OPTION, f"--output must be the name of files, without ending, got {output}")
    for ending in endings:
        path = output.with_name(output.name + ending)
        if path.is_dir():
            raise InputRefused(RefusalCode.CANNOT_WRITE, f"{path} is a folder; give another --output")
    if ".svg" in endings and find_spec("matplotlib") is None:
        raise InputRefused(
            RefusalCode.MISSING_PACKAGE, "the plot needs matplotlib: pip install 'convformer_monai[train]'"
        )
    check_writable(output.parent, "give another --output")


@contextmanager
def drawn(path: Path, name: str, size: tuple[float, float], font_size: int) -> Iterator[Figure]:
    """A figure to draw on, which is an SVG file after the ``with`` block, in place of such a file.

    Args:
        path: of the file.
        name: of the plot, from which the ids in the file come, so that the same figure is the same file.
        size: inches.
        font_size: points.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": name, "font.size": font_size}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        yield figure
        write_atomically(
            path,
            lambda file: figure.savefig(file, metadata={"Date": None}),
            lambda file: file.read_bytes().rstrip().endswith(b"</svg>"),
            overwrite=True,
        )
