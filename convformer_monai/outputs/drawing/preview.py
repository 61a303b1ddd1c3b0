"""One picture of a result: the outlines on a few slices, ED above ES for a cine, or on the photograph."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.utils import convert_to_numpy
from numpy.typing import NDArray

from convformer_monai.measurements.values import Measurements, readable
from convformer_monai.outputs.atomic import AtomicFiles, transaction
from convformer_monai.outputs.drawing.contours import (
    DARK,
    GAP,
    MARGIN_MM,
    WHITE,
    choose_view,
    draw_words,
    font,
    legible,
    outlined,
    panel,
    to_grey,
    upright,
    window_of,
)
from convformer_monai.readers.series import ImageSeries
from convformer_monai.tasks.task import Label, Task
from convformer_monai.transforms.geometry import slice_axis

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

__all__ = ["draw_preview", "edge_letters", "slice_numbers", "write_preview"]

PANELS = 6
PANEL_PIXELS = 260  # longer side of a slice
PHOTO_PIXELS = (480, 1000)  # smaller and larger photographs are shown at these
LINE = 20  # height of a line of text
SMALLEST_WIDTH = 560
AMBER = (255, 190, 80)
OBLIQUE = 0.4  # a second letter where an axis is turned by 24 degrees or more
NUMBERS = 4
STEPS = (1, 2, 5)  # of scale bars, times a power of ten
BAR_SHARE = 0.4  # of a panel


@dataclass(frozen=True)
class _Row:
    """Panels side by side.

    Attributes:
        title: what they show.
        captions: above each.
        panels: all of one size.
        letters: of the patient's directions at left, right, top and bottom; none for photographs.
    """

    title: str
    captions: Sequence[str]
    panels: Sequence[Image]
    letters: tuple[str, str, str, str] | None = None


def write_preview(
    path: str | os.PathLike[str],
    series: ImageSeries,
    labels: NDArray[np.uint8],
    task: Task,
    measurements: Measurements,
    *,
    files: AtomicFiles | None = None,
    overwrite: bool = False,
) -> None:
    """Writes the picture of a result as PNG; see :func:`draw_preview`.

    Args:
        path: where, ending in ``.png``.
        series: what was segmented.
        labels: (phases, X, Y, Z), or (X, Y) for a photograph.
        task: the structures, and how they are shown.
        measurements: of the whole case.
        files: transaction to join; its own ``overwrite`` holds then.
        overwrite: replace a file that exists.

    Raises:
        ValueError: if the name does not end so, or the labels have not the shape of the series.
        InputRefused: ``EXISTS`` or ``CANNOT_WRITE``; nothing is left behind then.
    """
    from PIL import Image

    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {Path(path).name!r}")
    picture = draw_preview(series, labels, task, measurements)

    def holds(temporary: Path) -> bool:
        with Image.open(temporary) as again:
            return np.array_equal(np.asarray(again), np.asarray(picture))

    with transaction(files, overwrite) as files:
        files.write(path, lambda temporary: picture.save(temporary, format="PNG"), holds)


def draw_preview(series: ImageSeries, labels: NDArray[np.uint8], task: Task, measurements: Measurements) -> Image:
    """Draws the picture of a result.

    Volumes: up to six slices, evenly over those with any structure, as radiologists see them, without and with the
    outlines (only without, if there are none); of a cine the end diastole above the end systole, as measured. Slices
    are numbered from 1 in their order in the series. Photographs: the photograph with the outline, not larger than 1000
    pixels. Above are the first numbers and the flags, below the structures' colours and a scale bar. Letters at the
    slices' edges tell the patient's directions. Nothing that names the patient is drawn.

    Args:
        series: what was segmented; it may be one phase of what was measured.
        labels: (phases, X, Y, Z), or (X, Y) for a photograph.
        task: the structures, and how they are shown.
        measurements: of the whole case.

    Returns:
        The picture, RGB.

    Raises:
        ValueError: if the labels have not the shape of the series.
    """
    series.check_grid(labels)
    if series.is_photo:
        rows, scale = _photo_rows(series, labels, task.labels)
    else:
        rows, scale = _volume_rows(series, labels, task, measurements)
    return _laid_out(rows, _header(labels, task, measurements), task.labels, scale)


def _photo_rows(
    series: ImageSeries, labels: NDArray[np.uint8], table: Sequence[Label]
) -> tuple[list[_Row], float | None]:
    """Returns the photograph with its outline, and the pixels per mm if they are known."""
    pixels = np.moveaxis(np.asarray(convert_to_numpy(series.image)), 0, -1)  # (X, Y, 3)
    spacing = np.linalg.norm(series.affine[:3, :2], axis=0)
    extent = np.array(labels.shape) * spacing / spacing.min()
    factor = float(np.clip(extent.max(), *PHOTO_PIXELS)) / float(extent.max())
    width, height = (max(1, round(float(side) * factor)) for side in extent)
    drawn = outlined(panel(pixels, (width, height)), labels, table)
    return [_Row("", ("",), (drawn,))], factor / float(spacing.min()) if series.spacing_known else None


def _volume_rows(
    series: ImageSeries, labels: NDArray[np.uint8], task: Task, measurements: Measurements
) -> tuple[list[_Row], float]:
    """Returns ED and ES, or the slices without and with outlines; and the pixels per mm."""
    titles = _phases_shown(series, measurements)
    positions = [series.phases.index(phase) for phase in titles]
    values, affine = upright(series.image.as_tensor()[positions], series.affine)
    maps, _ = upright(labels[positions], series.affine)
    how = task.preview
    view = choose_view(
        np.any(maps != 0, axis=0),
        np.linalg.norm(affine[:3, :3], axis=0),
        PANELS,
        PANEL_PIXELS,
        margin_mm=None if how.whole_slices else MARGIN_MM,
        widest_first=how.widest_first,
    )
    shown = values[:, view.box[0], view.box[1]]
    low, high = window_of(shown, how)
    captions = [f"slice {number} of {values.shape[3]}" for number in slice_numbers(view.slices, affine, series)]
    letters = edge_letters(affine)
    rows = []
    for position, title in enumerate(titles.values()):
        plain = [panel(to_grey(shown[position, ..., k], low, high), view.size) for k in view.slices]
        planes = [maps[position, view.box[0], view.box[1], k] for k in view.slices]
        drawn = [outlined(picture, plane, task.labels) for picture, plane in zip(plain, planes, strict=True)]
        if len(titles) == 1 and labels.any():
            rows.append(_Row(title, captions, [picture.convert("RGB") for picture in plain], letters))
            title, captions = "", [""] * len(captions)
        rows.append(_Row(title, captions, drawn, letters))
    return rows, view.pixels_per_mm


def slice_numbers(slices: Sequence[int], affine: NDArray[np.float64], series: ImageSeries) -> list[int]:
    """Returns the numbers, from 1, that upright slices have in the series, where they may be in reverse order."""
    axis = slice_axis(series.affine, series.image.shape[1:])
    to_series = np.linalg.inv(series.affine) @ affine
    return [round(float(to_series[axis] @ [0, 0, position, 1])) + 1 for position in slices]


def _phases_shown(series: ImageSeries, measurements: Measurements) -> dict[int, str]:
    """Returns the phases to show and their titles: ED and ES where they are known, else the first."""
    titles: dict[int, str] = {}
    for moment, words in (("ed", "end diastole"), ("es", "end systole")):
        choice = measurements.details.get(moment, {})
        if choice.get("phase") in series.phases:
            how = "chosen by the user" if choice["chosen"] == "user" else "found"
            titles[int(choice["phase"])] = f"{moment.upper()}, {words}: phase {choice['phase']}, {how}"
    several = len(series.phases) > 1
    return titles or {series.phases[0]: f"phase {series.phases[0]}, one of {len(series.phases)}" if several else ""}


def edge_letters(affine: NDArray[np.float64]) -> tuple[str, str, str, str]:
    """Returns the patient's directions at left, right, top and bottom of an upright slice."""
    right, down = (affine[:3, axis] / np.linalg.norm(affine[:3, axis]) for axis in (0, 1))
    return _direction(-right), _direction(right), _direction(-down), _direction(down)


def _direction(vector: NDArray[np.float64]) -> str:
    """Names the direction of a unit vector in RAS: its main axis, and a second one where it is oblique."""
    order = np.argsort(-np.abs(vector), kind="stable")[:2]
    letters = [("RAS" if vector[axis] > 0 else "LPI")[axis] for axis in order]
    return letters[0] + (letters[1] if abs(vector[order[1]]) > OBLIQUE else "")


def _header(
    labels: NDArray[np.uint8], task: Task, measurements: Measurements
) -> list[tuple[str, tuple[int, int, int]]]:
    """Returns the lines above the panels."""
    numbers = [
        f"{item.title} {readable(item)}".rstrip() for item in measurements.items[:NUMBERS] if item.value is not None
    ]
    lines = [(text, WHITE) for text in (measurements.bundle, *numbers)]
    if not labels.any():
        more = f"; {task.empty_means}" if task.empty_means else ""
        lines.append((f"Nothing was found: the mask is empty{more}.", AMBER))
    return lines + [(f"{flag.code}: {flag.message}", AMBER) for flag in measurements.flags if flag.code != "MASK_EMPTY"]


def _laid_out(
    rows: Sequence[_Row],
    header: Sequence[tuple[str, tuple[int, int, int]]],
    table: Sequence[Label],
    pixels_per_mm: float | None,
) -> Image:
    """Puts header, rows and legend together."""
    from PIL import Image, ImageDraw

    letters = font()
    wide, high = rows[0].panels[0].size
    width = max(SMALLEST_WIDTH, len(rows[0].panels) * (wide + GAP) + GAP)
    header = [(line, colour) for text, colour in header for line in _wrapped(text, width - 2 * GAP)]
    heights = [(bool(row.title) + any(row.captions)) * LINE + high + GAP for row in rows]
    canvas = Image.new("RGB", (width, GAP + len(header) * LINE + sum(heights) + 2 * LINE + GAP), DARK)
    pen = ImageDraw.Draw(canvas)
    y = GAP
    for text, colour in header:
        pen.text((GAP, y), text, fill=colour, font=letters)
        y += LINE
    for row in rows:
        if row.title:
            pen.text((GAP, y), row.title, fill=WHITE, font=letters)
            y += LINE
        top = y + (LINE if any(row.captions) else 0)
        for column, (caption, picture) in enumerate(zip(row.captions, row.panels, strict=True)):
            left = GAP + column * (wide + GAP)
            pen.text((left, y), caption, fill=WHITE, font=letters)
            canvas.paste(picture, (left, top))
            if row.letters:
                _draw_letters(pen, (left, top, left + wide, top + high), row.letters)
        y = top + high + GAP
    draw_words(pen, GAP, y, [(label.long_name, label.colour) for label in table], letters)
    if pixels_per_mm:
        _draw_bar(pen, y + LINE, max(wide, high), pixels_per_mm)
    return canvas


def _wrapped(text: str, width: float) -> list[str]:
    """Breaks a text into lines that fit, and words that are longer than a line, too."""
    letters = font()
    lines = [""]
    for word in legible(text).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if letters.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if letters.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _draw_letters(pen: ImageDraw, box: tuple[int, int, int, int], letters: Sequence[str]) -> None:
    """Writes the patient's directions at the edges of a panel."""
    left, top, right, bottom = box
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    positions: list[tuple[float, float, str]] = [
        (left + 3, middle_y, "lm"),
        (right - 3, middle_y, "rm"),
        (middle_x, top + 3, "ma"),
        (middle_x, bottom - 3, "md"),
    ]
    edge: dict[str, Any] = {"font": font(), "fill": WHITE, "stroke_width": 2, "stroke_fill": DARK}
    for letter, (x, y, anchor) in zip(letters, positions, strict=True):
        pen.text((x, y), letter, anchor=anchor, **edge)


def _draw_bar(pen: ImageDraw, y: int, panel_side: int, pixels_per_mm: float) -> None:
    """Draws a scale bar of a round length, not longer than a part of a panel's longer side."""
    longest = BAR_SHARE * panel_side / pixels_per_mm
    power = 10.0 ** math.floor(math.log10(longest))
    length = power * max((step for step in STEPS if step * power <= longest), default=1)
    end, middle = GAP + round(length * pixels_per_mm), y + LINE // 2
    pen.line((GAP, middle, end, middle), fill=WHITE, width=2)
    for x in (GAP, end):
        pen.line((x, middle - 4, x, middle + 4), fill=WHITE, width=2)
    pen.text((end + GAP, middle), f"{length:g} mm", fill=WHITE, font=font(), anchor="lm")
