"""Masks that a reviewer corrected: on the grid of the bundle's mask, or refused."""

from __future__ import annotations

import filecmp
import shutil
from functools import partial
from itertools import count
from pathlib import Path

from convformer_monai.bundle import BUNDLES, Bundle
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.label_app.labels_in import read_labels
from convformer_monai.outputs.atomic import write_atomically
from convformer_monai.outputs.nifti import write_mask
from convformer_monai.outputs.png import write_png_mask
from convformer_monai.outputs.writer import path_for
from convformer_monai.readers import read_series
from convformer_monai.review.cases import ReviewCase
from convformer_monai.tasks.task import Label

__all__ = ["corrected_mask", "keep_correction", "table_of"]

CORRECTED = "_corrected_label"  # such names are never taken for images to segment


def corrected_mask(case: ReviewCase) -> Path | None:
    """Returns the corrected mask of a case, if there is one."""
    return next((path for path in _targets(case) if path.is_file()), None)


def keep_correction(case: ReviewCase, upload: Path) -> Path:
    """Checks a corrected mask and puts it beside the bundle's; an earlier correction is kept under another name.

    Args:
        case: the case.
        upload: NIfTI, NRRD, MetaImage or DICOM SEG, of a photograph a picture of two levels; its name tells which.

    Returns:
        ``x_corrected_label.nii.gz``, of a photograph ``x_corrected_label.png``.

    Raises:
        InputRefused: ``LABEL_MISALIGNED`` if it does not lie on the grid of the bundle's mask, ``LABEL_UNKNOWN`` if it
            holds other values than those of the structures, and others if it cannot be read or written.
    """
    if case.mask is None:
        raise InputRefused(RefusalCode.NOT_A_MASK, f"{case.name} has no mask in NIfTI or PNG to be corrected")
    series = read_series(case.mask, phase="all")
    labels = read_labels(upload, series, table_of(case))
    volume, photograph = _targets(case)
    target = photograph if series.is_photo else volume
    _keep_earlier(case, target)
    if series.is_photo:
        write_png_mask(photograph, labels, series, overwrite=True)
    else:
        write_mask(volume, labels, series, overwrite=True)
    return target


def table_of(case: ReviewCase) -> tuple[Label, ...]:
    """The structures of a case's bundle, as its label file names them.

    Raises:
        InputRefused: ``BUNDLE_NOT_FOUND`` if neither a shipped bundle nor the label file tells.
    """
    for name in BUNDLES:
        bundle = Bundle(name)
        if bundle.name == case.bundle:
            return bundle.labels
    try:
        lines = path_for(case.base, "_seg.ctbl").read_text(encoding="utf-8").splitlines()
        rows = [line.split() for line in lines if line and not line.startswith("#")]
        return tuple(Label(int(row[0]), row[1], row[1], (0, 0, 0)) for row in rows if row[0] != "0")
    except (OSError, ValueError, IndexError):
        raise InputRefused(
            RefusalCode.BUNDLE_NOT_FOUND, f"the structures of {case.name} are not known: its x_seg.ctbl is missing"
        ) from None


def _keep_earlier(case: ReviewCase, target: Path) -> None:
    """Copies a correction that is there to ``x_1_corrected_label``, or the next number that is free."""
    if not target.is_file():
        return
    ending = target.name.partition(CORRECTED)[2]
    numbered = (path_for(case.base, f"_{number}{CORRECTED}{ending}") for number in count(1))
    free = next(path for path in numbered if not path.exists())
    write_atomically(free, partial(shutil.copyfile, target), partial(filecmp.cmp, target, shallow=False))


def _targets(case: ReviewCase) -> tuple[Path, Path]:
    return path_for(case.base, f"{CORRECTED}.nii.gz"), path_for(case.base, f"{CORRECTED}.png")
