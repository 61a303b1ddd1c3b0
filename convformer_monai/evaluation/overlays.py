"""Pictures to look at: outlines of prediction and reference on slices from base to apex."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import LoadImage
from monai.utils import convert_to_numpy
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from convformer_monai.evaluation.handlers import ScoredVolume
from convformer_monai.evaluation.report import output_folder
from convformer_monai.labels import Label
from convformer_monai.readers import NiftiReader
from convformer_monai.transforms.geometry import InPlaneOrientation

__all__ = ["CHOICES", "WriteOverlays", "draw_overlay"]

logger = logging.getLogger(__name__)

CHOICES = ("worst", "best", "first")
PANELS = 4
MARGIN_MM = 25.0
PANEL_PIXELS = 300  # the longer side
GAP, TEXT_HEIGHT = 6, 20
DASH_PIXELS = 5
WHITE = (255, 255, 255)


class WriteOverlays:
    """Writes pictures of some cases when the engine has completed; a listener of ``ScoreVolumes``.

    Holds no more volumes than it will draw.

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
            image = LoadImage(reader=NiftiReader, image_only=True, ensure_channel_first=True)(volume.image_path)
            channel = convert_to_numpy(image)[volume.channel]
            picture = draw_overlay(
                channel, volume.reference, volume.predicted, volume.affine, self.labels, _title(volume)
            )
            path = folder / f"{volume.score.case}.png".replace("/", "_")
            picture.save(path)
            logger.info("wrote %s", path)


def _title(volume: ScoredVolume) -> str:
    score = volume.score
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
    stack = MetaTensor(
        torch.from_numpy(np.stack([image, reference, predicted]).astype(np.float32)), affine=torch.as_tensor(affine)
    )
    upright = InPlaneOrientation()(stack)
    volumes = np.asarray(convert_to_numpy(upright))  # (3, X', Y', Z'), slices last
    spacing = np.linalg.norm(np.asarray(convert_to_numpy(upright.affine))[:3, :3], axis=0)
    view = _view(volumes[1:], spacing)
    low, high = np.percentile(volumes[0][view.box], [1, 99.5])
    grey = np.clip((volumes[0] - low) / max(float(high - low), 1e-6) * 255, 0, 255).astype(np.uint8)
    maps = volumes[1:].round().astype(np.uint8)
    font = ImageFont.load_default(13)
    width, height = view.size
    canvas = Image.new(
        "RGB", (len(view.slices) * (width + GAP) + GAP, 2 * (height + GAP) + 3 * TEXT_HEIGHT), (20, 20, 20)
    )
    pen = ImageDraw.Draw(canvas)
    pen.text((GAP, 2), title, fill=WHITE, font=font)
    for column, k in enumerate(view.slices):
        left, top = GAP + column * (width + GAP), 2 * TEXT_HEIGHT
        pen.text((left, TEXT_HEIGHT + 2), f"slice {k + 1} of {volumes.shape[3]}", fill=WHITE, font=font)
        panel = _panel(grey[..., k][view.box], view.size, Image.Resampling.BICUBIC)
        canvas.paste(panel, (left, top))
        outlined = _outlined(panel, maps[0, ..., k][view.box], maps[1, ..., k][view.box], labels)
        canvas.paste(outlined, (left, top + height + GAP))
    _legend(pen, canvas.height - TEXT_HEIGHT + 2, labels, font)
    return canvas


@dataclass(frozen=True)
class _View:
    """Which slices are shown, and which part of them.

    Attributes:
        box: in-plane part.
        slices: indices, base first.
        size: of a panel in pixels, (width, height).
    """

    box: tuple[slice, slice]
    slices: list[int]
    size: tuple[int, int]


def _view(maps: NDArray[np.floating[Any]], spacing: NDArray[np.float64]) -> _View:
    """Chooses what to show of (2, X, Y, Z) label maps: what is labelled and a margin; the whole if nothing is."""
    labelled: NDArray[np.bool_] = np.any(maps != 0, axis=0)
    if not labelled.any():
        labelled = np.ones_like(labelled)
    box = []
    for axis in (0, 1):
        places = np.flatnonzero(np.any(labelled, axis=(1 - axis, 2)))
        margin = int(np.ceil(MARGIN_MM / spacing[axis]))
        box.append(slice(max(0, int(places[0]) - margin), min(labelled.shape[axis], int(places[-1]) + 1 + margin)))
    levels = np.flatnonzero(np.any(labelled, axis=(0, 1)))
    areas = labelled.sum(axis=(0, 1))[levels]
    half = len(levels) // 2
    if areas[:half].sum() < areas[len(levels) - half :].sum():
        levels = levels[::-1]  # the heart is widest at its base
    places = np.linspace(0, len(levels) - 1, PANELS).round().astype(int)
    shown = [int(levels[place]) for place in dict.fromkeys(places.tolist())]
    extent = [(part.stop - part.start) * float(spacing[axis]) for axis, part in enumerate(box)]
    scale = PANEL_PIXELS / max(extent)
    return _View((box[0], box[1]), shown, (max(1, round(extent[0] * scale)), max(1, round(extent[1] * scale))))


def _panel(plane: NDArray[np.uint8], size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """Returns (X, Y) values as an upright picture: x to the right, y downwards."""
    return Image.fromarray(np.ascontiguousarray(plane.T)).resize(size, resampling)


def _outlined(
    panel: Image.Image, reference: NDArray[np.uint8], predicted: NDArray[np.uint8], labels: Sequence[Label]
) -> Image.Image:
    """Returns the panel with both outlines."""
    pixels = np.array(panel.convert("RGB"))
    planes = [np.asarray(_panel(one, panel.size, Image.Resampling.NEAREST)) for one in (reference, predicted)]
    rows, columns = np.indices(planes[0].shape)
    dashes = (rows // DASH_PIXELS + columns // DASH_PIXELS) % 2 == 0
    for label in labels:
        pixels[_outline(planes[1] == label.index, thickness=2)] = label.colour
    for label in labels:
        pixels[_outline(planes[0] == label.index, thickness=1) & dashes] = WHITE
    return Image.fromarray(pixels)


def _outline(mask: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """Returns the pixels of a mask within ``thickness`` of its border."""
    inner: NDArray[np.bool_] = ndimage.binary_erosion(mask, iterations=thickness)
    return mask & ~inner


def _legend(
    pen: ImageDraw.ImageDraw, y: int, labels: Sequence[Label], font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> None:
    x = float(GAP)
    structures = [(label.name, label.colour) for label in labels]
    for text, colour in [("prediction:", WHITE), *structures, ("reference: white, dashed", WHITE)]:
        pen.text((x, y), text, fill=colour, font=font)
        x += pen.textlength(text, font=font) + 3 * GAP
