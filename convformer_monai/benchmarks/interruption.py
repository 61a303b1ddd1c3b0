"""How a benchmark ends that the user stops, and that does not go on where it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from convformer_monai.errors import EXIT_INTERRUPTED

__all__ = ["begins_anew"]


@contextmanager
def begins_anew() -> Iterator[None]:
    """Says so when it is stopped; the program's own words are that the same command goes on. Also a decorator.

    Raises:
        SystemExit: with the exit code of a command that was stopped.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; files that were written are complete, and the same command begins anew\n")
        raise SystemExit(EXIT_INTERRUPTED) from None
