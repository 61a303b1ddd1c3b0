"""The numbers and flags of a mask, whatever its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.measurements.flags import DISAGREEMENT_LIMIT, find_flags
from convformer_monai.measurements.values import Measurements
from convformer_monai.readers.series import ImageSeries
from convformer_monai.readers.values import label_values
from convformer_monai.tasks.task import PHOTOGRAPH, VOLUME, Label, Task, resolve

__all__ = ["check_phases", "measure"]


def measure(
    labels: NDArray[np.uint8],
    series: ImageSeries,
    task: Task,
    *,
    case: str,
    bundle: str | None = None,
    ed: int | None = None,
    es: int | None = None,
    disagreement: float | None = None,
    disagreement_threshold: float | None = None,
    expected_dice_threshold: float | None = None,
    evidence: Mapping[str, float] | None = None,
    of_image: bool = True,
) -> Measurements:
    """Measures a mask.

    Args:
        labels: (phases, X, Y, Z) uint8 on the grid of the series, or (X, Y) for a photograph.
        series: what was segmented, or the mask itself.
        task: what the structures are, and what is measured of them.
        case: name of the case.
        bundle: name of the bundle that made the mask; ``None`` for that of the task.
        ed: end-diastolic phase, as in ``series.phases``; ``None`` to find it.
        es: end-systolic phase, as in ``series.phases``; ``None`` to find it.
        disagreement: 1 - Dice between the plain and the flip-averaged mask, if it was measured.
        disagreement_threshold: a larger disagreement is flagged; ``None`` for
            :data:`convformer_monai.measurements.flags.DISAGREEMENT_LIMIT`.
        expected_dice_threshold: a lower ``expected_dice`` of the evidence is flagged; ``None`` for no such flag.
        evidence: numbers of doubt that the bundle's transforms left; ``None`` for a mask of unknown origin.
        of_image: whether the series holds the image; if it holds the mask itself, its values are not flagged.

    Raises:
        InputRefused: ``PHASE_NOT_FOUND`` if the series has no such phase as ``ed`` or ``es``; ``OPTION`` if both are
            the same, or given for a task without these phases; ``WRONG_KIND`` if a photograph is measured as a volume,
            or a volume as a photograph.
        ValueError: if the labels do not fit the series or the task.
    """
    name = bundle or task.name
    _check_labels(labels, series, task.labels)
    _check_kind(series, task, name)
    check_phases(series, task, ed, es, name)
    phases = {moment: {"ed": ed, "es": es}[moment] for moment in task.moments}
    items, details = resolve(task.measure)(labels, series, task.labels, **phases)
    if not series.is_photo and 1 in series.image.shape[1:]:
        details["notes"].append("the image has one slice only: volumes are those within this slice")
    flags = find_flags(
        labels,
        series,
        task,
        items,
        evidence=evidence or {},
        modality=(task.modality or series.modality or "") if of_image else None,
        disagreement=disagreement,
        expected_dice_limit=expected_dice_threshold,
        disagreement_limit=DISAGREEMENT_LIMIT if disagreement_threshold is None else disagreement_threshold,
    )
    return Measurements(case, name, task.labels, tuple(items), flags, details)


def check_phases(series: ImageSeries, task: Task, ed: int | None, es: int | None, name: str) -> None:
    """Refuses the user's phases if the series has no such phases, or the task does not know them.

    Args:
        series: the image.
        task: of the bundle.
        ed: end-diastolic phase, or ``None``.
        es: end-systolic phase, or ``None``.
        name: of the bundle, for the message.

    Raises:
        InputRefused: ``PHASE_NOT_FOUND`` or ``OPTION``.
    """
    if not task.moments and not (ed is None and es is None):
        raise InputRefused(RefusalCode.OPTION, f"{name} measures no heart beat; leave --ed and --es out")
    for moment, phase in (("end-diastolic", ed), ("end-systolic", es)):
        if phase is not None and phase not in series.phases:
            there = ", ".join(map(str, series.phases))
            raise InputRefused(
                RefusalCode.PHASE_NOT_FOUND,
                f"{series.path.name} has no phase {phase} to be {moment}; it has (from 0): {there}",
            )
    if ed is not None and ed == es:
        raise InputRefused(
            RefusalCode.OPTION, f"phase {ed} cannot be both end-diastolic and end-systolic; change --ed or --es"
        )


def _check_labels(labels: NDArray[np.uint8], series: ImageSeries, table: Sequence[Label]) -> None:
    """Refuses labels of another grid, or of other structures."""
    series.check_grid(labels)
    strange = sorted(set(label_values(labels)) - {0, *(label.index for label in table)})
    if strange:
        raise ValueError(f"labels must be 0 or one of {[label.index for label in table]}, got {strange}")


def _check_kind(series: ImageSeries, task: Task, name: str) -> None:
    """Refuses photographs as volumes and the other way round."""
    if series.is_photo and task.image == VOLUME:
        raise InputRefused(
            RefusalCode.WRONG_KIND, f"{series.path.name} is a photograph, and {name} measures volumes; change --bundle"
        )
    if not series.is_photo and task.image == PHOTOGRAPH:
        raise InputRefused(
            RefusalCode.WRONG_KIND,
            f"{series.path.name} is not a photograph, and {name} measures those; give the PNG mask",
        )
