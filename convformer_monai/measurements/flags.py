"""Doubts about a segmentation that a program can raise: each is a reason to look, none a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from convformer_monai.bundle import fitting_bundles
from convformer_monai.measurements.values import Flag, Measurement
from convformer_monai.readers.glance import Glance
from convformer_monai.readers.series import ImageSeries
from convformer_monai.tasks.task import VOLUME, Label, Task, resolve
from convformer_monai.transforms.geometry import slice_axis
from convformer_monai.transforms.postprocess import extent

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
    evidence: Mapping[str, float],
    disagreement: float | None = None,
    disagreement_limit: float = DISAGREEMENT_LIMIT,
    expected_dice_limit: float | None = None,
) -> tuple[Flag, ...]:
    """Collects all flags of a case.

    Args:
        labels: (phases, X, Y, Z), or (X, Y) for a photograph.
        series: the image.
        task: its structures, its limits and its own flags.
        items: what was measured.
        evidence: numbers of doubt, for the task's own flags.
        modality: what the model was made for: ``CT``, ``MR``, ``photo``, or another; ``None`` if the series holds the
            mask itself, whose values are not judged.
        disagreement: as for :func:`disagreement_flags`; ``None`` if it was not computed.
        disagreement_limit: likewise.
        expected_dice_limit: a lower ``expected_dice`` of the evidence is flagged; ``None`` for no such flag.
    """
    flags = [Flag("READER_WARNING", warning) for warning in series.warnings]
    flags += _resampling_flags(series)
    if modality is not None:
        flags += intensity_flags(series, modality)
    flags += mask_flags(labels, series, task)
    for find in task.flags:
        flags += resolve(find)(items, evidence)
    promised = evidence.get("expected_dice")
    if promised is not None and expected_dice_limit is not None and promised < expected_dice_limit:
        found = f"{promised:.2f} (below {expected_dice_limit:.2f})"
        message = f"by the network's own probabilities the mask has a Dice of {found}"
        flags.append(Flag("LOW_EXPECTED_DICE", message))
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
    values = series.image.numpy()
    low, high = float(values.min()), float(values.max())
    span = f"values from {low:.6g} to {high:.6g}"
    if low == high:
        return [Flag("INTENSITY", f"every voxel of the image has the value {low:.6g}")]
    if modality == "CT" and (low > AIR_HU or high > LARGEST_HU):
        reason = "no air (-1000) among them" if low > AIR_HU else "beyond 16 bits"
        other = fitting_bundles(Glance(VOLUME, frozenset({"MR"}))) if low >= 0 and series.modality != "CT" else ""
        hint = f"; for MR use {other}" if other else ""
        return [Flag("INTENSITY", f"{span}, {reason}: these are no Hounsfield units of a whole head{hint}")]
    if modality == "MR" and low < 0:
        return [Flag("INTENSITY", f"{span}: MR magnitude images are not negative")]
    if modality == "photo":
        mean, deviation = float(values.mean()), float(values.std())
        if mean < DARK or mean > BRIGHT or deviation < FLAT:
            what = "nearly black" if mean < DARK else "nearly white" if mean > BRIGHT else "nearly one colour"
            return [Flag("INTENSITY", f"the photograph is {what} (mean {mean:.0f} of 255)")]
    return []


def mask_flags(labels: NDArray[np.uint8], series: ImageSeries, task: Task) -> list[Flag]:
    """Flags what is wrong with the mask: empty, cut off by the image border, in pieces; one flag for each cause."""
    if not labels.any():
        what = f"no {task.labels[0].long_name}" if len(task.labels) == 1 else "nothing"
        more = f"; {task.empty_means}" if task.empty_means else ""
        return [Flag("MASK_EMPTY", f"{what} was found{more}")]
    phases = labels if labels.ndim == 4 else labels[None, :, :, None]  # (phases, X, Y, Z)
    stack = 2 if series.is_photo else slice_axis(series.affine, phases.shape[1:])
    found: dict[str, list[tuple[Label, list[bool]]]] = {code: [] for code in _MESSAGES}
    for label in task.labels:
        masks = phases == label.index
        checks = {
            "STRUCTURE_MISSING": [not mask.any() for mask in masks],
            "MASK_AT_BORDER": [_touches(mask, [axis for axis in range(3) if axis != stack]) for mask in masks],
            "MASK_AT_LAST_SLICE": [
                task.within_stack and mask.shape[stack] > 1 and _touches(mask, [stack]) for mask in masks
            ],
            "MANY_PARTS": [task.max_parts is not None and _parts(mask) > task.max_parts for mask in masks],
        }
        for code, by_phase in checks.items():
            if any(by_phase):
                found[code].append((label, by_phase))
    flags = []
    for code, entries in found.items():
        if entries:
            names = _listed([label for label, _ in entries], "or" if code == "STRUCTURE_MISSING" else "and")
            message = _MESSAGES[code].format(
                names, "" if len(entries) > 1 else "es", "are" if len(entries) > 1 else "is"
            )
            anywhere = [any(one) for one in zip(*(by_phase for _, by_phase in entries), strict=True)]
            flags.append(Flag(code, message + _in_phases(anywhere, series.phases)))
    return flags


_MESSAGES = {
    "MASK_AT_BORDER": "{0} touch{1} the border of the image and may be cut off",
    "MASK_AT_LAST_SLICE": "{0} reach{1} the first or last slice: what lies beyond is not measured",
    "STRUCTURE_MISSING": "no {0} was found",
    "MANY_PARTS": "{0} {2} in more separate parts than is usual",
}


def _listed(labels: Sequence[Label], last: str) -> str:
    """The name of a structure; of several the short names: A, B and C."""
    if len(labels) == 1:
        return labels[0].long_name
    names = [label.name for label in labels]
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def _parts(mask: NDArray[np.bool_]) -> int:
    """Counts the separate parts of a mask (X, Y, Z)."""
    return int(ndimage.label(mask[extent(mask)], np.ones((3, 3, 3)))[1])


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
