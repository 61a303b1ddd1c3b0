"""One case of a cohort, in a worker process: held, begun, done, and its status kept at each step.

The status says ``running``, with one attempt more, before the work begins. A case that its own run finds running, and
nobody holds, has killed its worker; after as many attempts as the run allows it is quarantined. One that another run
left running was stopped or killed with that run, which tells little about it: where that happens again it is done by
itself, and quarantined if runs end even so.
"""

from __future__ import annotations

import faulthandler
import functools
import json
import logging
import os
import platform
import time
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convformer_monai.cohort.faults import FAULT, keep_fault, keep_text
from convformer_monai.cohort.manifest import Entry
from convformer_monai.cohort.plan import REPORT, STOPS_IN_ALL, Job, beside, known, standing, stops_of
from convformer_monai.cohort.status import (
    DONE,
    FAILED,
    QUARANTINED,
    REFUSED,
    RUNNING,
    TODO,
    Status,
    now,
    write_status,
)
from convformer_monai.cohort.storage import Folder, Place, fetched, fingerprint, local_path, place_of
from convformer_monai.errors import InputRefused, RefusalCode, find_refusal
from convformer_monai.locks import try_lock
from convformer_monai.outputs.case import process
from convformer_monai.outputs.journal import tidy_up
from convformer_monai.outputs.made_by import made_by_segmenter
from convformer_monai.outputs.writer import Options
from convformer_monai.readers.cases import Case
from convformer_monai.readers.glance import glance

if TYPE_CHECKING:
    from convformer_monai.measurements.values import Measurements
    from convformer_monai.segmenter import Segmenter

__all__ = ["Outcome", "do_case"]

LOGS = ".cohort/logs"
LOG_CHARACTERS = 20_000

_tidied: set[Path] = set()  # folders where this process has tidied up


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        status: of the case; ``None`` if another process holds it.
        before: whether it had ended before this run, or by another.
    """

    status: Status | None
    before: bool = False


def do_case(entry: Entry, job: Job) -> Outcome:
    """Does a case, unless it was done before or another process is doing it.

    Args:
        entry: the case.
        job: the run.

    Returns:
        How it ended, whatever happened to the case itself.

    Raises:
        InputRefused: if the bundle or the device cannot be used here: no case could be done.
    """
    from convformer_monai.cohort.model import loaded

    place = place_of(job.output)
    _prepare_process(job.output)
    segmenter = loaded(job.bundles[entry.bundle], job)
    with place.hold(entry.case) as ours:
        return _HeldCase(entry, job, place, segmenter).do() if ours else Outcome(None)


class _HeldCase:
    """A case that no other process does."""

    def __init__(self, entry: Entry, job: Job, place: Place, segmenter: Segmenter) -> None:
        self.entry, self.job, self.place, self.segmenter = entry, job, place, segmenter
        self.options: Options = job.options_of(entry)
        self.before = known(place, entry.case)
        self.stamp = fingerprint(entry.path, job.output) or ""
        self.made_by = job.made_by(entry, self.stamp)
        same = self.before if self.before is not None and dict(self.before.made_by) == self.made_by else None
        state = "" if same is None else same.state
        self.died = state == RUNNING
        self.attempts = 0 if same is None or self._begins_anew(same) else same.attempts
        self.stops = stops_of(self.before, self.made_by, job)
        self.begun = state not in ("", REFUSED)  # an upload that was cut off leaves files without a report
        self.gone = state == TODO  # it was done, but files have been removed

    def _begins_anew(self, before: Status) -> bool:
        """Whether attempts of earlier runs do not count."""
        given_up = before.state in (FAILED, QUARANTINED) and not self.job.retry_failed
        return before.run != self.job.run and not given_up

    def do(self) -> Outcome:
        """Goes through all steps."""
        if self.before is not None and standing(self.before, self.made_by, self.job, self.entry.seen) != TODO:
            return Outcome(self.before, before=self.before.run != self.job.run)
        self._tidy()
        report = self._report()
        if report.get("made_by") == made_by_segmenter(self.segmenter, self.options, self.stamp):
            if not self.options.overwrite and self._is_complete(report):
                return Outcome(self._adopted(report), before=not self.died)
            self.options = replace(self.options, overwrite=True)  # files are gone: the others may be replaced
        elif self.gone and not report:
            self.options = replace(self.options, overwrite=True)
        if self.died and (self.attempts >= self.job.attempts or self.stops >= STOPS_IN_ALL):
            return Outcome(self._quarantine())
        self.attempts += 1
        write_status(self.place, self._status(RUNNING, started=now()))
        return Outcome(self._work())

    def _report(self) -> dict[str, Any]:
        """The report of results that are there, whatever the status says; empty if there is none that can be read."""
        try:
            report = json.loads(self.place.read(self.entry.case + REPORT) or "")
        except ValueError:
            return {}
        return report if isinstance(report, dict) else {}

    def _is_complete(self, report: dict[str, Any]) -> bool:
        """Whether all files are there that a report names."""
        return all(map(self.place.exists, beside(self.entry.case, report["files"])))

    def _adopted(self, report: dict[str, Any]) -> Status:
        """The case is done, but its status did not say so; as after ``segment``."""
        return self._ended(
            DONE,
            seconds=self.before.seconds if self.before else 0.0,
            flags=tuple(dict.fromkeys(flag["code"] for flag in report["flags"])),
            files=tuple(report["files"]),
        )

    def _work(self) -> Status:
        """Reads, segments, measures and writes."""
        start, started = time.perf_counter(), now()
        flags: tuple[str, ...] = ()
        files: tuple[str, ...] = ()
        with ExitStack() as stack:
            folder = stack.enter_context(self.place.workspace())
            try:
                self._refuse_existing()
                path = stack.enter_context(fetched(self.entry.path))
                case = self._case(path)
                bundle = self.segmenter.bundle
                bundle.check_kind(case.path, glance(case.path), self.segmenter.modality is None)
                written, measurements = self._processed(case, folder)
                flags = tuple(dict.fromkeys(flag.code for flag in measurements.flags))
                files = tuple(path.name for path in written)
                state, code, message = DONE, "", ""
            except Exception as error:
                refusal = find_refusal(error)
                if refusal is not None:
                    state, code, message = REFUSED, str(refusal.code), refusal.message
                else:
                    state, code = FAILED, "FAULT"
                    message = keep_fault(error, folder, self._case(local_path(self.entry.path)))
                    message = message.partition("]: ")[2]
        if state == DONE:
            self.place.remove(self.entry.case + FAULT)
        return self._ended(
            state,
            code=code,
            message=message,
            flags=flags,
            files=files,
            started=started,
            seconds=time.perf_counter() - start,
        )

    def _refuse_existing(self) -> None:
        """Refuses to replace results in object storage, of which the temporary folder shows nothing.

        Raises:
            InputRefused: ``EXISTS``, but not of what an upload left that was cut off.
        """
        if isinstance(self.place, Folder) or self.options.overwrite:
            return
        suffixes = [suffix for writer in self.options.writers() for suffix in writer.suffixes if "*" not in suffix]
        for suffix in [REPORT] if self.begun else suffixes:
            if self.place.exists(self.entry.case + suffix):
                raise InputRefused(
                    RefusalCode.EXISTS,
                    f"{self.place.url}/{self.entry.case}{suffix} exists already; give --overwrite or another output",
                )

    def _processed(self, case: Case, folder: Path) -> tuple[tuple[Path, ...], Measurements]:
        """Does the case; what is in its way may be of a run that was killed, and goes then."""
        try:
            return process(self.segmenter, case, folder, self.options, tidy=False, input_stamp=self.stamp)
        except InputRefused as refusal:
            if refusal.code != RefusalCode.EXISTS:
                raise
            tidy_up((folder / case.name).parent)
            return process(self.segmenter, case, folder, self.options, tidy=False, input_stamp=self.stamp)

    def _tidy(self) -> None:
        """Ends what killed runs began in the case's folder.

        That reads the names of all files there, half a second where 500,000 lie in one folder. So it is done for the
        first case of a process, and for a case whose process died.
        """
        if isinstance(self.place, Folder):
            folder = (self.place.root / self.entry.case).parent
            if self.died or folder not in _tidied:
                tidy_up(folder)
                _tidied.add(folder)

    def _quarantine(self) -> Status:
        """Gives the case up, with what is known of the processes that it killed."""
        before = self.before
        assert before is not None
        whole = self.stops >= STOPS_IN_ALL
        what = f"{self.stops} runs ended while they did it" if whole else f"its worker died {self.attempts} times"
        text = (
            f"{self.entry.case}: {what}{', the last with nothing else to do' if whole else ''}.\n"
            f"The last one: process {before.pid} on {before.host}, which began at {before.started}.\n"
            "Likely causes: memory (the system or the scheduler ended the process), or a fault in a library.\n"
        )
        log = self.place.read(_log_name(before.host, before.pid))
        text += f"\nWhat the process left:\n{log[-LOG_CHARACTERS:]}" if log else ""
        with self.place.workspace() as folder:
            message = keep_text(text, what, folder, self.entry.case)
        return self._ended(QUARANTINED, code="FAULT", message=message.partition("]: ")[2], seconds=before.seconds)

    def _case(self, path: Path) -> Case:
        return Case(path, self.entry.case)

    def _ended(self, state: str, **values: Any) -> Status:
        """Writes the last status."""
        status = self._status(state, finished=now(), **values)
        write_status(self.place, status)
        return status

    def _status(self, state: str, **values: Any) -> Status:
        values["seconds"] = round(values.get("seconds", 0.0), 3)
        return Status(
            self.entry.case,
            self.entry.path,
            state,
            bundle=self.job.bundles[self.entry.bundle].name,
            made_by=self.made_by,
            attempts=self.attempts,
            stops=self.stops if state == RUNNING else 0,
            run=self.job.run,
            **values,
        )


def _log_name(host: str, pid: int) -> str:
    return f"{LOGS}/{host}-{pid}.log"


@functools.cache
def _prepare_process(output: str) -> None:
    """Lets a crash of this process leave its stack in a file, and the libraries be silent."""
    warnings.filterwarnings("ignore")
    for name in ("convformer_monai", "monai", "pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    place = place_of(output)
    if isinstance(place, Folder):
        path = place.root / _log_name(platform.node(), os.getpid())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "ab")  # noqa: SIM115 (open, and locked, for as long as the process lives)
            try_lock(file)
            faulthandler.enable(file)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputRefused(
                RefusalCode.CANNOT_WRITE, f"{path} cannot be written: {error}; give another --output"
            ) from error
