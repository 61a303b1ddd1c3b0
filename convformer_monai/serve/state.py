"""What the node remembers: instances, studies, jobs and deliveries, in one SQLite file.

Each step is one transaction that is on the disk when it returns (write-ahead log, ``synchronous=FULL``). So whenever
the process ends, each job and each delivery is either done or still to do. The file holds UIDs, but no names and no
dates of patients.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from convformer_monai.errors import RefusalCode
from convformer_monai.serve.queueing import queue_job
from convformer_monai.serve.records import (
    ADDED,
    DEAD,
    DONE,
    FAILED,
    PENDING,
    QUEUED,
    RUNNING,
    SCHEMA,
    SCHEMA_VERSION,
    SENT,
    Delivery,
    Instance,
    Job,
    NewJob,
    delivery_of,
    instance_of,
    job_of,
)

__all__ = ["ENDED_EACH_TIME", "FETCHED", "GROWING", "NEW", "State"]

BUSY_S = 30
UNWRITTEN_S = 60.0  # before a job is done again whose end could not be written
ENDED_EACH_TIME = "the program ended each time this was worked on"
GROWING, NEW, FETCHED = "growing", "new", "fetched"


class State:
    """The node's memory; any thread may use it.

    Args:
        path: of the SQLite file; made if missing.

    Raises:
        sqlite3.Error: if it cannot be opened, or is of a later version.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._db.execute(f"PRAGMA {pragma}")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"the state is of version {version}, and this program knows {SCHEMA_VERSION}")
        with self.change() as db:
            for statement in filter(str.strip, (("" if version else SCHEMA) + ADDED).split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or nothing."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
                    self._db.execute("ROLLBACK")
                raise

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """What a query finds."""
        with self._lock:
            return self._db.execute(query, values).fetchall()

    # Instances and studies

    def known(self, uid: str) -> Instance | None:
        """The instance of a UID, if it came before."""
        found = self.rows("SELECT * FROM instances WHERE uid = ?", uid)
        return instance_of(found[0]) if found else None

    def study_size(self, study: str) -> tuple[int, int]:
        """Number and bytes of the instances of a study that are kept."""
        query = "SELECT count(*), coalesce(sum(bytes), 0) FROM instances WHERE study = ? AND present"
        (row,) = self.rows(query, study)
        return int(row[0]), int(row[1])

    def add_instance(self, one: Instance, replaced: str | None = None) -> bool:
        """Remembers an instance, and that its study is not complete.

        Args:
            one: the instance.
            replaced: file that was known of it, and is there no more.

        Returns:
            Whether it is remembered; not if it came from somebody else in the meantime.
        """
        now = time.time()
        with self.change() as db:
            known = db.execute("SELECT file FROM instances WHERE uid = ? AND present", (one.uid,)).fetchone()
            if known is not None and known["file"] != replaced:
                return False
            values = (one.uid, one.study, one.series, one.class_uid, one.file, one.bytes, one.source, 1, now)
            db.execute("INSERT OR REPLACE INTO instances VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            db.execute(
                "INSERT INTO studies VALUES (?, 1, 0, ?) ON CONFLICT (uid) DO UPDATE SET "
                "open = 1, complete = 0, received = excluded.received",
                (one.study, now),
            )
        return True

    def touch(self, study: str) -> None:
        """Notes that a study that is not complete is still being sent."""
        with self.change() as db:
            db.execute("UPDATE studies SET received = ? WHERE uid = ? AND open", (time.time(), study))

    def put_off(self, study: str, seconds: float) -> None:
        """Notes that the rest of an open study will be sent later; :meth:`complete` overrides it."""
        with self.change() as db:
            db.execute("UPDATE studies SET received = ? WHERE uid = ? AND open", (time.time() + seconds, study))

    def complete(self, studies: Sequence[str]) -> None:
        """Notes that studies are complete, without waiting any longer."""
        with self.change() as db:
            db.executemany("UPDATE studies SET complete = 1 WHERE uid = ? AND open", [(uid,) for uid in studies])

    def complete_studies(self, quiet_s: float) -> list[tuple[str, float]]:
        """Open studies that are complete, and when their last instance came."""
        found = self.rows(
            "SELECT uid, received FROM studies WHERE open AND (complete OR received <= ?) ORDER BY received",
            time.time() - quiet_s,
        )
        return [(row["uid"], row["received"]) for row in found]

    def instances_of(self, study: str) -> list[Instance]:
        """All instances of a study, also those whose files are gone."""
        return [instance_of(row) for row in self.rows("SELECT * FROM instances WHERE study = ? ORDER BY uid", study)]

    def settle(
        self, study: str, received: float, jobs: Sequence[NewJob], dropped: Sequence[Instance]
    ) -> list[int] | None:
        """Closes a study, and puts its jobs into the queue.

        Args:
            study: its UID.
            received: when its last instance came, as the caller knows it.
            jobs: what is to be done.
            dropped: instances that are forgotten, as no rule takes them.

        Returns:
            The numbers of the new jobs; ``None`` if more has come in the meantime: then nothing is changed.
        """
        new: list[int] = []
        with self.change() as db:
            closed = db.execute(
                "UPDATE studies SET open = 0, complete = 0 WHERE uid = ? AND open AND received = ?", (study, received)
            )
            if closed.rowcount != 1:
                return None
            for job in jobs:
                number = queue_job(db, study, job)
                new += [] if number is None else [number]
            db.executemany("DELETE FROM instances WHERE uid = ? AND file = ?", [(one.uid, one.file) for one in dropped])
        return new

    def drop(self, instances: Sequence[Instance]) -> None:
        """Forgets instances, as if they had not come."""
        with self.change() as db:
            db.executemany(
                "DELETE FROM instances WHERE uid = ? AND file = ?", [(one.uid, one.file) for one in instances]
            )

    # Jobs

    def recover(self, most_attempts: int) -> list[Job]:
        """After a start: what was running when the process ended is to be done again, or given up.

        Args:
            most_attempts: with which a job is given up.

        Returns:
            The jobs that are given up.
        """
        with self.change() as db:
            query = "SELECT * FROM jobs WHERE state = ? AND attempts >= ? ORDER BY id"
            given_up = [job_of(row) for row in db.execute(query, (RUNNING, most_attempts)).fetchall()]
            values = (FAILED, str(RefusalCode.ATTEMPTS), ENDED_EACH_TIME, time.time())
            db.execute(
                "UPDATE jobs SET state = ?, code = ?, message = ?, finished = ? WHERE state = ? AND attempts >= ?",
                (*values, RUNNING, most_attempts),
            )
            db.execute("UPDATE jobs SET state = ?, due = 0 WHERE state = ?", (QUEUED, RUNNING))
        return given_up

    def next_job(self) -> Job | None:
        """Takes the oldest job that is due out of the queue.

        One worker asks, when it has ended with its last job. So what still runs is a job whose end could not be
        written, as on a full disk: it goes back into the queue.
        """
        now = time.time()
        with self.change() as db:
            db.execute(
                "UPDATE jobs SET state = ?, due = ?, attempts = attempts - 1 WHERE state = ?",
                (QUEUED, now + UNWRITTEN_S, RUNNING),
            )
            row = db.execute(
                "SELECT * FROM jobs WHERE state = ? AND due <= ? ORDER BY id LIMIT 1", (QUEUED, now)
            ).fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE jobs SET state = ?, attempts = attempts + 1, started = ? WHERE id = ?",
                (RUNNING, now, row["id"]),
            )
        return replace(job_of(row), attempts=row["attempts"] + 1)

    def done(self, job: int, files: Mapping[str, Sequence[str]], flags: Sequence[str]) -> None:
        """Notes that a job is done, and queues its results, all at once.

        Args:
            job: its number.
            files: for each destination the files, below the node's folder.
            flags: codes of doubt.
        """
        now = time.time()
        with self.change() as db:
            db.execute(
                "UPDATE jobs SET state = ?, finished = ?, flags = ?, code = '', message = '' WHERE id = ?",
                (DONE, now, " ".join(flags), job),
            )
            for destination, names in files.items():
                db.executemany(
                    "INSERT OR IGNORE INTO deliveries (job, destination, file, state, attempts, due, error, created) "
                    "VALUES (?, ?, ?, ?, 0, 0, '', ?)",
                    [(job, destination, name, PENDING, now) for name in names],
                )

    def end_job(self, job: int, state: str, code: str, message: str) -> None:
        """Notes that a job is refused or failed for good."""
        with self.change() as db:
            db.execute(
                "UPDATE jobs SET state = ?, code = ?, message = ?, finished = ? WHERE id = ?",
                (state, code, message, time.time(), job),
            )

    def put_back(self, job: int, wait_s: float, *, code: str = "", message: str = "", counts: bool = True) -> None:
        """Puts a running job back into the queue.

        Args:
            job: its number.
            wait_s: until it is due.
            code: why.
            message: why.
            counts: whether this was an attempt.
        """
        with self.change() as db:
            db.execute(
                "UPDATE jobs SET state = ?, due = ?, code = ?, message = ?, attempts = attempts - ? WHERE id = ?",
                (QUEUED, time.time() + wait_s, code, message, 0 if counts else 1, job),
            )

    # Deliveries

    def next_delivery(self, destination: str) -> Delivery | None:
        """The oldest file that is due for a destination."""
        found = self.rows(
            "SELECT * FROM deliveries WHERE destination = ? AND state = ? AND due <= ? ORDER BY due, id LIMIT 1",
            *(destination, PENDING, time.time()),
        )
        return None if not found else delivery_of(found[0])

    def delivered(self, delivery: int) -> None:
        """Notes that a destination has stored a file."""
        self._end_delivery(delivery, SENT, "")

    def deliver_again(self, delivery: int, wait_s: float, error: str) -> None:
        """Notes that a destination did not take a file, and when it is tried again."""
        with self.change() as db:
            db.execute(
                "UPDATE deliveries SET attempts = attempts + 1, due = ?, error = ? WHERE id = ?",
                (time.time() + wait_s, error, delivery),
            )

    def give_up_delivery(self, delivery: int, error: str) -> None:
        """Notes that a destination will not take a file."""
        self._end_delivery(delivery, DEAD, error)

    def give_up_others(self, destinations: Collection[str]) -> int:
        """Gives up what waits for destinations that there are no more; returns how many files."""
        waiting = self.rows("SELECT DISTINCT destination FROM deliveries WHERE state = ?", PENDING)
        gone = [row["destination"] for row in waiting if row["destination"] not in destinations]
        with self.change() as db:
            values = (DEAD, "the configuration has no such destination any more", time.time())
            return sum(
                db.execute(
                    "UPDATE deliveries SET state = ?, error = ?, finished = ? WHERE state = ? AND destination = ?",
                    (*values, PENDING, name),
                ).rowcount
                for name in gone
            )

    def _end_delivery(self, delivery: int, state: str, error: str) -> None:
        with self.change() as db:
            db.execute(
                "UPDATE deliveries SET state = ?, attempts = attempts + 1, error = ?, finished = ? WHERE id = ?",
                (state, error, time.time(), delivery),
            )

    def retry_dead(self) -> tuple[int, int]:
        """Queues anew what failed for good; returns how many jobs and deliveries."""
        with self.change() as db:
            jobs = db.execute(
                "UPDATE jobs SET state = ?, attempts = 0, due = 0, finished = NULL WHERE state = ? AND NOT cleared",
                (QUEUED, FAILED),
            )
            deliveries = db.execute(
                "UPDATE deliveries SET state = ?, attempts = 0, due = 0, created = ?, finished = NULL WHERE state = ? "
                "AND NOT (SELECT cleared FROM jobs WHERE id = job)",
                (PENDING, time.time(), DEAD),
            )
            return jobs.rowcount, deliveries.rowcount

    # Polling

    def polled(self, source: str, series: str, instances: int) -> str:
        """Notes how many instances a source has of a series.

        Returns:
            ``growing`` if there were others at the question before, or none; ``fetched`` if as many were fetched
            before; else ``new``.
        """
        with self.change() as db:
            values = (source, series)
            row = db.execute("SELECT seen, fetched FROM polled WHERE source = ? AND series = ?", values).fetchone()
            db.execute(
                "INSERT INTO polled VALUES (?, ?, ?, 0, ?) ON CONFLICT (source, series) DO UPDATE SET "
                "seen = excluded.seen, time = excluded.time",
                (*values, instances, time.time()),
            )
        if row is None or row["seen"] != instances:
            return GROWING
        return FETCHED if row["fetched"] == instances else NEW

    def fetched(self, source: str, series: str, instances: int) -> None:
        """Notes that a series was fetched."""
        with self.change() as db:
            values = (instances, source, series)
            db.execute("UPDATE polled SET fetched = ? WHERE source = ? AND series = ?", values)

    # Cleaning up

    def forget_files(self, files: Sequence[tuple[str, str]]) -> list[str]:
        """Notes that files are gone, but those of studies that are open again.

        Args:
            files: UID and file of each instance.

        Returns:
            The files that may be removed.
        """
        with self.change() as db:
            return [
                file
                for uid, file in files
                if db.execute(
                    "UPDATE instances SET present = 0 WHERE uid = ? AND file = ? AND present "
                    "AND NOT EXISTS (SELECT 1 FROM studies WHERE uid = instances.study AND open)",
                    (uid, file),
                ).rowcount
                == 1
            ]

    def cleared(self, job: int) -> None:
        """Notes that the files of a job are gone."""
        with self.change() as db:
            db.execute("UPDATE jobs SET cleared = 1, files = '[]' WHERE id = ?", (job,))

    def forget_records(self, before: float) -> None:
        """Forgets studies of which nothing is kept, and nothing has come since a time."""
        with self.change() as db:
            old = (
                "SELECT uid FROM studies WHERE NOT open AND received < ? "
                "AND NOT EXISTS (SELECT 1 FROM instances WHERE study = studies.uid AND present) "
                "AND NOT EXISTS (SELECT 1 FROM jobs WHERE study = studies.uid AND NOT cleared)"
            )
            uids = [(row["uid"],) for row in db.execute(old, (before,)).fetchall()]
            for table, column in (("jobs", "study"), ("instances", "study"), ("studies", "uid")):
                db.executemany(f"DELETE FROM {table} WHERE {column} = ?", uids)  # noqa: S608 (names of ours)
            db.execute("DELETE FROM polled WHERE time < ?", (before,))
