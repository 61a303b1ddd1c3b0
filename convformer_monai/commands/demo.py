"""``convformer-monai demo``: an image through a shipped bundle, as ``segment`` does it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from convformer_monai.bundle import BUNDLES, Bundle
from convformer_monai.errors import EXIT_FAULT, InputRefused, RefusalCode
from convformer_monai.tasks.task import Label, resolve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Demo", "read_words", "run_demo"]

logger = logging.getLogger(__name__)

OUTPUT = Path("demo_output")


@dataclass(frozen=True)
class Demo:
    """How a demo ended.

    Attributes:
        exit_code: as of ``segment``; 1 if a Dice is below the expected minimum, too.
        dice: of each structure; none for an image of unknown truth.
        pictures: the previews.
    """

    exit_code: int
    dice: dict[str, float] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()


def read_words(words: Sequence[str], bundle: str | None = None) -> tuple[str, Path | None, Path]:
    """Reads ``[BUNDLE] [IMAGE [FOLDER]]``.

    Args:
        words: of the command line.
        bundle: of the option; the words are then paths only.

    Returns:
        The bundle, the user's image if there is one, and the folder for the results.

    Raises:
        InputRefused: if there are too many words, or the bundle is none of the package's own.
    """
    if bundle is not None and bundle not in BUNDLES:
        raise InputRefused(RefusalCode.OPTION, f"demo shows {', '.join(BUNDLES)}; for {bundle} use segment")
    named = bundle is None and bool(words) and words[0] in BUNDLES
    bundle, *paths = words if named else [bundle or "cardiac", *words]
    if len(paths) > 2:
        raise InputRefused(RefusalCode.OPTION, f"demo takes a bundle, an image and a folder, got {' '.join(words)}")
    image, folder = [*map(Path, paths), None, None][:2]
    return bundle, image, folder or OUTPUT


def run_demo(bundle: str, image: Path | None = None, output_dir: Path = OUTPUT, device: str = "auto") -> Demo:
    """Segments an image, or a generated one, whose mask it compares with the truth; always draws the preview.

    Args:
        bundle: one of :data:`convformer_monai.bundle.BUNDLES`.
        image: file or DICOM folder; ``None`` for a generated one.
        output_dir: folder for image and results; made if missing, its results are replaced.
        device: see :func:`convformer_monai.segmenter.choose_device`.

    Raises:
        InputRefused: if the image or the folder cannot be used.
    """
    from convformer_monai.cohort import log_flags, segment_cases
    from convformer_monai.outputs.case import folder_for
    from convformer_monai.outputs.writer import Options

    task, truth = Bundle(bundle).task, None
    if image is None:
        name = f"{bundle}_phantom"
        image, truth = resolve(task.phantom or "")().save(folder_for(output_dir, "").parent, name)
    command = ["convformer-monai", "segment", "-i", str(image), "-o", str(output_dir), "-b", bundle]
    command += ["--preview", "--overwrite"]
    logger.info("$ %s", shlex.join(command))
    summary = segment_cases(image, output_dir, bundle, Options(preview=True, overwrite=True), device=device)
    for result in summary.results:
        log_flags(result)
    pictures = tuple(file for result in summary.results for file in result.files if file.name.endswith("_preview.png"))
    if truth is None or summary.exit_code:
        return Demo(summary.exit_code, pictures=pictures)
    dice = _dice(truth.with_name(truth.name.replace("_truth.", "_seg.")), truth, task.labels)
    low = [(name, least) for name, least in task.phantom_dice if dice[name] < least]
    for name, least in low:
        logger.error("the Dice of %s is %.3f, expected at least %g", name, dice[name], least)
    return Demo(EXIT_FAULT if low else 0, dice, pictures)


def _dice(mask: Path, truth: Path, labels: Sequence[Label]) -> dict[str, float]:
    """The Dice of each structure of a mask."""
    from convformer_monai.measurements.overlap import dice

    found, there = _labels(mask), _labels(truth)
    return {label.name: dice(found == label.index, there == label.index) for label in labels}


def _labels(path: Path) -> NDArray[np.uint8]:
    """The labels of a NIfTI file, or of a PNG of 0 and 255."""
    import nibabel as nib
    import numpy as np
    from PIL import Image

    if path.suffix == ".png":
        return (np.asarray(Image.open(path)) > 127).astype(np.uint8)
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj).astype(np.uint8)
