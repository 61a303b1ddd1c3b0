"""Jobs are done one after the other: images through their bundle, and the results into a folder of the job."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from convformer_monai.errors import InputRefused, RefusalCode, find_refusal
from convformer_monai.outputs.atomic import CannotWrite
from convformer_monai.outputs.case import finished, process
from convformer_monai.outputs.writer import path_for
from convformer_monai.readers.cases import Case
from convformer_monai.serve.config import NodeConfig, Rule
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.dead import DeadLetters
from convformer_monai.serve.intake import short
from convformer_monai.serve.passing import is_passing
from convformer_monai.serve.records import FAILED, REFUSED, Job
from convformer_monai.serve.state import State

if TYPE_CHECKING:
    from convformer_monai.segmenter import Segmenter

__all__ = ["RESULTS", "Worker", "job_folder"]

logger = logging.getLogger(__name__)

RESULTS = "results"
INPUT, OUTPUT = "input", "output"
PHOTO_NAME = "image.dcm"
WAIT_S = 60.0  # before a job is tried again for which the disk or the memory did not suffice
AGAIN_S = 5.0  # before a job is tried again that failed by a fault of ours


def job_folder(job: int) -> str:
    """The folder of a job, below the node's."""
    return f"{RESULTS}/{job:08d}"


class Worker:
    """Does the jobs.

    Args:
        config: rules and attempts.
        state: the queue.
        segmenters: by bundle, as the rules name them.
        counts: gets what was done.
        dead: gets what failed for good.
    """

    def __init__(
        self,
        config: NodeConfig,
        state: State,
        segmenters: Mapping[str, Segmenter],
        counts: Counts,
        dead: DeadLetters,
    ) -> None:
        self.config, self.state, self.segmenters, self.counts, self.dead = config, state, segmenters, counts, dead
        self.rules = {rule.name: rule for rule in config.rules}
        self.working_on: int | None = None
        self.lock = threading.Lock()  # held while a job's end is written

    def run_one(self) -> bool:
        """Does the next job.

        Returns:
            Whether there was one.
        """
        job = self.state.next_job()
        if job is None:
            return False
        self.working_on = job.id
        start = time.monotonic()
        try:
            end = self._attempt(job)
        finally:
            self.working_on = None
        with self.lock:
            end()
        self.counts.add("job_seconds", value=time.monotonic() - start)
        return True

    def _attempt(self, job: Job) -> Callable[[], None]:
        """Tries a job; returns what writes down how it ended."""
        rule = self.rules.get(job.rule)
        if rule is None:
            return lambda: self._refuse(job, str(RefusalCode.CONFIG), "the configuration has no longer such a rule")
        try:
            return self._do(job, rule)
        except Exception as error:
            refusal = find_refusal(error)
            if _may_pass(error, refusal):
                return lambda: self._later(job, refusal)
            too_large = refusal is not None and refusal.code == RefusalCode.OUT_OF_MEMORY  # now, or ever
            if too_large and job.attempts < self.config.attempts:
                return lambda: self._later(job, refusal, counts=True)
            if refusal is not None:
                text = refusal.message.replace(f"{self.config.folder}{os.sep}", "")
                code = str(refusal.code)
                return lambda: self._refuse(job, code, text)
            fault, name = "".join(traceback.format_exception(error)), type(error).__name__
            return lambda: self._fault(job, name, fault)

    def _do(self, job: Job, rule: Rule) -> Callable[[], None]:
        """Segments the images of a job, and writes the results."""
        segmenter, options = self.segmenters[rule.bundle], rule.options
        folder = self.config.folder / job_folder(job.id)
        case = Case(self._gathered(job, folder, photo=segmenter.bundle.is_photo), _name(job))
        output = folder / OUTPUT
        before = finished(case, output, segmenter, options)
        if before is None:
            process(segmenter, case, output, options)
            before = json.loads(path_for(output / case.name, "_measurements.json").read_text(encoding="utf-8"))
        report = json.loads(path_for(output / case.name, "_report.json").read_text(encoding="utf-8"))
        flags = list(dict.fromkeys(str(flag["code"]) for flag in before.get("flags", ())))
        made = [*report["files"], path_for(Path(case.name), "_report.json").name]
        names = [f"{job_folder(job.id)}/{OUTPUT}/{job.study}/{name}" for name in made]
        files = {
            name: names if self.config.destinations[name].kind == "folder" else [n for n in names if n.endswith(".dcm")]
            for name in rule.send_to
        }
        return lambda: self._done(job, files, flags)

    def _gathered(self, job: Job, folder: Path, *, photo: bool) -> Path:
        """Puts links to the images of a job into a folder, so that it sees no other; returns what is read."""
        target = folder / INPUT
        if target.exists():
            shutil.rmtree(target)
        target.mkdir(parents=True)
        for number, name in enumerate(job.files):
            source = self.config.folder / name
            place = target / (PHOTO_NAME if len(job.files) == 1 else f"{number:05d}.dcm")
            try:
                os.link(source, place)
            except FileNotFoundError:
                raise InputRefused(
                    RefusalCode.INCOMPLETE, "images of this series are no longer kept; send the whole series again"
                ) from None
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK):
                    raise
                shutil.copy2(source, place)
        return target / PHOTO_NAME if photo and len(job.files) == 1 else target

    def _done(self, job: Job, files: dict[str, list[str]], flags: list[str]) -> None:
        self.state.done(job.id, files, flags)
        self._tidy(job)
        self.counts.add("jobs", "done")
        said = f", flags {' '.join(flags)}" if flags else ""
        logger.info("job %d of study %s is done%s", job.id, short(job.study), said)

    def _refuse(self, job: Job, code: str, text: str) -> None:
        self.state.end_job(job.id, REFUSED, code, text)
        self._tidy(job)
        self.counts.add("jobs", "refused")
        logger.warning("job %d of study %s is refused: %s", job.id, short(job.study), code)

    def _fault(self, job: Job, name: str, fault: str) -> None:
        """A fault of ours: tried again, and then given up."""
        text = f"{name}, a fault of ours"
        if job.attempts < self.config.attempts:
            self.state.put_back(job.id, AGAIN_S * job.attempts, code="FAULT", message=text)
            self.counts.add("jobs", "again")
            logger.warning("job %d failed by %s, and is tried again", job.id, name)
            return
        self.dead.keep(f"job-{job.id:08d}", {"job": job.id, "rule": job.rule, "reason": text}, [], fault)
        self.state.end_job(job.id, FAILED, "FAULT", text)
        self.counts.add("jobs", "failed")
        logger.error("job %d failed by %s, and is given up", job.id, name)

    def _later(self, job: Job, refusal: InputRefused | None, counts: bool = False) -> None:
        """The disk or the memory did not suffice; whether this counts as an attempt."""
        code = "OUT_OF_MEMORY" if refusal is None else str(refusal.code)
        self.state.put_back(job.id, WAIT_S, code=code, message="disk or memory did not suffice", counts=counts)
        self.counts.add("jobs", "waiting")
        logger.warning("job %d waits: disk or memory did not suffice", job.id)

    def _tidy(self, job: Job) -> None:
        """Removes the links."""
        shutil.rmtree(self.config.folder / job_folder(job.id) / INPUT, ignore_errors=True)


def _name(job: Job) -> str:
    """Folder and name of a job's results: UIDs, which were checked when they came."""
    return f"{job.study}/{job.target}" + (f"_v{job.version}" if job.version > 1 else "")


def _may_pass(error: BaseException, refusal: InputRefused | None) -> bool:
    """Whether an error is one of the machine, which may have more room later."""
    cannot_write = refusal is not None and refusal.code == RefusalCode.CANNOT_WRITE
    return cannot_write or isinstance(refusal, CannotWrite) or is_passing(error)
