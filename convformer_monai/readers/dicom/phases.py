"""Frames in any order become a full grid of phases and slice positions, or the refusal that says what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.dicom.frames import TIME_KEYS, FrameHeader

__all__ = ["PhaseGrid", "group_levels", "phase_grid"]

LEVEL_ATOL_MM = 0.02
IN_PLANE_ATOL_MM = 0.1
GUESSES = ("acquired", "instance")  # hold for phases only if nothing else differs
MILLISECONDS = ("trigger", "offset", "acquired")


@dataclass(frozen=True)
class PhaseGrid:
    """All frames in order.

    Attributes:
        frames: ``frames[phase][k]``, along time, then along the normal.
        times_ms: of each phase, the median over the slices; empty if unknown.
        is_guess: whether only the order of the instance numbers tells the phases.
    """

    frames: tuple[tuple[FrameHeader, ...], ...]
    times_ms: tuple[float, ...]
    is_guess: bool


def group_levels(frames: Sequence[FrameHeader], normal: NDArray[np.float64]) -> list[list[FrameHeader]]:
    """Groups the frames by position, sorted along the normal."""
    heights = np.array([frame.position for frame in frames]) @ normal
    order = np.argsort(heights, kind="stable")
    splits = np.flatnonzero(np.diff(heights[order]) > LEVEL_ATOL_MM) + 1
    return [[frames[i] for i in level] for level in np.split(order, splits)]


def phase_grid(frames: Sequence[FrameHeader], normal: NDArray[np.float64]) -> PhaseGrid:
    """Sorts frames by position and, where several share a position, by time.

    Phases are matched between positions by their order, as each may have been taken over another heart beat.

    Raises:
        InputRefused: if frames share both place and time, or the grid is incomplete.
    """
    levels = group_levels(frames, normal)
    counts = [len(level) for level in levels]
    _check_in_plane(levels)
    key = _time_key(levels)
    if key is None and max(counts) > 1:
        _refuse_duplicates(levels)
    if min(counts) != max(counts):
        if key in ("acquired", "instance") and Counter(counts).most_common(1)[0][0] == 1:
            _refuse_duplicates(levels)
        _refuse_incomplete(levels, key)
    if key is not None:
        levels = [sorted(level, key=lambda frame: frame.times[key]) for level in levels]
    _check_times_agree(levels, key)
    grid = tuple(tuple(level[phase] for level in levels) for phase in range(counts[0]))
    return PhaseGrid(grid, _times_ms(grid, key), is_guess=key == "instance")


def _check_in_plane(levels: Sequence[Sequence[FrameHeader]]) -> None:
    for level in levels:
        for frame in level:
            shift = float(np.linalg.norm(frame.position - level[0].position))
            if shift > IN_PLANE_ATOL_MM:
                raise InputRefused(
                    RefusalCode.GEOMETRY_DISAGREES,
                    f"{frame.path.parent}: {frame.name} lies in the plane of {level[0].name} but {shift:.1f} mm "
                    "beside it; leave one of them out",
                )


def _time_key(levels: Sequence[Sequence[FrameHeader]]) -> str | None:
    """Returns the best header element that tells all frames of each place apart."""
    shared = [level for level in levels if len(level) > 1]
    if not shared:
        return None
    alike = all(len({frame.kind for frame in level}) == 1 for level in shared)
    for key in TIME_KEYS:
        if key in GUESSES and not alike:
            continue  # other echo, kernel, reconstruction
        if key == "instance" and shared[0][0].instance.modality != "MR":
            continue  # copies of a CT slice are numbered too
        if all(len({frame.times.get(key, None) for frame in level} - {None}) == len(level) for level in shared):
            return key
    return None


def _refuse_duplicates(levels: Sequence[Sequence[FrameHeader]]) -> None:
    level = next(level for level in levels if len(level) > 1)
    count = sum(len(level) > 1 for level in levels)
    raise InputRefused(
        RefusalCode.DUPLICATE_SLICES,
        f"{level[0].path.parent}: {level[0].name} and {level[1].name} show the same place at the same time "
        f"(so at {count} of {len(levels)} places); leave one of each out",
    )


def _refuse_incomplete(levels: Sequence[Sequence[FrameHeader]], key: str | None) -> None:
    """Says at which positions which phases are missing, as far as times tell."""
    full = max(levels, key=len)
    missing = []
    for index, level in enumerate(levels):
        if len(level) == len(full):
            continue
        text = f"slice {index} has {len(level)} of {len(full)}"
        phases = _missing_phases(level, full, key)
        missing.append(text + (f" (without {_ranges(phases)})" if phases else ""))
    shown = "; ".join(missing[:6]) + (f"; and {len(missing) - 6} more slices" if len(missing) > 6 else "")
    raise InputRefused(
        RefusalCode.INCOMPLETE_PHASES,
        f"{full[0].path.parent} has not all phases of a cine: {shown} (counted from 0); fetch the whole series",
    )


def _missing_phases(level: Sequence[FrameHeader], full: Sequence[FrameHeader], key: str | None) -> list[int]:
    """Returns the phases of the fullest slice that are nearest to no frame of this one."""
    if key is None or key == "instance":
        return []
    reference = np.sort([frame.times[key] for frame in full])
    own = np.array([frame.times.get(key, np.nan) for frame in level])
    if key == "acquired" or np.isnan(own).any():
        return []
    there = {int(np.abs(reference - time).argmin()) for time in own}
    return sorted(set(range(len(full))) - there) if len(there) == len(level) else []


def _ranges(numbers: Sequence[int]) -> str:
    """Writes 1, 2, 3, 5 as ``1-3, 5``."""
    runs = np.split(np.array(numbers), np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _check_times_agree(levels: Sequence[Sequence[FrameHeader]], key: str | None) -> None:
    """Refuses if phases of equal order were taken at other times of the heart beat, so that others are missing."""
    if key not in (None, "trigger", "percentage", "index"):
        return
    times = np.array([[frame.times.get(key or "trigger", np.nan) for frame in level] for level in levels])
    if np.isnan(times).any() or len(levels) < 2:
        return
    if key is None:  # one frame a place: of a cine of which the other phases were left out?
        claimed = max(level[0].phases_claimed for level in levels)
        agree = claimed < 2 or np.ptp(times) <= 2 * times.max() / claimed
    else:
        reference = times[len(times) // 2]
        scale = times @ reference / (reference @ reference)  # the length of the heart beat
        agree = bool((np.abs(times / scale[:, None] - reference) < 0.5 * np.diff(reference).min()).all())
    if not agree:
        raise InputRefused(
            RefusalCode.INCOMPLETE_PHASES,
            f"{levels[0][0].path.parent} mixes phases of a cine: its slices were taken at different times after the "
            "R wave; fetch the whole series",
        )


def _times_ms(grid: Sequence[Sequence[FrameHeader]], key: str | None) -> tuple[float, ...]:
    """Returns the median time of each phase; of those by the clock, since the first of each place."""
    if key not in MILLISECONDS:
        key = "trigger"
    if len(grid) < 2 or any(key not in frame.times for phase in grid for frame in phase):
        return ()
    times = np.array([[frame.times[key] for frame in phase] for phase in grid])
    if key != "trigger":
        times = times - times[0]
    elif (np.diff(np.median(times, axis=1)) <= 0).any():
        return ()
    return tuple(float(time) for time in np.median(times, axis=1))
