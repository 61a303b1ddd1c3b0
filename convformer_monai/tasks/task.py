"""What a task is: all that differs between what the bundles are for, or the names of it. Imports nothing heavy.

A bundle names its task as ``"convformer_task"`` in ``configs/metadata.json``; nothing else chooses one. Functions are
named by dotted path, so that a task costs nothing until it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

__all__ = ["BACKGROUND", "Code", "Function", "Label", "Preview", "Task", "get_task", "register_task", "resolve"]


@dataclass(frozen=True)
class Code:
    """A coded concept (DICOM PS3.3 section 8).

    Attributes:
        scheme: coding scheme designator, e.g. ``SCT`` (SNOMED CT), ``LN`` (LOINC), ``DCM``, ``UCUM``.
        value: the code.
        meaning: what it means, for people; up to 64 characters.
    """

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Label:
    """One structure.

    Attributes:
        index: its value in the masks, and its segment number in DICOM SEG; 1, 2, ... in a task's table.
        name: short name, as in file and column names.
        long_name: name for people; the segment's label in DICOM SEG.
        colour: red, green, blue, 0-255.
        type: segmented property type, what it is; ``None`` for the background and for structures without a code.
        category: segmented property category (DICOM CID 7150).
        region: anatomic region in which it lies, where the type does not say.
    """

    index: int
    name: str
    long_name: str
    colour: tuple[int, int, int]
    type: Code | None = None
    category: Code | None = None
    region: Code | None = None

    @property
    def snomed(self) -> str | None:
        """SNOMED CT code of the type."""
        return self.type.value if self.type is not None and self.type.scheme == "SCT" else None


ANATOMICAL = Code("SCT", "123037004", "Anatomical Structure")
ABNORMAL = Code("SCT", "49755003", "Morphologically Abnormal Structure")
BACKGROUND = Label(0, "background", "background", (0, 0, 0))

Function: TypeAlias = str | Callable[..., Any]
VOLUME, PHOTOGRAPH = "volume", "photograph"


@dataclass(frozen=True)
class Preview:
    """How the preview shows volumes.

    Attributes:
        window: values shown as black and white; ``None`` for percentiles of the image.
        window_below: the window holds only if the image has a value below this, as the air in a CT; ``None`` always.
        whole_slices: show whole slices, not the part around the mask.
        widest_first: begin at the wider end of the mask, as at the base of a heart.
    """

    window: tuple[float, float] | None = None
    window_below: float | None = None
    whole_slices: bool = False
    widest_first: bool = False


@dataclass(frozen=True)
class Task:
    """What a network is for.

    Attributes:
        name: as bundles name it; lower case, with underscores.
        labels: the structures, with the indices 1, 2, ...
        image: ``volume`` or ``photograph``; ``None`` takes both.
        modality: what the values are checked as: ``CT``, ``MR``, ``photo``; ``None`` for that of the image.
        measure: ``(labels, series, table, **phases)`` to measurements and details; see
            :mod:`convformer_monai.measurements`.
        moments: phases that ``measure`` takes from the user or finds: ``("ed", "es")``, or none.
        flags: each from the measurements and the evidence of doubt to flags: numbers that are not plausible.
        max_parts: separate parts of a structure in one phase; more are flagged. ``None`` for any number.
        within_stack: a whole structure lies between the first and the last slice, so that a mask which reaches these is
            flagged. Not so a heart in a short-axis stack, which ends at its base.
        empty_means: what an empty mask tells, where people may take it for a clean result; it ends that flag.
        preview: how results are drawn.
        scores: the evaluation's handler: ``(labels, listeners)`` to a ``ScoreMasks``.
        report: what the evaluation writes; see :func:`convformer_monai.evaluation.write_report`.
        phantom: makes an image of known truth; ``None`` if there is no such phantom.
        phantom_dice: Dice that a bundle must reach on it, by the name of a structure.
    """

    name: str
    labels: tuple[Label, ...]
    image: str | None = None
    modality: str | None = None
    measure: Function = "convformer_monai.measurements.sizes.measure_sizes"
    moments: tuple[str, ...] = ()
    flags: tuple[Function, ...] = ()
    max_parts: int | None = None
    within_stack: bool = True
    empty_means: str = ""
    preview: Preview = Preview()
    scores: Function = "convformer_monai.evaluation.ScoreVolumes"
    report: Function = "convformer_monai.evaluation.write_report"
    phantom: Function | None = None
    phantom_dice: tuple[tuple[str, float], ...] = ()


_TASKS: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Adds a task, and returns it.

    Args:
        task: of a new name, or again the same.

    Raises:
        ValueError: if its labels are not numbered 1, 2, ..., or another task has its name.
    """
    if [label.index for label in task.labels] != list(range(1, len(task.labels) + 1)):
        raise ValueError(f"labels of {task.name} must have the indices 1, 2, ..., got {task.labels}")
    if _TASKS.setdefault(task.name, task) != task:
        raise ValueError(f"name must be new, and there is a task {task.name!r} already")
    return task


def get_task(name: str) -> Task:
    """Finds a task.

    Args:
        name: of a registered one; or a dotted path to a :class:`Task` in a package of one's own.

    Raises:
        ValueError: if there is no such task.
    """
    if name in _TASKS:
        return _TASKS[name]
    if "." in name:
        task = resolve(name)
        if isinstance(task, Task):
            return task
    raise ValueError(f"name must be one of {', '.join(sorted(_TASKS))}, or a dotted path to a Task, got {name!r}")


def resolve(function: Function) -> Any:
    """Imports what a dotted path names; anything else is returned as it is.

    Raises:
        ValueError: if there is nothing of that path.
    """
    if not isinstance(function, str):
        return function
    module, _, attribute = function.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"there is no {function}: {error}") from error
