"""Which phases of a cine to read; the same for every format."""

from __future__ import annotations

from pathlib import Path

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["chosen_phases"]


def chosen_phases(phase: int | str | None, count: int, path: Path) -> tuple[int, ...]:
    """Returns the 0-based phases to read.

    Args:
        phase: a 0-based number, ``"all"``, or ``None`` for the only one.
        count: how many there are.
        path: of the image, for the refusal.

    Raises:
        InputRefused: if there are several and none was chosen, or there is no such phase.
        ValueError: if ``phase`` is none of these.
    """
    if phase == "all" or (phase is None and count == 1):
        return tuple(range(count))
    if phase is None:
        raise InputRefused(
            RefusalCode.SEVERAL_PHASES,
            f"{path} is a cine of {count} phases; choose one with --phase 0 to {count - 1}, or all",
        )
    if not isinstance(phase, int) or isinstance(phase, bool) or phase < 0:
        raise ValueError(f"phase must be None, 'all' or a whole number from 0, got {phase!r}")
    if phase >= count:
        raise InputRefused(RefusalCode.PHASE_NOT_FOUND, f"{path} has no phase {phase}; it has phases 0 to {count - 1}")
    return (phase,)
