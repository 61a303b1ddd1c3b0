"""Whether a job of a study is new, or is there already, or is answered."""

from __future__ import annotations

import json
import sqlite3
import time

from convformer_monai.errors import RefusalCode
from convformer_monai.serve.records import DONE, QUEUED, REFUSED, RUNNING, NewJob

__all__ = ["queue_job"]


def queue_job(db: sqlite3.Connection, study: str, job: NewJob) -> int | None:
    """Queues a job, unless it is, or was, there.

    Args:
        db: within a transaction.
        study: its UID.
        job: what is to be done.

    Returns:
        Its number; ``None`` if there is nothing to do.
    """
    key = (study, job.target, job.rule)
    before = db.execute(
        "SELECT id, digest, state, code, files FROM jobs WHERE study = ? AND target = ? AND rule = ? ORDER BY id", key
    ).fetchall()
    state, (code, message) = (REFUSED if job.refusal else QUEUED), (job.refusal or ("", ""))
    now, files = time.time(), json.dumps(list(job.files))
    for row in before:
        if row["digest"] == job.digest:
            if row["code"] != RefusalCode.INCOMPLETE or job.refusal:
                return None
            db.execute(  # the images that were missing have been sent again
                "UPDATE jobs SET state = ?, files = ?, attempts = 0, due = 0, code = '', message = '', "
                "finished = NULL, cleared = 0 WHERE id = ?",
                (QUEUED, files, row["id"]),
            )
            return int(row["id"])
    for row in before:
        if row["state"] == QUEUED and not job.refusal:  # not yet begun: what came since is part of it
            db.execute("UPDATE jobs SET digest = ?, files = ? WHERE id = ?", (job.digest, files, row["id"]))
            return int(row["id"])
    answers = [row for row in before if row["state"] in (RUNNING, DONE)]  # a refusal is none
    if answers and not job.again:
        return None
    if not job.refusal and any(row["files"] == files for row in answers):  # as another series came, after an upgrade
        return None
    values = (*key, job.digest, len(before) + 1, files, state, code, message, now, now if job.refusal else None)
    done = db.execute(
        "INSERT INTO jobs (study, target, rule, digest, version, files, state, code, message, created, finished, "
        "attempts, due, flags) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, '')",
        values,
    )
    return int(done.lastrowid or 0)
