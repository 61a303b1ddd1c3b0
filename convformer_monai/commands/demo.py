"""``convformer-monai demo``: an image through a shipped bundle, as ``segment`` does it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convformer_monai.errors import EXIT_FAULT, InputRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DEMOS", "Demo", "read_words", "run_demo"]

logger = logging.getLogger(__name__)

OUTPUT = Path("demo_output")


@dataclass(frozen=True)
class Demo:
    """What the demo of a bundle shows.

    Attributes:
        phantom: name of the function that makes the image, and of its files.
        structure: the one that must be found.
        least: Dice that it must reach.
    """

    phantom: str
    structure: str
    least: float


DEMOS = {
    "cardiac": Demo("cardiac_phantom", "LV", 0.8),
    "dermoscopy": Demo("dermoscopy_phantom", "lesion", 0.8),
    "hemorrhage": Demo("head_ct_phantom", "hemorrhage", 0.6),
}


def read_words(words: Sequence[str]) -> tuple[str, Path | None, Path]:
    """Reads ``[BUNDLE] [IMAGE [FOLDER]]``.

    Returns:
        The bundle, the user's image if there is one, and the folder for the results.

    Raises:
        InputRefused: if there are too many words.
    """
    bundle, *paths = words if words and words[0] in DEMOS else ["cardiac", *words]
    if len(paths) > 2:
        raise InputRefused("OPTION", f"demo takes a bundle, an image and a folder, got {' '.join(words)}")
    image, folder = [*map(Path, paths), None, None][:2]
    return bundle, image, folder or OUTPUT


def run_demo(
    bundle: str, image: Path | None = None, output_dir: Path = OUTPUT, device: str = "auto"
) -> tuple[dict[str, float], int]:
    """Segments an image, or a generated one, whose mask it compares with the truth.

    Args:
        bundle: one of :data:`DEMOS`.
        image: file or DICOM folder; ``None`` for a generated one.
        output_dir: folder for image and results; made if missing, its results are replaced.
        device: see :func:`convformer_monai.segmenter.choose_device`.

    Returns:
        The Dice of each structure, none for an image of unknown truth; and the exit code.

    Raises:
        InputRefused: if the image or the folder cannot be used.
    """
    from convformer_monai import phantoms
    from convformer_monai.cohort import segment_cases
    from convformer_monai.outputs import Options, folder_for

    demo, truth = DEMOS[bundle], None
    if image is None:
        image, truth = getattr(phantoms, demo.phantom)().save(folder_for(output_dir, "").parent, demo.phantom)
    command = ["convformer-monai", "segment", "-i", str(image), "-o", str(output_dir), "-b", bundle, "--overwrite"]
    logger.info("$ %s", shlex.join(command))
    summary = segment_cases(image, output_dir, bundle, Options(overwrite=True), device=device)
    if truth is None or summary.exit_code:
        return {}, summary.exit_code
    dice = _dice(truth.with_name(truth.name.replace("_truth.", "_seg.")), truth, bundle)
    if dice[demo.structure] >= demo.least:
        return dice, 0
    logger.error("the Dice of %s is %.3f, expected at least %g", demo.structure, dice[demo.structure], demo.least)
    return dice, EXIT_FAULT


def _dice(mask: Path, truth: Path, bundle: str) -> dict[str, float]:
    """The Dice of each structure of a mask."""
    from convformer_monai.catalogue import BUNDLES
    from convformer_monai.evaluation import score_picture
    from convformer_monai.labels import LABELS

    found, there = _labels(mask), _labels(truth)
    return {
        label.name: score_picture(mask.name, "", "", found == label.index, there == label.index).dice
        for label in LABELS[BUNDLES[bundle]]
    }


def _labels(path: Path) -> NDArray[np.uint8]:
    """The labels of a NIfTI file, or of a PNG of 0 and 255."""
    import nibabel as nib
    import numpy as np
    from PIL import Image

    if path.suffix == ".png":
        return (np.asarray(Image.open(path)) > 127).astype(np.uint8)
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj).astype(np.uint8)
