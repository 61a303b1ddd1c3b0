"""What a run says while it goes on: one line that changes on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import Counter
from types import TracebackType
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from convformer_monai.cohort.status import DONE, FAILED, QUARANTINED, REFUSED

__all__ = ["Progress", "Waiting"]

logger = logging.getLogger(__name__)

LINE_SECONDS = 30.0


class Waiting:
    """Says that another run holds cases: at once, and then now and then, however often it is looked."""

    def __init__(self) -> None:
        self._said = -math.inf

    def say(self, count: int) -> None:
        """Tells how many cases are waited for."""
        if time.monotonic() - self._said > LINE_SECONDS:
            logger.info("another run is doing %d of the cases: waiting for it", count)
            self._said = time.monotonic()


class Progress:
    """Counts the cases that end, and says so. Use as a context.

    Args:
        total: cases to do.
        quiet: say nothing.
    """

    def __init__(self, total: int, quiet: bool) -> None:
        self.total, self.quiet = total, quiet
        self.counts: Counter[str] = Counter()
        self._start = self._said = time.monotonic()
        self._redirect: Any = None
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty():
            self._redirect = logging_redirect_tqdm([logging.getLogger()])
            self._redirect.__enter__()
            self._bar = tqdm(total=self.total, unit="case", file=sys.stderr, dynamic_ncols=True, smoothing=0.05)
            self._bar.set_postfix_str(self._words())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._redirect.__exit__(kind, error, traceback)

    def ended(self, state: str) -> None:
        """Counts a case."""
        self.counts[state] += 1
        if self._bar is not None:
            self._bar.set_postfix_str(self._words(), refresh=False)
            self._bar.update()
        elif not self.quiet and time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            logger.info("%s", self._line())

    def _words(self) -> str:
        failed = self.counts[FAILED] + self.counts[QUARANTINED]
        return f"{self.counts[DONE]} done, {self.counts[REFUSED]} refused, {failed} failed"

    def _line(self) -> str:
        """Done, refused, failed, rate and the time that is left."""
        count, seconds = sum(self.counts.values()), time.monotonic() - self._start
        left = (self.total - count) * seconds / count
        hours, rest = divmod(round(left), 3600)
        return (
            f"{count} of {self.total}: {self._words()}; {count / seconds * 60:.1f} a minute, "
            f"{hours} h {rest // 60:02} min left"
        )
