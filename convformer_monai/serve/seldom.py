"""Messages that a peer can cause as often as it likes are logged seldom, so that it cannot fill the log."""

from __future__ import annotations

import logging
import threading
import time

__all__ = ["Seldom"]

EVERY_S = 60.0
MOST = 1000  # different messages


class Seldom:
    """Logs a message once in a while, and says then how often it was left out.

    Args:
        logger: where to.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger, self._lock = logger, threading.Lock()
        self._said: dict[str, tuple[float, int]] = {}

    def warn(self, message: str) -> None:
        """Logs a message, unless it was there a moment ago."""
        now = time.monotonic()
        with self._lock:
            then, left_out = self._said.get(message, (now - EVERY_S, 0))
            if now - then < EVERY_S or (message not in self._said and len(self._said) >= MOST):
                if message in self._said:
                    self._said[message] = (then, left_out + 1)
                return
            self._said[message] = (now, 0)
        self._logger.warning("%s%s", message, f" ({left_out} more since the last time)" if left_out else "")
