"""What is no longer needed goes: images that were answered, results that were stored, letters that nobody read."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from pathlib import Path

from convformer_monai.serve.config import NodeConfig
from convformer_monai.serve.dead import DeadLetters
from convformer_monai.serve.intake import INCOMING
from convformer_monai.serve.state import State
from convformer_monai.serve.worker import job_folder

__all__ = ["clean_up", "remove_orphans"]

logger = logging.getLogger(__name__)

HOUR, DAY = 3600.0, 86_400.0
SETTLED = """
SELECT i.uid, i.file FROM instances i JOIN studies s ON s.uid = i.study
WHERE i.present AND NOT s.open AND s.received < ? AND NOT EXISTS (
    SELECT 1 FROM jobs j WHERE j.study = i.study AND (j.state IN ('queued', 'running') OR j.finished > ?
    OR (j.state = 'failed' AND NOT j.cleared AND j.finished > ?)))
"""
ENDED = """
SELECT j.id FROM jobs j WHERE NOT j.cleared AND j.finished < ? AND (
    j.state IN ('done', 'refused') OR (j.state = 'failed' AND j.finished < ?)) AND NOT EXISTS (
    SELECT 1 FROM deliveries d WHERE d.job = j.id AND (d.state = 'pending' OR (d.state = 'dead' AND d.finished > ?)
    OR d.finished > ?))
"""


def clean_up(config: NodeConfig, state: State, dead: DeadLetters) -> None:
    """Removes what was kept for long enough.

    Args:
        config: for how long.
        state: what is there.
        dead: what failed for good.
    """
    now, keep = time.time(), config.keep
    before = now - keep.images_hours * HOUR
    unread = now - keep.dead_days * DAY
    settled = state.rows(SETTLED, before, before, unread)
    for file in state.forget_files([(row["uid"], row["file"]) for row in settled]):
        path = config.folder / file
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # when it is empty
    old = now - keep.results_hours * HOUR
    for row in state.rows(ENDED, old, unread, unread, old):
        shutil.rmtree(config.folder / job_folder(row["id"]), ignore_errors=True)
        state.cleared(row["id"])
    for name in dead.names():
        with contextlib.suppress(OSError):
            if (dead.folder / name).stat().st_mtime < unread:
                shutil.rmtree(dead.folder / name, ignore_errors=True)
    state.forget_records(now - keep.records_days * DAY)


def remove_orphans(folder: Path, state: State) -> int:
    """After a start, removes files that were written just before the process ended, and never acknowledged.

    Args:
        folder: of the node; nobody else writes there.
        state: what is known.

    Returns:
        How many.
    """
    known = {row["file"] for row in state.rows("SELECT file FROM instances WHERE present")}
    count = 0
    for path in (folder / INCOMING).rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in known:
            path.unlink(missing_ok=True)
            count += 1
    if count:
        logger.info("removed %d files that were not acknowledged", count)
    return count
