"""What the status of a store says: stored, not now, or never (PS3.4 table B.2-1, PS3.7 annex C)."""

from __future__ import annotations

__all__ = ["is_for_good", "is_stored"]

FOR_GOOD = (range(0xA900, 0xAA00), range(0xC000, 0xD000), range(0x0122, 0x0123))
STORED = (range(0x0000, 0x0001), range(0xB000, 0xC000), range(0x0111, 0x0112))  # success, warnings, duplicate instance


def is_stored(code: int) -> bool:
    """Whether an instance is there.

    Args:
        code: status of C-STORE, or failure reason of STOW-RS, which takes it from there.
    """
    return any(code in codes for codes in STORED)


def is_for_good(code: int) -> bool:
    """Whether an instance will be refused again, for its content or its class; see :func:`is_stored`."""
    return any(code in codes for codes in FOR_GOOD)
