"""Doubts about a segmentation that a program can raise: each is a reason to look, none a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from monai.utils import convert_to_numpy
from numpy.typing import NDArray
from scipy import ndimage

from convformer_monai.measurements.values import Flag, Measurement
from convformer_monai.readers.series import ImageSeries
from convformer_monai.tasks.task import Label, Task, resolve
from convformer_monai.transforms.geometry import slice_axis

__all__ = ["DISAGREEMENT_LIMIT", "disagreement_flags", "find_flags", "intensity_flags", "mask_flags"]

DISAGREEMENT_LIMIT = 0.1  # 1 - Dice between the predictions of an image and of its flipped copy
AIR_HU = -500.0  # a CT of a patient has air around
LARGEST_HU = 32767.0
DARK, BRIGHT, FLAT = 15.0, 240.0, 3.0  # mean and standard deviation of a photograph, of 255
UNEVEN_TOLERANCE = 1e-3


def find_flags(
    labels: NDArray[np.uint8],
    series: ImageSeries,
    task: Task,
    items: Sequence[Measurement],
    *,
    modality: str | None,
    disagreement: float | None = None,
    disagreement_limit: float = DISAGREEMENT_LIMIT,
) -> tuple[Flag, ...]:
    """Collects all flags of a case.

    Args:
        labels: (phases, X, Y, Z), or (X, Y) for a photograph.
        series: the image.
        task: its structures, its limits and its own flags.
        items: what was measured.
        modality: what the model was made for: ``CT``, ``MR``, ``photo``, or another; ``None`` if the series holds the
            mask itself, whose values are not judged.
        disagreement: as for :func:`disagreement_flags`; ``None`` if it was not computed.
        disagreement_limit: likewise.
    """
    flags = [Flag("READER_WARNING", warning) for warning in series.warnings]
    flags += _resampling_flags(series)
    if modality is not None:
        flags += intensity_flags(series, modality)
    flags += mask_flags(labels, series, task.labels, task.max_parts)
    for find in task.flags:
        flags += resolve(find)(items)
    if disagreement is not None:
        flags += disagreement_flags(disagreement, disagreement_limit)
    return tuple(flags)


def disagreement_flags(disagreement: float, limit: float = DISAGREEMENT_LIMIT) -> list[Flag]:
    """Flags a prediction that changes when the image is flipped.

    Args:
        disagreement: 1 - Dice between the two predictions, 0 to 1.
        limit: flagged above this.
    """
    if not 0 <= disagreement <= 1:
        raise ValueError(f"disagreement must be between 0 and 1, got {disagreement}")
    if disagreement <= limit:
        return []
    message = f"the prediction on the flipped image differs by {disagreement:.0%} (1 - Dice, above {limit:.0%})"
    return [Flag("FLIP_DISAGREEMENT", message)]


def intensity_flags(series: ImageSeries, modality: str) -> list[Flag]:
    """Flags values that are unlike the modality that the model was made for."""
    values = np.asarray(convert_to_numpy(series.image))
    low, high = float(values.min()), float(values.max())
    span = f"values from {low:.6g} to {high:.6g}"
    if low == high:
        return [Flag("INTENSITY", f"every voxel of the image has the value {low:.6g}")]
    if modality == "CT" and (low > AIR_HU or high > LARGEST_HU):
        reason = "no air (-1000) among them" if low > AIR_HU else "beyond 16 bits"
        return [Flag("INTENSITY", f"{span}, {reason}: these are no Hounsfield units of a whole head")]
    if modality == "MR" and low < 0:
        return [Flag("INTENSITY", f"{span}: MR magnitude images are not negative")]
    if modality == "photo":
        mean, deviation = float(values.mean()), float(values.std())
        if mean < DARK or mean > BRIGHT or deviation < FLAT:
            what = "nearly black" if mean < DARK else "nearly white" if mean > BRIGHT else "nearly one colour"
            return [Flag("INTENSITY", f"the photograph is {what} (mean {mean:.0f} of 255)")]
    return []


def mask_flags(
    labels: NDArray[np.uint8], series: ImageSeries, table: Sequence[Label], max_parts: int | None
) -> list[Flag]:
    """Flags what is wrong with the mask by itself: empty, cut off by the image border, in pieces."""
    if not labels.any():
        what = f"no {' or '.join(label.long_name for label in table)}" if table else "nothing"
        return [Flag("MASK_EMPTY", f"{what} was found")]
    phases = labels if labels.ndim == 4 else labels[None, :, :, None]  # (phases, X, Y, Z)
    stack = 2 if series.is_photo else slice_axis(series.affine, phases.shape[1:])
    flags = []
    for label in table:
        masks = phases == label.index
        checks = {
            "STRUCTURE_MISSING": [not mask.any() for mask in masks],
            "MASK_AT_BORDER": [_touches(mask, [axis for axis in range(3) if axis != stack]) for mask in masks],
            "MASK_AT_LAST_SLICE": [mask.shape[stack] > 1 and _touches(mask, [stack]) for mask in masks],
        }
        for code, found in checks.items():
            if any(found):
                flags.append(Flag(code, _MESSAGES[code].format(label.long_name) + _in_phases(found, series.phases)))
        if max_parts is None:
            continue
        counts = [int(ndimage.label(mask, np.ones((3, 3, 3)))[1]) for mask in masks]
        if max(counts) > max_parts:
            where = _in_phases([count > max_parts for count in counts], series.phases)
            flags.append(Flag("MANY_PARTS", f"{label.long_name} is in {max(counts)} separate parts{where}"))
    if not series.is_photo and phases.shape[1 + stack] == 1:
        flags.append(Flag("SINGLE_SLICE", "the image has one slice only: volumes are those within this slice"))
    return flags


_MESSAGES = {
    "STRUCTURE_MISSING": "no {} was found",
    "MASK_AT_BORDER": "{} touches the border of the image and may be cut off",
    "MASK_AT_LAST_SLICE": "{} reaches the first or last slice: what lies beyond is not measured",
}


def _touches(mask: NDArray[np.bool_], axes: Iterable[int]) -> bool:
    """Tells whether a mask reaches an end of one of these axes."""
    return any(bool(mask.take([0, -1], axis=axis).any()) for axis in axes)


def _in_phases(found: Sequence[bool], phases: Sequence[int]) -> str:
    """Returns in which phases something is, if not in all."""
    if all(found):
        return ""
    numbers = [str(phase) for phase, one in zip(phases, found, strict=True) if one]
    return f" (phase{'s' if len(numbers) > 1 else ''} {', '.join(numbers)})"


def _resampling_flags(series: ImageSeries) -> list[Flag]:
    """Flags series whose uneven slices were resampled."""
    positions = [frame.slice_index for phase in series.frames for frame in phase]
    if all(abs(position - round(position)) < UNEVEN_TOLERANCE for position in positions):
        return []
    return [Flag("RESAMPLED", "the slices are unevenly spaced: volumes are measured on the resampled grid")]
