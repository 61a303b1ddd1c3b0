"""What is known of each case of a cohort: a small JSON file, whose name is a hash, below ``.cohort`` of the output.

256 sub-folders keep each of them small: of 100,000 cases one holds about 400. The files of a case's results lie where
``segment`` puts them; the status tells whether there is anything left to do.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

from convformer_monai import __version__
from convformer_monai.cohort.storage import Place

__all__ = ["Status", "all_statuses", "now", "read_status", "status_name", "write_status"]

SCHEMA_VERSION = 1
FOLDER = ".cohort/status"
BATCH = 1000  # files read together
TODO = "to do"
RUNNING, DONE, REFUSED, FAILED, QUARANTINED = "running", "done", "refused", "failed", "quarantined"
BAD = (REFUSED, FAILED, QUARANTINED)


@dataclass(frozen=True)
class Status:
    """How far a case is.

    Attributes:
        case: its name.
        path: of its image, as the manifest gives it.
        state: ``running``, ``done``, ``refused`` (the input cannot be used), ``failed`` (a fault of ours) or
            ``quarantined`` (its worker, or the whole run, died each time).
        bundle: name of the bundle.
        made_by: what the result follows from: hashes of ``bundle``, ``weights``, ``options`` and ``input``.
        code: of a refusal; ``FAULT`` of a failure.
        message: why it is not done, one line.
        attempts: how often it was started.
        stops: how many runs before this one ended while they did it, killed or stopped at once.
        seconds: of the last attempt.
        flags: codes of doubt.
        files: names of the results.
        host: of the last attempt.
        pid: process of the last attempt.
        run: which run of the command.
        version: of this package.
        started: time of the last attempt, UTC.
        finished: its end, UTC.
    """

    case: str
    path: str
    state: str
    bundle: str = ""
    made_by: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    message: str = ""
    attempts: int = 0
    stops: int = 0
    seconds: float = 0.0
    flags: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)
    run: str = ""
    version: str = __version__
    started: str = ""
    finished: str = ""

    def to_json(self) -> str:
        """The text of its file."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"


def now() -> str:
    """The time in UTC; texts of it are in the order of the times."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _parsed(text: str) -> Status | None:
    """The status in a text; ``None`` if it holds none, as of another version."""
    try:
        content: dict[str, Any] = json.loads(text)
        if content["schema_version"] != SCHEMA_VERSION:
            return None
        known = {one.name for one in fields(Status)}
        values = {key: value for key, value in content.items() if key in known}
        return Status(**{**values, **{name: tuple(values.get(name, ())) for name in ("flags", "files")}})
    except (ValueError, KeyError, TypeError):
        return None


def status_name(case: str) -> str:
    """Name of a case's file below the output folder.

    Args:
        case: its name.
    """
    digest = hashlib.sha256(os.fsencode(case)).hexdigest()
    return f"{FOLDER}/{digest[:2]}/{digest[:32]}.json"


def read_status(place: Place, case: str) -> Status | None:
    """Reads the status of a case.

    Args:
        place: output of the cohort.
        case: its name.

    Returns:
        The status; ``None`` if there is none that can be read.
    """
    text = place.read(status_name(case))
    return None if text is None else _parsed(text)


def write_status(place: Place, status: Status) -> None:
    """Writes the status of a case, complete or not at all.

    Args:
        place: output of the cohort.
        status: the new one.

    Raises:
        InputRefused: ``CANNOT_WRITE``.
    """
    place.write(status_name(status.case), status.to_json())


def all_statuses(place: Place) -> Iterator[Status]:
    """Yields the statuses of all cases of an output folder, whichever run wrote them."""
    names = place.find(FOLDER, ".json")
    for start in range(0, len(names), BATCH):
        for text in place.read_all(names[start : start + BATCH]):
            status = _parsed(text)
            if status is not None:
                yield status
