"""Masks of photographs as PNG: one channel, 0 and 255."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convformer_monai.outputs.atomic import AtomicFiles, transaction
from convformer_monai.outputs.nifti import as_labels
from convformer_monai.outputs.writer import Result, Writer, path_for, register_writer

if TYPE_CHECKING:
    from convformer_monai.readers.series import ImageSeries

__all__ = ["write_grey", "write_png_mask"]


class PngWriter(Writer):
    """``x_seg.png`` of photographs, always."""

    name = "png"
    suffixes = ("_seg.png",)
    order = 10

    def write(self, base: Path, result: Result, files: AtomicFiles) -> list[Path]:
        """Stages the mask."""
        if not result.series.is_photo:
            return []
        path = path_for(base, self.suffixes[0])
        write_png_mask(path, result.labels, result.series, files=files)
        return [path]


def write_png_mask(
    path: str | os.PathLike[str],
    labels: NDArray[np.uint8],
    series: ImageSeries,
    *,
    overwrite: bool = False,
    files: AtomicFiles | None = None,
) -> None:
    """Writes the mask of a photograph as PNG: one channel, 0 and 255, at the photograph's size.

    Args:
        path: where, ending in ``.png``.
        labels: (X, Y), 0 and 1, X to the right and Y downwards.
        series: what was segmented.
        overwrite: replace a file that exists.
        files: transaction to join; its own ``overwrite`` holds then.

    Raises:
        ValueError: if the name does not end so, the series is not a photograph, its size is another, or values are not
            0 and 1.
        InputRefused: ``EXISTS`` or ``CANNOT_WRITE``; nothing is left behind then.
    """
    if not series.is_photo:
        raise ValueError(f"series must be a photograph for a PNG mask, got format {series.format!r}")
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {Path(path).name!r}")
    labels = as_labels(labels)
    series.check_grid(labels)
    if labels.max(initial=0) > 1:
        raise ValueError(f"labels must be 0 and 1 for a PNG mask, got {int(labels.max())}")
    with transaction(files, overwrite) as files:
        write_grey(path, labels * np.uint8(255), files)


def write_grey(path: str | os.PathLike[str], values: NDArray[np.uint8], files: AtomicFiles) -> None:
    """Stages a grey picture of values (X, Y), X to the right and Y downwards."""
    from PIL import Image

    pixels = np.ascontiguousarray(values.T)  # (rows, columns)

    def holds(temporary: Path) -> bool:
        with Image.open(temporary) as again:
            return again.mode == "L" and np.array_equal(np.asarray(again), pixels)

    files.write(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG"), holds)


register_writer(PngWriter())
