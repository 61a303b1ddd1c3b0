"""Of which slices a flag speaks, so that one can look there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from convformer_monai.tasks.task import Task

__all__ = ["places_of"]

Place: TypeAlias = tuple[int, int]
MOST = 12  # places of one flag: more are the whole image


def places_of(
    code: str,
    labels: NDArray[np.uint8],
    axis: int,
    task: Task,
    phases: Mapping[str, int | None],
    probabilities: NDArray[np.uint8] | None = None,
) -> tuple[Place, ...]:
    """Finds the slices of a flag.

    Args:
        code: of the flag.
        labels: (phases, X, Y, Z).
        axis: of (X, Y, Z), along which the slices are stacked.
        task: of the bundle.
        phases: indices of end diastole and end systole, ``ed`` and ``es``, as far as they are known.
        probabilities: that a voxel belongs to any structure, times 255, of the shape of ``labels``.

    Returns:
        Index of the phase and of the slice, from 0; none if the flag is about the whole image.
    """
    finder = _FINDERS.get(code)
    stacks = np.moveaxis(labels, axis + 1, -1)  # (phases, ., ., slices)
    likely = None if probabilities is None else np.moveaxis(probabilities, axis + 1, -1)
    found = finder(stacks, task, phases, likely) if finder else []
    return tuple(dict.fromkeys(found)) if len(set(found)) <= MOST else ()


def _at_ends(stacks: NDArray[np.uint8], _task: Task, _phases: Any, _likely: Any) -> list[Place]:
    ends = (0, stacks.shape[-1] - 1)
    return [(phase, z) for phase, stack in enumerate(stacks) for z in ends if stack[..., z].any()]


def _at_border(stacks: NDArray[np.uint8], _task: Task, _phases: Any, _likely: Any) -> list[Place]:
    touching = stacks[:, [0, -1]].any(axis=(1, 2)) | stacks[:, :, [0, -1]].any(axis=(1, 2))  # (phases, slices)
    return [(int(phase), int(z)) for phase, z in np.argwhere(touching)]


def _small_parts(stacks: NDArray[np.uint8], task: Task, _phases: Any, _likely: Any) -> list[Place]:
    """The middle slice of each part but the largest."""
    found = []
    for phase, stack in enumerate(stacks):
        for label in task.labels:
            parts, count = ndimage.label(stack == label.index, np.ones((3, 3, 3)))
            if task.max_parts is None or count <= task.max_parts:
                continue
            boxes = ndimage.find_objects(parts)
            largest = int(np.bincount(parts.ravel())[1:].argmax())
            found += [(phase, (box[-1].start + box[-1].stop - 1) // 2) for n, box in enumerate(boxes) if n != largest]
    return found


def _most_probable(_stacks: Any, _task: Task, _phases: Any, likely: NDArray[np.uint8] | None) -> list[Place]:
    if likely is None or not likely.any():
        return []
    phase, *_, z = np.unravel_index(int(likely.argmax()), likely.shape)
    return [(int(phase), int(z))]


def _widest(stacks: NDArray[np.uint8], _task: Task, phases: Mapping[str, int | None], _likely: Any) -> list[Place]:
    """At end diastole and end systole the slice with most mask."""
    shown = [phase for phase in (phases.get("ed"), phases.get("es")) if phase is not None]
    return [(phase, int((stacks[phase] > 0).sum(axis=(0, 1)).argmax())) for phase in shown]


_FINDERS: dict[str, Callable[..., list[Place]]] = {
    "EF_IMPLAUSIBLE": _widest,
    "EF_IMPOSSIBLE": _widest,
    "ES_ABOVE_ED": _widest,
    "MANY_PARTS": _small_parts,
    "MASK_AT_BORDER": _at_border,
    "MASK_AT_LAST_SLICE": _at_ends,
    "MAYBE_MISSED": _most_probable,
}
