"""Pictures to look at: outlines of prediction and reference on slices from base to apex, or on a photograph."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.transforms import LoadImage
from monai.utils import convert_to_numpy
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from convformer_monai.evaluation.handlers import ScoredVolume
from convformer_monai.evaluation.metrics import VolumeScore
from convformer_monai.evaluation.report import output_folder
from convformer_monai.outputs.drawing.contours import (
    DARK,
    GAP,
    WHITE,
    choose_view,
    draw_words,
    font,
    outline,
    outlined,
    panel,
    to_grey,
    upright,
)
from convformer_monai.readers import SeriesReader
from convformer_monai.tasks.task import Label

__all__ = ["CHOICES", "WriteOverlays", "draw_overlay", "draw_photo_overlay"]

logger = logging.getLogger(__name__)

CHOICES = ("worst", "best", "first")
PANELS = 4
PANEL_PIXELS = 300  # the longer side
PHOTO_PIXELS = 480
LEGEND_WIDTH = 420
TEXT_HEIGHT = 20
DASH_PIXELS = 5


class WriteOverlays:
    """Writes pictures of some cases when the engine has completed; a listener of ``ScoreMasks``.

    Holds no more label maps than it will draw.

    Args:
        output_dir: folder; the pictures go to ``overlays/<case>.png`` in it.
        labels: the structures and their colours.
        count: how many cases; 0 for none.
        choice: which: ``worst`` or ``best`` by mean Dice, or ``first``.
    """

    def __init__(self, output_dir: object, labels: Sequence[Label], count: int = 0, choice: str = "worst") -> None:
        if choice not in CHOICES:
            raise ValueError(f"choice of the overlays must be one of {', '.join(CHOICES)}, got {choice!r}")
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"count of the overlays must be a whole number, 0 or more, got {count!r}")
        self.output_dir = output_dir
        self.labels = tuple(labels)
        self.count = count
        self.choice = choice
        self.kept: list[ScoredVolume] = []

    def attach(self, engine: Engine) -> None:
        """Makes the engine write the pictures at its end."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def __call__(self, volume: ScoredVolume) -> None:
        """Takes notice of a scored volume."""
        self.kept.append(volume)
        if self.choice != "first":
            self.kept.sort(key=lambda one: one.score.dice, reverse=self.choice == "best")
        del self.kept[self.count :]

    def _start(self, _engine: Engine) -> None:
        self.kept.clear()

    def _write(self, _engine: Engine) -> None:
        if not self.count:
            return
        folder = output_folder(f"{self.output_dir}/overlays")
        for volume in self.kept:
            image = LoadImage(reader=SeriesReader, image_only=True, ensure_channel_first=True)(volume.image_path)
            values, masks = convert_to_numpy(image), (volume.reference, volume.predicted)
            if volume.predicted.ndim == 2:
                picture = draw_photo_overlay(values, *masks, self.labels, _title(volume))
            else:
                picture = draw_overlay(values[volume.channel], *masks, volume.affine, self.labels, _title(volume))
            path = folder / f"{volume.score.case}.png".replace("/", "_")
            picture.save(path)
            logger.info("wrote %s", path)


def _title(volume: ScoredVolume) -> str:
    score = volume.score
    if not isinstance(score, VolumeScore):
        return f"{score.case}   Dice {score.dice:.3f}"
    parts = "  ".join(f"{part.structure} {part.dice:.3f}" for part in score.structures)
    return f"{score.case} {score.phase}".strip() + f"   Dice {score.dice:.3f} ({parts})"


def draw_overlay(
    image: NDArray[np.floating[Any]],
    reference: NDArray[np.integer[Any]],
    predicted: NDArray[np.integer[Any]],
    affine: NDArray[np.float64],
    labels: Sequence[Label],
    title: str = "",
) -> Image.Image:
    """Draws slices from base to apex: above the image alone, below with the outlines.

    Slices are shown as radiologists see them, in square pixels. Predicted outlines have the structures' colours, those
    of the reference are dashed white above them. The first and last panel are the outermost slices with any structure.

    Args:
        image: (X, Y, Z) grey values.
        reference: (X, Y, Z) label map.
        predicted: (X, Y, Z) label map.
        affine: (4, 4) voxel index to mm.
        labels: the structures.
        title: written above.

    Returns:
        The picture, RGB.
    """
    values, turned = upright(image[None], affine)
    maps, _ = upright(np.stack([reference, predicted]).astype(np.uint8), affine)
    spacing = np.linalg.norm(turned[:3, :3], axis=0)
    view = choose_view(np.any(maps != 0, axis=0), spacing, PANELS, PANEL_PIXELS, widest_first=True)
    low, high = np.percentile(values[0][view.box], [1, 99.5])
    letters = font()
    width, height = view.size
    whole = max(LEGEND_WIDTH, len(view.slices) * (width + GAP) + GAP)
    canvas = Image.new("RGB", (whole, 2 * (height + GAP) + 3 * TEXT_HEIGHT), DARK)
    pen = ImageDraw.Draw(canvas)
    pen.text((GAP, 2), title, fill=WHITE, font=letters)
    for column, k in enumerate(view.slices):
        left, top = GAP + column * (width + GAP), 2 * TEXT_HEIGHT
        pen.text((left, TEXT_HEIGHT + 2), f"slice {k + 1} of {values.shape[3]}", fill=WHITE, font=letters)
        plain = panel(to_grey(values[0, ..., k][view.box], low, high), view.size)
        canvas.paste(plain, (left, top))
        drawn = outlined(plain, maps[1, ..., k][view.box], labels)
        canvas.paste(_dashed(drawn, maps[0, ..., k][view.box], labels), (left, top + height + GAP))
    _write_legend(canvas, labels)
    return canvas


def draw_photo_overlay(
    image: NDArray[np.number[Any]],
    reference: NDArray[np.integer[Any]],
    predicted: NDArray[np.integer[Any]],
    labels: Sequence[Label],
    title: str = "",
) -> Image.Image:
    """Draws a photograph: at the left alone, at the right with the outlines, as in :func:`draw_overlay`.

    Args:
        image: (3, X, Y), 0-255.
        reference: (X, Y) label map.
        predicted: (X, Y) label map.
        labels: the structures.
        title: written above.

    Returns:
        The picture, RGB.
    """
    scale = PHOTO_PIXELS / max(image.shape[1:])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[2] * scale))
    plain = panel(np.moveaxis(image, 0, -1).astype(np.uint8), size)
    canvas = Image.new("RGB", (2 * (size[0] + GAP) + GAP, size[1] + GAP + 2 * TEXT_HEIGHT), DARK)
    ImageDraw.Draw(canvas).text((GAP, 2), title, fill=WHITE, font=font())
    canvas.paste(plain, (GAP, TEXT_HEIGHT))
    drawn = outlined(plain, predicted.astype(np.uint8), labels)
    canvas.paste(_dashed(drawn, reference.astype(np.uint8), labels), (size[0] + 2 * GAP, TEXT_HEIGHT))
    _write_legend(canvas, labels)
    return canvas


def _write_legend(canvas: Image.Image, labels: Sequence[Label]) -> None:
    structures = [(label.name, label.colour) for label in labels]
    legend = [("prediction:", WHITE), *structures, ("reference: white, dashed", WHITE)]
    draw_words(ImageDraw.Draw(canvas), GAP, canvas.height - TEXT_HEIGHT + 2, legend, font())


def _dashed(picture: Image.Image, reference: NDArray[np.uint8], labels: Sequence[Label]) -> Image.Image:
    """Returns the picture with the reference's outlines, dashed and white."""
    pixels = np.array(picture)
    drawn = np.asarray(panel(reference, picture.size, smooth=False))
    rows, columns = np.indices(drawn.shape)
    dashes = (rows // DASH_PIXELS + columns // DASH_PIXELS) % 2 == 0
    for label in labels:
        pixels[outline(drawn == label.index, thickness=1) & dashes] = WHITE
    return Image.fromarray(pixels)
