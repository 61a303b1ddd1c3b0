"""Reports of storage commitment that are still to be sent; they are in the node's memory, so that a kill loses none."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pynetdicom.dsutils import decode, encode

from convformer_monai.serve.state import State

__all__ = ["MOST", "Report", "Reports"]

MOST = 256  # that wait


@dataclass(frozen=True)
class Report:
    """One report.

    Attributes:
        id: its number.
        title: AE title of who asked.
        kind: event type.
        content: what is reported.
        attempts: tries until now.
        created: when it was asked for.
    """

    id: int
    title: str
    kind: int
    content: Dataset
    attempts: int
    created: float


class Reports:
    """The queue; any thread may use it.

    Args:
        state: the node's memory.
    """

    def __init__(self, state: State) -> None:
        self.state = state

    def add(self, title: str, kind: int, content: Dataset) -> bool:
        """Adds a report; see :class:`Report`.

        Returns:
            Whether there was room.
        """
        encoded, now = encode(content, True, True), time.time()
        if encoded is None:
            raise ValueError("a report cannot be encoded")
        with self.state.change() as db:
            (waiting,) = db.execute("SELECT count(*) FROM reports").fetchone()
            if waiting >= MOST:
                return False
            db.execute(
                "INSERT INTO reports (title, kind, content, attempts, due, created) VALUES (?, ?, ?, 0, ?, ?)",
                (title, kind, encoded, now, now),
            )
        return True

    def next(self) -> Report | None:
        """The report that has been due for longest."""
        found = self.state.rows("SELECT * FROM reports WHERE due <= ? ORDER BY due, id LIMIT 1", time.time())
        if not found:
            return None
        row = found[0]
        content = decode(io.BytesIO(row["content"]), True, True)
        return Report(row["id"], row["title"], row["kind"], content, row["attempts"], row["created"])

    def later(self, report: int, wait_s: float) -> None:
        """Notes that a report is tried again."""
        with self.state.change() as db:
            values = (time.time() + wait_s, report)
            db.execute("UPDATE reports SET attempts = attempts + 1, due = ? WHERE id = ?", values)

    def end(self, report: int) -> None:
        """Forgets a report that was sent, or is given up."""
        with self.state.change() as db:
            db.execute("DELETE FROM reports WHERE id = ?", (report,))
