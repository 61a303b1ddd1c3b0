"""What is checked before anything is allocated, and readers of compressed bytes that stop at a limit."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.values import pieces

__all__ = [
    "MAX_PIXELS",
    "MAX_SPACING_MM",
    "MAX_VOXELS",
    "MIN_SPACING_MM",
    "check_finite",
    "check_spacing",
    "check_voxels",
    "inflated_size",
    "one_line",
    "read_capped",
    "refuse_not_finite",
]

MAX_VOXELS = 2**28  # 1 GiB as float32; a 512 x 512 x 20 cine of 30 phases has 1.6e8
MAX_PIXELS = 100_000_000  # of a photograph: 300 MB as RGB
MIN_SPACING_MM, MAX_SPACING_MM = 0.05, 20.0
PIECE_BYTES = 2**20
GZIP_MAGIC = b"\x1f\x8b"
ANY_ZLIB = zlib.MAX_WBITS | 32  # zlib or gzip, whichever it is


def check_voxels(shape: Sequence[int], where: str | Path) -> None:
    """Checks the size of a volume or cine that a header claims.

    Raises:
        InputRefused: ``DIMENSIONS`` if one is below 1, ``TOO_LARGE`` if there are more voxels than ``MAX_VOXELS``.
    """
    if min(shape) < 1:
        raise InputRefused(
            RefusalCode.DIMENSIONS, f"{where} has shape {tuple(shape)}; every dimension must be at least 1"
        )
    voxels = math.prod(int(size) for size in shape)
    if voxels > MAX_VOXELS:
        raise InputRefused(
            RefusalCode.TOO_LARGE,
            f"{where} claims {voxels:,} voxels, above the limit of {MAX_VOXELS:,}; crop or split it",
        )


def check_spacing(spacing: NDArray[np.float64], where: str | Path) -> None:
    """Checks that the distances between voxels, in mm, can be those of a patient.

    Raises:
        InputRefused: ``SPACING`` if one is not, or is not a number.
    """
    if np.all((spacing >= MIN_SPACING_MM) & (spacing <= MAX_SPACING_MM)):  # False for NaN
        return
    raise InputRefused(
        RefusalCode.SPACING,
        f"{where} has voxel spacing {in_mm(spacing)}, outside {MIN_SPACING_MM}-{MAX_SPACING_MM:g} mm; "
        "correct the header",
    )


def check_finite(data: NDArray[np.floating], where: str | Path) -> None:
    """Checks voxel values.

    Raises:
        InputRefused: ``NOT_FINITE`` if some are NaN or infinite.
    """
    refuse_not_finite(data.size - sum(int(np.count_nonzero(np.isfinite(piece))) for piece in pieces(data)), where)


def refuse_not_finite(count: int, where: str | Path) -> None:
    """Refuses an image with voxels that are NaN or infinite.

    Args:
        count: of them.
        where: the image.

    Raises:
        InputRefused: ``NOT_FINITE`` if there are any.
    """
    if count:
        raise InputRefused(
            RefusalCode.NOT_FINITE, f"{where} holds {count:,} voxels that are NaN or infinite; repair it"
        )


def read_capped(path: Path, count: int) -> bytearray:
    """Reads the first bytes of a file, decompressed if it is a gzip file (by its content, not its name).

    Args:
        path: the file.
        count: how many bytes at most. Memory does not exceed it by much, whatever the file would decompress to.

    Raises:
        OSError: if the file cannot be read, EOFError or zlib.error if its compression is damaged.
    """
    content = bytearray()
    with open(path, "rb") as raw:
        is_gzip = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        raw.seek(0)
        with gzip.open(raw) if is_gzip else raw as file:
            while piece := file.read(min(PIECE_BYTES, count - len(content))):
                content += piece
    return content


def inflated_size(file: BinaryIO, limit: int, wbits: int = ANY_ZLIB) -> int:
    """Counts what the rest of a file decompresses to, keeping none of it.

    Args:
        file: at the beginning of the compressed data.
        limit: counting stops beyond it.
        wbits: as of :func:`zlib.decompressobj`; by default zlib or gzip data.

    Returns:
        The number of bytes, checksum verified; or one greater than ``limit``.

    Raises:
        zlib.error: if the data are damaged, EOFError if they are cut.
    """
    inflater, total = zlib.decompressobj(wbits), 0
    while not inflater.eof:
        piece = inflater.unconsumed_tail or file.read(PIECE_BYTES)
        if not piece:
            raise EOFError("the compressed data end early")
        total += len(inflater.decompress(piece, PIECE_BYTES))
        if total > limit:
            return limit + 1
    return total


def in_mm(values: NDArray[np.float64]) -> str:
    """Writes lengths for people, ``1.4 x 1.4 x 8 mm``."""
    return " x ".join(f"{value:.4g}" for value in values) + " mm"


def one_line(error: BaseException) -> str:
    """Returns an exception's text in one line, or its kind if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
