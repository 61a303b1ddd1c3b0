"""Slices as pictures, with the outlines of structures: what the preview and the evaluation's overlays share."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_numpy
from numpy.typing import NDArray
from scipy import ndimage

from convformer_monai.tasks.task import Label, Preview
from convformer_monai.transforms.geometry import InPlaneOrientation

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font: TypeAlias = ImageFont | FreeTypeFont

__all__ = [
    "DARK",
    "GAP",
    "MARGIN_MM",
    "WHITE",
    "View",
    "choose_view",
    "draw_words",
    "font",
    "legible",
    "outline",
    "outlined",
    "panel",
    "to_grey",
    "upright",
    "window_of",
]

WHITE, DARK = (255, 255, 255), (20, 20, 20)
GAP = 6
MARGIN_MM = 25.0
FONT_SIZE = 13


def font(size: float = FONT_SIZE) -> Font:
    """Returns the font that comes with Pillow."""
    from PIL.ImageFont import load_default

    return load_default(size)


def legible(text: str) -> str:
    """Returns a text in the letters that the font has: ASCII. Others lose their accents, or become question marks."""
    letters = unicodedata.normalize("NFKD", text)
    return "".join(one if one.isascii() else "?" for one in letters if not unicodedata.combining(one))


def upright(
    volumes: NDArray[Any] | torch.Tensor, affine: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Turns volumes as radiologists see them: x to the right, y downwards, slices last.

    Args:
        volumes: (N, X, Y, Z).
        affine: (4, 4) voxel index to RAS mm.

    Returns:
        (N, X', Y', Z') of the same type, and its affine.
    """
    tensor = MetaTensor(torch.as_tensor(np.ascontiguousarray(volumes)), affine=torch.as_tensor(affine))
    turned = InPlaneOrientation()(tensor)
    return np.asarray(convert_to_numpy(turned)), np.asarray(convert_to_numpy(turned.affine), dtype=np.float64)


@dataclass(frozen=True)
class View:
    """Which slices are shown, and which part of them.

    Attributes:
        box: in-plane part.
        slices: indices, in the order of the panels.
        size: of a panel in pixels, (width, height).
        pixels_per_mm: scale of the panels.
    """

    box: tuple[slice, slice]
    slices: list[int]
    size: tuple[int, int]
    pixels_per_mm: float


def choose_view(
    labelled: NDArray[np.bool_],
    spacing: NDArray[np.float64],
    panels: int,
    side: int,
    *,
    margin_mm: float | None = MARGIN_MM,
    widest_first: bool = False,
) -> View:
    """Chooses what to show: slices evenly over those that are labelled, or over all if none is.

    Args:
        labelled: (X, Y, Z), upright.
        spacing: mm of the three axes.
        panels: most slices to show; the first and last labelled ones are among them.
        side: longer side of a panel in pixels.
        margin_mm: shown around what is labelled; ``None`` shows whole slices.
        widest_first: begin at the wider end of what is labelled: at the base of a heart.
    """
    if not labelled.any():
        labelled = np.ones_like(labelled)
    box = []
    for axis in (0, 1):
        positions = np.flatnonzero(np.any(labelled, axis=(1 - axis, 2)))
        margin = labelled.shape[axis] if margin_mm is None else int(np.ceil(margin_mm / spacing[axis]))
        box.append(
            slice(max(0, int(positions[0]) - margin), min(labelled.shape[axis], int(positions[-1]) + 1 + margin))
        )
    levels = np.flatnonzero(np.any(labelled, axis=(0, 1)))
    areas = labelled.sum(axis=(0, 1))[levels]
    half = len(levels) // 2
    if widest_first and areas[:half].sum() < areas[len(levels) - half :].sum():
        levels = levels[::-1]
    positions = np.linspace(0, len(levels) - 1, panels).round().astype(int)
    shown = [int(levels[position]) for position in dict.fromkeys(positions.tolist())]
    extent = [(part.stop - part.start) * float(spacing[axis]) for axis, part in enumerate(box)]
    scale = side / max(extent)
    size = max(1, round(extent[0] * scale)), max(1, round(extent[1] * scale))
    return View((box[0], box[1]), shown, size, scale)


def to_grey(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Returns values from black, at ``low``, to white, at ``high``."""
    return np.clip((values - low) / max(float(high - low), 1e-6) * 255, 0, 255).astype(np.uint8)


def window_of(values: NDArray[Any], how: Preview) -> tuple[float, float]:
    """Returns the values that are shown as black and white.

    Args:
        values: what is shown.
        how: the task shows its volumes.
    """
    if how.window is not None and (how.window_below is None or values.min() < how.window_below):
        return how.window
    low, high = np.percentile(values, [1, 99.5])
    return float(low), float(high)


def panel(plane: NDArray[np.uint8], size: tuple[int, int], smooth: bool = True) -> Image:
    """Returns a plane as a picture.

    Args:
        plane: (X, Y), or (X, Y, 3) for colours; X to the right, Y downwards.
        size: of the picture, (width, height).
        smooth: interpolate; labels must not be.
    """
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(np.swapaxes(plane, 0, 1)))
    return picture.resize(size, Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST)


def covered(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns which pixels of a picture a mask lies in, be it with a part of them: thin structures must not vanish.

    Args:
        mask: (X, Y).
        size: of the picture, (width, height).

    Returns:
        (height, width).
    """
    from PIL import Image

    shares = Image.fromarray(np.ascontiguousarray(mask.T, dtype=np.float32))
    return np.asarray(shares.resize(size, Image.Resampling.BOX)) > 0


def outline(mask: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """Returns the pixels of a mask within ``thickness`` of its border; parts without others are ringed from outside.

    A part that is all border would hide what is below it, and a single pixel would not be seen.
    """
    inner = ndimage.binary_erosion(mask, iterations=thickness)
    thick = ndimage.binary_propagation(inner, structure=np.ones((3, 3)), mask=mask)
    thin = mask & ~thick
    around = ndimage.binary_dilation(thin, iterations=thickness) & ~mask
    lines: NDArray[np.bool_] = (thick & ~inner) | around
    return lines


def outlined(picture: Image, plane: NDArray[np.uint8], labels: Sequence[Label], thickness: int = 2) -> Image:
    """Returns a picture with the outlines of structures in their colours.

    Args:
        picture: what :func:`panel` made.
        plane: (X, Y) label map of the same place.
        labels: the structures.
        thickness: of the lines in pixels.
    """
    from PIL import Image

    pixels = np.array(picture.convert("RGB"))
    for label in labels:
        pixels[outline(covered(plane == label.index, picture.size), thickness)] = label.colour
    return Image.fromarray(pixels)


def draw_words(
    pen: ImageDraw, x: float, y: float, words: Sequence[tuple[str, tuple[int, int, int]]], letters: Font
) -> float:
    """Writes coloured, :func:`legible` words in a line; returns where the line ends.

    Args:
        pen: of the picture.
        x: left end.
        y: top.
        words: text and colour of each.
        letters: font.
    """
    for word, colour in words:
        text = legible(word)
        pen.text((x, y), text, fill=colour, font=letters)
        x += pen.textlength(text, font=letters) + 3 * GAP
    return x
