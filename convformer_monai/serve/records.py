"""The rows of the node's memory, and the tables that :mod:`convformer_monai.serve.state` keeps them in."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

__all__ = [
    *("DEAD", "DONE", "FAILED", "PENDING", "QUEUED", "REFUSED", "RUNNING", "SENT"),
    *("ADDED", "SCHEMA", "SCHEMA_VERSION", "Delivery", "Instance", "Job", "NewJob"),
    *("delivery_of", "instance_of", "job_of"),
]

QUEUED, RUNNING, DONE, REFUSED, FAILED = "queued", "running", "done", "refused", "failed"
PENDING, SENT, DEAD = "pending", "sent", "dead"
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE studies (
    uid TEXT PRIMARY KEY, open INTEGER NOT NULL, complete INTEGER NOT NULL, received REAL NOT NULL);
CREATE INDEX open_studies ON studies (open, received);
CREATE TABLE instances (
    uid TEXT PRIMARY KEY, study TEXT NOT NULL, series TEXT NOT NULL, class TEXT NOT NULL, file TEXT NOT NULL,
    bytes INTEGER NOT NULL, source TEXT NOT NULL, present INTEGER NOT NULL, received REAL NOT NULL);
CREATE INDEX study_instances ON instances (study);
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT NOT NULL, target TEXT NOT NULL, rule TEXT NOT NULL,
    digest TEXT NOT NULL, version INTEGER NOT NULL, files TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, due REAL NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL, flags TEXT NOT NULL,
    created REAL NOT NULL, started REAL, finished REAL, cleared INTEGER NOT NULL DEFAULT 0,
    UNIQUE (study, target, rule, digest));
CREATE INDEX due_jobs ON jobs (state, due);
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    destination TEXT NOT NULL, file TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL, due REAL NOT NULL,
    error TEXT NOT NULL, created REAL NOT NULL, finished REAL, UNIQUE (job, destination, file));
CREATE INDEX due_deliveries ON deliveries (destination, state, due);
CREATE INDEX job_deliveries ON deliveries (job, state);
CREATE TABLE polled (
    source TEXT NOT NULL, series TEXT NOT NULL, seen INTEGER NOT NULL, fetched INTEGER NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (source, series));
"""
# What came later, and an earlier program does not mind.
ADDED = """
CREATE TABLE IF NOT EXISTS reports (
    id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL, kind INTEGER NOT NULL, content BLOB NOT NULL,
    attempts INTEGER NOT NULL, due REAL NOT NULL, created REAL NOT NULL);
CREATE INDEX IF NOT EXISTS kept_instances ON instances (study) WHERE present;
"""


@dataclass(frozen=True)
class Instance:
    """One instance that was received.

    Attributes:
        uid: SOP instance UID.
        study: study instance UID.
        series: series instance UID.
        class_uid: SOP class.
        file: below the node's folder.
        bytes: its size.
        source: AE title or source that it came from.
        present: whether the file is still kept.
    """

    uid: str
    study: str
    series: str
    class_uid: str
    file: str
    bytes: int
    source: str
    present: bool = True


@dataclass(frozen=True)
class NewJob:
    """What is to be done of a study.

    Attributes:
        target: UID of the series, or of the photograph; ``study`` for the whole study.
        rule: name of the rule.
        digest: of instances, bundle, weights and options: equal for what would be the same again.
        files: of the instances, below the node's folder.
        again: whether a target that was answered is answered again when its digest differs.
        refusal: code and message of what is refused without any work.
    """

    target: str
    rule: str
    digest: str
    files: tuple[str, ...]
    again: bool = True
    refusal: tuple[str, str] | None = None


@dataclass(frozen=True)
class Job:
    """A series, or several, and a rule; see :class:`NewJob`."""

    id: int
    study: str
    target: str
    rule: str
    version: int
    files: tuple[str, ...]
    attempts: int


@dataclass(frozen=True)
class Delivery:
    """One file on its way to one destination; ``file`` is below the node's folder."""

    id: int
    job: int
    destination: str
    file: str
    attempts: int
    created: float


def instance_of(row: sqlite3.Row) -> Instance:
    """The instance of a row."""
    columns = ("uid", "study", "series", "class", "file", "bytes", "source", "present")
    return Instance(*(row[name] for name in columns))


def job_of(row: sqlite3.Row) -> Job:
    """The job of a row."""
    files = tuple(json.loads(row["files"]))
    return Job(row["id"], row["study"], row["target"], row["rule"], row["version"], files, row["attempts"])


def delivery_of(row: sqlite3.Row) -> Delivery:
    """The delivery of a row."""
    return Delivery(*(row[name] for name in ("id", "job", "destination", "file", "attempts", "created")))
