"""Each slice of a volume as a small picture with its outlines, for pages."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convformer_monai.outputs.drawing.contours import (
    MARGIN_MM,
    choose_view,
    outlined,
    panel,
    to_grey,
    upright,
    window_of,
)
from convformer_monai.outputs.drawing.preview import slice_numbers
from convformer_monai.readers.series import ImageSeries
from convformer_monai.tasks.task import Task

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DrawnSlice", "draw_slices", "jpeg_of", "window_for"]

SIDE = 240  # pixels of the longer side of a picture
MOST = 48  # slices of a phase; of more, some are left out
COLOURS = 128  # of a picture: half as many bytes
QUALITY = 88


@dataclass(frozen=True)
class DrawnSlice:
    """A picture of a slice.

    Attributes:
        phase: index of the phase.
        slice: index of the slice as the image is stored.
        png: the picture.
    """

    phase: int
    slice: int
    png: bytes


def draw_slices(
    series: ImageSeries, labels: NDArray[np.uint8], task: Task, phases: Sequence[int], wanted: Collection[int] = ()
) -> Iterator[DrawnSlice]:
    """Draws the slices of some phases, as radiologists see them, with the outlines of the structures.

    Args:
        series: a volume or cine.
        labels: (phases, X, Y, Z).
        task: its structures, and how they are shown.
        phases: indices of the phases to draw.
        wanted: slices that are not left out, should there be many.

    Yields:
        The pictures of each phase in the order in which the slices are stored.
    """
    values, affine = upright(series.image.as_tensor()[list(phases)], series.affine)
    maps, _ = upright(labels[list(phases)], series.affine)
    view = choose_view(
        np.any(maps != 0, axis=0),
        np.linalg.norm(affine[:3, :3], axis=0),
        1,
        SIDE,
        margin_mm=None if task.preview.whole_slices else MARGIN_MM,
    )
    values, maps = values[:, view.box[0], view.box[1]], maps[:, view.box[0], view.box[1]]
    low, high = window_of(values, task.preview)
    numbers = slice_numbers(range(values.shape[-1]), affine, series)
    order = sorted((number - 1, position) for position, number in enumerate(numbers))
    kept = {int(one) for one in np.linspace(0, len(order) - 1, min(MOST, len(order))).round()}
    for place, phase in enumerate(phases):
        for slice, position in order:
            if slice in kept or slice in wanted:
                plain = panel(to_grey(values[place, ..., position], low, high), view.size)
                drawn = outlined(plain, maps[place, ..., position], task.labels)
                yield DrawnSlice(phase, slice, _png(drawn))


def window_for(series: ImageSeries, task: Task, phase: int) -> tuple[float, float]:
    """Returns the values that are shown as black and white.

    Args:
        series: a volume or cine.
        task: how its volumes are shown.
        phase: index of the phase that is looked at.
    """
    return window_of(series.image.numpy()[phase], task.preview)


def jpeg_of(picture: Image) -> bytes:
    """Returns a photograph as JPEG."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def _png(picture: Image) -> bytes:
    """A small PNG: of few colours, those of the outlines among them."""
    from PIL import Image

    buffer = io.BytesIO()
    picture.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
