"""Decisions on cases, in SQLite: the last one of each counts, and none is lost."""

from __future__ import annotations

import contextlib
import csv
import io
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.measurements.values import safe_cell
from convformer_monai.outputs.atomic import CannotWrite
from convformer_monai.review.cases import ReviewCase

__all__ = ["ACCEPTED", "CORRECTED", "DECISIONS", "OPEN", "REJECTED", "Decision", "Store", "to_csv"]

FILE = "review.sqlite3"
OPEN, ACCEPTED, REJECTED, CORRECTED = "open", "accepted", "rejected", "corrected"
DECISIONS = (OPEN, ACCEPTED, REJECTED, CORRECTED)
LONGEST_REASON = 2000
COLUMNS = ("case", "bundle", "decision", "reason", "time", "flags", "doubt")
WAIT_S = 10.0  # for another process that writes
TABLE = """
create table if not exists decisions (
  number integer primary key,
  name text not null,
  decision text not null,
  reason text not null,
  time text not null,
  mask text not null
);
create index if not exists by_name on decisions (name, number);
"""
LAST = """
select name, decision, reason, time, mask from decisions
where number in (select max(number) from decisions group by name)
"""


@dataclass(frozen=True)
class Decision:
    """What was decided on a case.

    Attributes:
        decision: ``open``, ``accepted``, ``rejected`` or ``corrected``.
        reason: why; needed for ``rejected``.
        time: when, UTC, ISO 8601.
        mask: SHA-256 of the mask that it is about; empty if there is none.
    """

    decision: str
    reason: str = ""
    time: str = ""
    mask: str = ""


class Store:
    """The decisions on the cases of one folder.

    Args:
        folder: of the results; the database is made in it if it is missing.

    Raises:
        InputRefused: ``CANNOT_WRITE`` if it cannot be opened, or is another kind of file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        with self._connected() as database:
            database.executescript(TABLE)
            if not any(column[1] == "mask" for column in database.execute("pragma table_info(decisions)")):
                database.execute("alter table decisions add column mask text not null default ''")

    def decide(self, case: ReviewCase, decision: str, reason: str = "", mask: str = "") -> Decision:
        """Notes a decision on a case.

        Args:
            case: the case.
            decision: one of :data:`DECISIONS`.
            reason: why.
            mask: see :class:`Decision`.

        Raises:
            InputRefused: ``OPTION`` if the decision is unknown, a rejection is without a reason, or a reason has more
                than 2000 characters or some that are none; ``CANNOT_WRITE``.
        """
        if decision not in DECISIONS:
            raise InputRefused(RefusalCode.OPTION, f"decision must be one of {', '.join(DECISIONS)}")
        reason = reason.strip()
        if decision == REJECTED and not reason:
            raise InputRefused(RefusalCode.OPTION, "a rejection needs a reason")
        if len(reason) > LONGEST_REASON:
            raise InputRefused(RefusalCode.OPTION, f"a reason has at most {LONGEST_REASON} characters")
        if not reason.isascii() and reason.encode("utf-8", "replace").decode() != reason:
            raise InputRefused(RefusalCode.OPTION, "the reason holds half a character")
        made = Decision(decision, reason, datetime.now(timezone.utc).isoformat(timespec="milliseconds"), mask)
        with self._connected() as database:
            database.execute(
                "insert into decisions (name, decision, reason, time, mask) values (?, ?, ?, ?, ?)",
                (case.shown, made.decision, made.reason, made.time, made.mask),
            )
        return made

    def all(self) -> dict[str, Decision]:
        """The last decision on each case, by its name as it is shown."""
        with self._connected() as database:
            return {name: Decision(*rest) for name, *rest in database.execute(LAST)}

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A transaction; what it did is on the disk at its end."""
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=WAIT_S)) as database:
                database.execute("pragma journal_mode = delete")  # a log beside it needs memory that hosts do not share
                database.execute("pragma synchronous = full")
                with database:
                    yield database
        except sqlite3.Error as error:
            raise CannotWrite(RefusalCode.CANNOT_WRITE, f"{self.path} cannot be used: {error}") from error


def to_csv(cases: Sequence[ReviewCase], decisions: dict[str, Decision]) -> str:
    """Returns the decisions on cases as CSV, a row for each case.

    Args:
        cases: in the order of the rows.
        decisions: by the names of the cases.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for case in cases:
        made = decisions.get(case.name, Decision(OPEN))
        flags = " ".join(dict.fromkeys(code for code, _ in case.flags))
        doubt = "" if case.doubt is None else case.doubt
        row = (case.shown, case.bundle, made.decision, made.reason, made.time, flags, doubt)
        writer.writerow([safe_cell(cell) for cell in row])
    return text.getvalue()
