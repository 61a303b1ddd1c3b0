"""Draws docs/figures/results.png: what the three bundles find in the generated images of `convformer-monai demo`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from convformer_monai.bundle import BUNDLES
from convformer_monai.commands.demo import run_demo
from convformer_monai.outputs.drawing.contours import (
    DARK,
    MARGIN_MM,
    WHITE,
    choose_view,
    draw_words,
    font,
    outlined,
    panel,
    to_grey,
    upright,
)
from convformer_monai.segmenter import Segmentation, Segmenter
from convformer_monai.tasks.task import Task

FIGURE = Path(__file__).parents[1] / "figures" / "results.png"
HEIGHT, GAP, TITLE, LEGEND = 400, 12, 48, 48  # pixels
TITLES = {"cardiac": "Cardiac MRI", "dermoscopy": "Dermoscopy", "hemorrhage": "Head CT"}


def main() -> None:
    """Draws a panel a bundle, with the Dice of its structures in the whole image."""
    panels = []
    for name in BUNDLES:
        with tempfile.TemporaryDirectory() as folder:
            dice = run_demo(name, output_dir=Path(folder)).dice
            segmenter = Segmenter(name)
            result = segmenter.segment(next(Path(folder).glob(f"{name}_phantom.*")))
        panels.append((name, segmenter.bundle.task, draw(result, segmenter.bundle.task), dice))
    width = GAP + sum(picture.width + GAP for _, _, picture, _ in panels)
    canvas = Image.new("RGB", (width, TITLE + HEIGHT + LEGEND), DARK)
    pen, left = ImageDraw.Draw(canvas), GAP
    for name, task, picture, dice in panels:
        pen.text((left, TITLE / 2), TITLES[name], fill=WHITE, font=font(26), anchor="lm")
        canvas.paste(picture, (left, TITLE))
        words = [(f"{label.name} {dice[label.name]:.2f}", label.colour) for label in task.labels]
        draw_words(pen, left, TITLE + HEIGHT + 10, [("Dice", WHITE), *words], font(22))
        left += picture.width + GAP
    FIGURE.parent.mkdir(exist_ok=True)
    # A palette takes a third of the bytes; this method keeps the outlines' colours.
    canvas.quantize(255, method=Image.Quantize.MAXCOVERAGE, kmeans=3).save(FIGURE, optimize=True)


def draw(result: Segmentation, task: Task) -> Image.Image:
    """Draws the photograph, or the slice in the middle of what was found, with the outlines."""
    series, labels = result.series, np.asarray(result.labels)[0]
    if series.is_photo:
        pixels = np.moveaxis(np.asarray(series.image), 0, -1)
        size = round(HEIGHT * labels.shape[0] / labels.shape[1]), HEIGHT
        return outlined(panel(pixels, size), labels, task.labels)
    (values,), affine = upright(series.image.as_tensor(), series.affine)
    (mask,), _ = upright(labels[None], series.affine)
    margin = None if task.preview.whole_slices else MARGIN_MM
    view = choose_view(mask > 0, np.linalg.norm(affine[:3, :3], axis=0), 3, HEIGHT, margin_mm=margin)
    at = (*view.box, view.slices[1])
    low, high = task.preview.window or np.percentile(values[view.box], [1, 99.5])
    size = round(view.size[0] * HEIGHT / view.size[1]), HEIGHT
    return outlined(panel(to_grey(values[at], low, high), size), mask[at], task.labels)


if __name__ == "__main__":
    main()
