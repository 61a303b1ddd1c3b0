"""A cohort from its manifest to its tables: check, plan, hand out, count, sum up."""

from __future__ import annotations

import functools
import logging
import time
import traceback
import uuid
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from convformer_monai.bundle import Bundle
from convformer_monai.cohort.engines import ENGINES, Engine, Stop, check_packages, local_workers, opened, stream
from convformer_monai.cohort.manifest import Entry, read_entries, shard_of
from convformer_monai.cohort.plan import Job, Plan, make_plan, open_bundles
from convformer_monai.cohort.progress import Progress, Waiting
from convformer_monai.cohort.status import (
    BAD,
    DONE,
    FAILED,
    QUARANTINED,
    REFUSED,
    Status,
    now,
    read_status,
    write_status,
)
from convformer_monai.cohort.storage import Place, fingerprint, place_of
from convformer_monai.cohort.worker import Outcome, do_case
from convformer_monai.engines import check_engine
from convformer_monai.errors import EXIT_FAULT, EXIT_REFUSED, InputRefused, RefusalCode, find_refusal
from convformer_monai.outputs.writer import Options

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["CohortOptions", "CohortSummary", "plan_cohort", "run_cohort"]

logger = logging.getLogger(__name__)

HELD_SECONDS = 2.0  # until a case that another run holds is tried again
LOSSES_OF_A_CASE = 2  # times that Dask gives it up
LISTED = 10  # reasons of bad cases that are said at the end


@dataclass(frozen=True)
class CohortOptions:
    """How a cohort is done.

    Attributes:
        device: see :func:`convformer_monai.segmenter.choose_device`.
        flips: see :class:`convformer_monai.segmenter.Segmenter`.
        force_modality: see there.
        network_engine: ``engine`` there.
        engine: ``local`` or ``dask``.
        scheduler: address of Dask's scheduler.
        workers: processes of this machine; ``None`` takes as many as it bears.
        shard: ``i/n``, of which only this part is done, and no tables are written.
        attempts: how often a case is started before it is given up.
        retry_failed: start those anew that an earlier run gave up.
        quiet: say nothing but errors.
    """

    device: str = "auto"
    flips: bool = False
    force_modality: bool = False
    network_engine: str = "torch"
    engine: str = "local"
    scheduler: str | None = None
    workers: int | None = None
    shard: str | None = None
    attempts: int = 2
    retry_failed: bool = False
    quiet: bool = False

    def check(self) -> None:
        """Refuses what does not go together.

        Raises:
            InputRefused: ``OPTION``.
        """
        if self.engine not in ENGINES:
            raise InputRefused(RefusalCode.OPTION, f"--engine {self.engine!r} is unknown; give local or dask")
        if (self.engine == "dask") != (self.scheduler is not None):
            raise InputRefused(RefusalCode.OPTION, "--engine dask and --scheduler ADDRESS go together; give both")
        if self.engine == "dask" and self.workers is not None:
            raise InputRefused(
                RefusalCode.OPTION, "--workers is for --engine local; those of a Dask cluster are started with it"
            )
        if self.attempts < 1 or (self.workers is not None and self.workers < 1):
            raise InputRefused(RefusalCode.OPTION, "--attempts and --workers must be 1 or more")


@dataclass
class CohortSummary:
    """How a cohort ended.

    Attributes:
        counts: cases by state, those of earlier runs included.
        before: how many of them had ended before this run.
        flagged: of those that are done, how many have a flag of doubt.
        bad: statuses of those that are not done.
        files: the tables and the page.
    """

    counts: Counter[str] = field(default_factory=Counter)
    before: int = 0
    flagged: int = 0
    bad: list[Status] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def add(self, status: Status, before: bool) -> None:
        """Counts a case."""
        self.counts[status.state] += 1
        self.before += before
        self.flagged += bool(status.flags)
        if status.state in BAD:
            self.bad.append(status)

    @property
    def exit_code(self) -> int:
        """0 if all are done, 1 if one failed by a fault of ours or is quarantined, else 2 if one was refused."""
        if self.counts[FAILED] or self.counts[QUARANTINED]:
            return EXIT_FAULT
        return EXIT_REFUSED if self.counts[REFUSED] else 0

    def to_json(self) -> dict[str, Any]:
        """Returns this as JSON types."""
        return {
            "exit_code": self.exit_code,
            "counts": {state: self.counts[state] for state in (DONE, *BAD)},
            "before": self.before,
            "flagged": self.flagged,
            "files": self.files,
        }


def plan_cohort(source: str, output: str, bundle: str, options: Options, how: CohortOptions) -> Plan:
    """Checks everything and finds what would be done.

    Args:
        source: see :func:`run_cohort`.
        output: see there.
        bundle: see there.
        options: see there.
        how: see there.

    Raises:
        InputRefused: see there.
    """
    _, plan, engine = _prepared(source, output, bundle, options, how)
    return replace(plan, at_a_time=engine.workers * engine.tasks if engine.name == "local" else 1)


def run_cohort(source: str, output: str, bundle: str, options: Options, how: CohortOptions) -> CohortSummary:
    """Segments a cohort, on this machine or a cluster.

    Cases that are done by the same bundle, weights and options are left as they are, and bad cases do not stop the
    others. Runs may share an output folder: each case is done by one of them. Stopped at any moment, the same call
    goes on.

    Args:
        source: manifest or folder; see :func:`convformer_monai.cohort.manifest.read_entries`.
        output: folder or URL.
        bundle: for the cases whose row names none; see :class:`convformer_monai.bundle.Bundle`.
        options: what to write and how.
        how: how it is done.

    Raises:
        InputRefused: if an option, the manifest, the bundle, the output or the cluster cannot be used.
        KeyboardInterrupt: if it was stopped.
    """
    job, plan, engine = _prepared(source, output, bundle, options, how)
    place = place_of(job.output)
    place.check()
    summary = CohortSummary()
    for status in plan.before:
        summary.add(status, before=True)
    if not how.quiet:
        local = engine.name == "local"
        logger.info(
            "%d case%s: %d done before, %d to do%s",
            len(plan.todo) + len(plan.before),
            "s" * (len(plan.todo) + len(plan.before) != 1),
            summary.counts[DONE],
            len(plan.todo),
            f" with {engine.workers} worker{'s' * (engine.workers != 1)}" if plan.todo and local else "",
        )
        if plan.alone:
            logger.info("the last %d one by one: runs ended while they did them", plan.alone)
    with Stop() as stop, Progress(len(plan.todo), how.quiet) as progress:
        if plan.todo:
            with opened(engine) as client:
                handout = _Handout(client, job, place, summary, progress, stop)
                together = len(plan.todo) - plan.alone
                handout.do(plan.todo[:together])
                for entry in plan.todo[together:]:
                    handout.do([entry])
    if stop.asked:
        raise KeyboardInterrupt
    if how.shard is None:
        from convformer_monai.cohort.tables import write_tables

        summary.files = write_tables(place, job, how.quiet)
    elif not how.quiet:
        logger.info("shard %s has ended; without --shard the same command writes tables and page at the end", how.shard)
    _say(summary, how.quiet)
    return summary


def _prepared(source: str, output: str, bundle: str, options: Options, how: CohortOptions) -> tuple[Job, Plan, Engine]:
    """Checks options, manifest, bundles and inputs."""
    check_packages()
    how.check()
    options.check()
    entries = read_entries(source, output)
    bundles = open_bundles(source, bundle, entries)
    for named in bundles.values():
        check_engine(how.network_engine, Bundle(named.where), how.device)
    entries = shard_of(entries, how.shard)
    engine = local_workers(how.workers, how.device) if how.engine == "local" else Engine("dask", how.scheduler)
    place = place_of(output)
    job = Job(
        run=uuid.uuid4().hex[:12],
        output=place.url,
        bundles=bundles,
        options=options,
        device=how.device,
        flips=how.flips,
        force_modality=how.force_modality,
        network_engine=how.network_engine,
        attempts=how.attempts,
        retry_failed=how.retry_failed,
        threads=engine.threads if how.engine == "local" else 0,
    )
    return job, make_plan(source, entries, job, place), engine


class _Handout:
    """Gives the cases to the workers and takes back how they ended."""

    def __init__(
        self, client: Client, job: Job, place: Place, summary: CohortSummary, progress: Progress, stop: Stop
    ) -> None:
        self.client, self.job, self.place = client, job, place
        self.summary, self.progress, self.stop = summary, progress, stop
        self.pending: deque[Entry] = deque()
        self.held: list[Entry] = []
        self.waiting = Waiting()
        self.lost: Counter[str] = Counter()

    def do(self, entries: Sequence[Entry]) -> None:
        """Does all; those that another run holds come again until it lets them go."""
        self.pending.extend(entries)
        while self.pending and not self.stop.asked:
            for entry, future in stream(self.client, functools.partial(do_case, job=self.job), self.pending, self.stop):
                self._take(entry, future)
            if self.held and not self.stop.asked:
                self.waiting.say(len(self.held))
                time.sleep(HELD_SECONDS)
            self.pending.extend(self.held)
            self.held.clear()

    def _take(self, entry: Entry, future: Future[Any]) -> None:
        if future.status != "finished":
            self._take_error(entry, future)
            return
        outcome: Outcome = future.result()
        status = outcome.status
        if status is None:
            self.held.append(entry)
        elif status.state == FAILED and status.attempts < self.job.attempts:
            self.pending.append(entry)
        else:
            self._count(status, outcome.before)

    def _take_error(self, entry: Entry, future: Future[Any]) -> None:
        """A task that did not return: nothing of this kind is the fault of the case, unless it ends its workers."""
        if future.status != "error":
            if not self.stop.asked:
                self.pending.append(entry)
            return
        error = future.exception()
        refusal = find_refusal(error)
        if refusal is not None:
            raise refusal
        if self._goes_on(entry, error):
            return
        from convformer_monai.cohort.faults import FAULT

        text = "".join(traceback.format_exception(error)) if error is not None else "cancelled"
        self.place.write(entry.case + FAULT, text)
        status = Status(
            entry.case,
            entry.path,
            FAILED,
            bundle=self.job.bundles[entry.bundle].name,
            made_by=self.job.made_by(entry, fingerprint(entry.path, self.job.output) or ""),
            code="FAULT",
            message=f"{type(error).__name__}, a fault of ours; report {entry.case}{FAULT}",
            attempts=self.job.attempts,
            run=self.job.run,
            finished=now(),
        )
        write_status(self.place, status)
        self._count(status, before=False)

    def _goes_on(self, entry: Entry, error: BaseException | None) -> bool:
        """Whether a task that Dask gave up, since its workers died, is handed out again: it need not be the cause.

        Raises:
            InputRefused: ``CLUSTER`` if workers die before they have begun any case.
        """
        from distributed.scheduler import KilledWorker

        if not isinstance(error, KilledWorker):
            return False
        status = read_status(self.place, entry.case)
        began = status is not None and status.run == self.job.run
        if not began and not self.progress.counts:
            raise InputRefused(
                RefusalCode.CLUSTER,
                "the workers die before they have begun a case, as for want of memory; give fewer --workers",
            )
        self.lost[entry.case] += 1
        if self.lost[entry.case] >= max(self.job.attempts, LOSSES_OF_A_CASE):
            return False
        self.pending.append(entry)
        return True

    def _count(self, status: Status, before: bool) -> None:
        self.summary.add(status, before)
        self.progress.ended(status.state)


def _say(summary: CohortSummary, quiet: bool) -> None:
    """Lists why cases are bad, a line a code, and says last how many ended how."""
    reasons: dict[tuple[str, str], list[Status]] = {}
    for status in summary.bad:
        reasons.setdefault((status.state, status.code), []).append(status)
    ranked = sorted(reasons.items(), key=lambda item: -len(item[1]))
    for (state, code), alike in ranked[:LISTED]:
        first = alike[0]
        logger.error("%d %s: error[%s]: %s: %s", len(alike), state, code, first.case, first.message)
    if len(ranked) > LISTED:
        logger.error("and %d more reasons, which refused.csv has", len(ranked) - LISTED)
    if quiet:
        return
    counts = summary.counts
    flagged = f" ({summary.flagged} with flags of doubt)" if summary.flagged else ""
    bad = ", ".join(f"{counts[state]} {state}" for state in BAD)
    logger.info("%d done%s, %s; %d of them before this run", counts[DONE], flagged, bad, summary.before)
    for file in summary.files:
        logger.info("wrote %s", file)
