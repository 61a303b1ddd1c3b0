"""What happened since the start, as numbers: for ``/metrics``, the page and the tests."""

from __future__ import annotations

import threading
from collections import Counter

__all__ = ["Counts"]


class Counts:
    """Counters by name and label; any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, label: str = "", value: float = 1) -> None:
        """Adds to a counter.

        Args:
            name: of it.
            label: one of few words; never a value of a patient or peer.
            value: what is added.
        """
        with self._lock:
            self._values[name, label] += value  # type: ignore[assignment]  # seconds are floats

    def get(self, name: str, label: str = "") -> float:
        """The value of a counter."""
        with self._lock:
            return self._values[name, label]

    def all(self) -> dict[tuple[str, str], float]:
        """All counters by name and label."""
        with self._lock:
            return dict(self._values)
