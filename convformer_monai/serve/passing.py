"""Faults of the machine, which may be over later: no memory, no file handles, a full or failing disk."""

from __future__ import annotations

import errno

__all__ = ["is_passing"]

PASSING = {errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT}


def is_passing(error: BaseException | None) -> bool:
    """Whether an error, or one that it follows from, is a fault of the machine.

    Args:
        error: any exception; a refusal of a file keeps what was raised as its context.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in PASSING):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
