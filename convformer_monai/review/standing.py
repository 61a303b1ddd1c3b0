"""Which mask a decision stands for, and whether it is still the one that the reviewer saw."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from convformer_monai.bundle import file_sha256
from convformer_monai.review.cases import ReviewCase
from convformer_monai.review.corrections import corrected_mask
from convformer_monai.review.store import ACCEPTED, CORRECTED, OPEN, REJECTED, Decision, Store

__all__ = ["fingerprint", "mask_of", "standing"]


def mask_of(case: ReviewCase, decision: str) -> Path | None:
    """The mask that a decision is about: the bundle's, or the corrected one; ``None`` if there is none."""
    if decision == CORRECTED:
        return corrected_mask(case)
    return case.mask if decision in (ACCEPTED, REJECTED) else None


def fingerprint(case: ReviewCase, decision: str) -> str:
    """SHA-256 of that mask's file; empty if there is none."""
    mask = mask_of(case, decision)
    if mask is None:
        return ""
    about = mask.stat()
    return _sha256(mask, about.st_size, about.st_mtime_ns)


def standing(cases: Iterable[ReviewCase], store: Store) -> dict[str, Decision]:
    """The decisions that stand, by the names of the cases.

    A case that was segmented again, or whose corrected mask was changed by another program, is open again: nobody has
    seen that mask. The reason says so.

    Args:
        cases: of the folder.
        store: of the same folder.
    """
    last = store.all()
    return {case.name: _standing(case, last[case.shown]) for case in cases if case.shown in last}


def _standing(case: ReviewCase, made: Decision) -> Decision:
    if made.mask in ("", fingerprint(case, made.decision)):
        return made
    return Decision(OPEN, f"was {made.decision} for another mask", made.time)


@lru_cache(maxsize=100_000)
def _sha256(path: Path, _size: int, _changed: int) -> str:
    return file_sha256(path)
