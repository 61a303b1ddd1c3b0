"""A sheet of training examples, as the network sees them after all augmentation: does it look like the real thing?"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.utils import convert_to_numpy
from numpy.typing import NDArray

from convformer_monai.evaluation.report import output_folder
from convformer_monai.outputs.drawing.contours import outlined, panel, to_grey
from convformer_monai.tasks.task import Label
from convformer_monai.training.unknown import UNKNOWN

__all__ = ["FILE", "draw_examples"]

logger = logging.getLogger(__name__)

FILE = "examples.png"
SIDE = 192  # pixels of a picture on the sheet
COLOURS = 3
UNKNOWN_PIXELS = Label(UNKNOWN, "unknown", "unknown pixels", (255, 255, 0))


def draw_examples(
    batches: Iterable[Mapping[str, Any]],
    augmentation: Callable[[Mapping[str, Any]], tuple[Any, Any]],
    labels: Sequence[Label],
    output_dir: object,
    count: int = 40,
    window: Sequence[float] | None = None,
    photo: bool = False,
) -> str:
    """Draws examples with the outlines of their labels; pixels that are unknown are ringed in yellow.

    Args:
        batches: of ``image`` (B, C, X, Y) and ``label`` (B, 1, X, Y), before augmentation.
        augmentation: of a batch, to image and label.
        labels: the structures.
        output_dir: folder for ``examples.png``; made if missing.
        count: pictures on the sheet.
        window: values that are black and white; ``None`` for the 1st and 99th percentile of each picture.
        photo: three channels are colours; else they are slices, and the middle one is drawn.

    Returns:
        Where the sheet is, for people.

    Raises:
        ValueError: if ``count`` is not positive.
    """
    from PIL import Image

    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    pictures: list[Any] = []
    while len(pictures) < count:
        for batch in batches:
            image, label = (convert_to_numpy(part) for part in augmentation(batch))
            pictures += [_drawn(one, of, labels, window, photo) for one, of in zip(image, label, strict=True)]
            if len(pictures) >= count:
                break
    columns = min(count, math.ceil(math.sqrt(count * 1.6)))
    sheet = Image.new("RGB", (columns * SIDE, math.ceil(count / columns) * SIDE))
    for number, picture in enumerate(pictures[:count]):
        sheet.paste(picture, (number % columns * SIDE, number // columns * SIDE))
    path = output_folder(output_dir) / FILE
    sheet.save(path)
    return f"{count} training examples: {path}"


def _drawn(
    image: NDArray[Any], label: NDArray[Any], labels: Sequence[Label], window: Sequence[float] | None, photo: bool
) -> Any:
    """One example (C, X, Y) with its label (1, X, Y), as a square picture."""
    plane = np.moveaxis(image[:COLOURS], 0, -1) if photo else image[len(image) // 2]
    low, high = window or np.percentile(plane, (1, 99))
    known = label[0].astype(np.uint8)
    structures = [*labels, UNKNOWN_PIXELS] if (known == UNKNOWN).any() else labels
    return outlined(panel(to_grey(plane, float(low), float(high)), (SIDE, SIDE)), known, structures, 1)
