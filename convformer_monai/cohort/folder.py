"""Many cases through one bundle: a bar, a line for each case, and no case lost because of another."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from convformer_monai.bundle import Bundle
from convformer_monai.cohort.faults import keep_fault
from convformer_monai.cohort.progress import Waiting
from convformer_monai.engines import check_engine
from convformer_monai.errors import (
    EXIT_FAULT,
    EXIT_REFUSED,
    InputRefused,
    RefusalCode,
    find_refusal,
    printable,
)
from convformer_monai.locks import hold
from convformer_monai.outputs.case import check_name, finished, folder_for, merge_measurements, process
from convformer_monai.outputs.writer import Options
from convformer_monai.readers.cases import Case, find_cases
from convformer_monai.readers.glance import glance

if TYPE_CHECKING:
    from convformer_monai.segmenter import Segmenter

__all__ = ["CaseResult", "Summary", "each_case", "log_flags", "segment_cases"]

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 2.0
WAIT_SECONDS = 2.0
VOLUMES, PHOTOGRAPHS = 2, 4  # done together: a large volume takes a gigabyte
LISTED_ALIKE = 3  # bad cases of one reason; more are counted
DONE, SKIPPED, REFUSED, FAILED = "done", "skipped", "refused", "failed"


@dataclass(frozen=True)
class CaseResult:
    """How a case ended.

    Attributes:
        case: the case.
        status: ``done``, ``skipped`` (done before), ``refused`` or ``failed`` (a fault of ours).
        message: why, where it was not done; one line.
        seconds: from its start to its end; in a folder that includes waiting for the network, which does one at a time.
        files: what was written.
        measurements: as in the case's JSON file.
        table: the measurements of a single image for people; empty in a folder of cases.
    """

    case: Case
    status: str
    message: str = ""
    seconds: float = 0.0
    files: tuple[Path, ...] = ()
    measurements: dict[str, Any] | None = None
    table: str = ""

    @property
    def flags(self) -> list[dict[str, str]]:
        """Flags of doubt, each with ``code`` and ``message``."""
        return list((self.measurements or {}).get("flags", ()))

    @property
    def reason(self) -> str:
        """Why it was not done, without the path of the case, so that equal reasons are equal."""
        text = self.message.replace(str(self.case.path), "each")
        return re.sub(rf"(?<=\]: ){re.escape(self.case.path.name)}(?= )", "each", text)

    def to_json(self) -> dict[str, Any]:
        """Returns this as JSON types."""
        return {
            "case": self.case.name,
            "input": str(self.case.path),
            "status": self.status,
            "message": self.message,
            "seconds": round(self.seconds, 2),
            "files": [str(file) for file in self.files],
            "measurements": self.measurements,
        }


@dataclass(frozen=True)
class Summary:
    """How all cases ended."""

    results: list[CaseResult] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 if all are done, 1 if one failed by a fault of ours, else 2 if one was refused."""
        statuses = {result.status for result in self.results}
        if FAILED in statuses:
            return EXIT_FAULT
        return EXIT_REFUSED if REFUSED in statuses else 0

    def to_json(self) -> dict[str, Any]:
        """Returns this as JSON types."""
        flagged = sum(bool(result.flags) for result in self.results)
        return {"exit_code": self.exit_code, "flagged": flagged, "cases": [result.to_json() for result in self.results]}


def segment_cases(
    path: Path,
    output_dir: Path,
    bundle: str | Path,
    options: Options,
    *,
    device: str = "auto",
    flips: bool = False,
    force_modality: bool = False,
    engine: str = "torch",
    quiet: bool = False,
) -> Summary:
    """Segments one image or a folder of cases, and writes the results.

    In a folder, cases whose results are complete are skipped, and a bad case does not stop the others. Several runs may
    share an output folder: each case is done by one of them, the others wait for it at their end, and the table of
    measurements is always that of the whole folder. A fault of ours leaves its traceback in ``<case>_fault.txt``; with
    ``CONVFORMER_DEBUG`` set it goes to stderr, too.

    Args:
        path: a file, a DICOM folder or a folder of cases.
        output_dir: made if missing.
        bundle: see :class:`convformer_monai.bundle.Bundle`.
        options: what to write and how.
        device: see :func:`convformer_monai.segmenter.choose_device`.
        flips: see :class:`convformer_monai.segmenter.Segmenter`.
        force_modality: see there.
        engine: see there.
        quiet: no bar, no line for a good case.

    Raises:
        InputRefused: if there is no case, or the bundle, device or output folder cannot be used.
    """
    options.check()
    opened = Bundle(bundle)
    opened.task  # noqa: B018 (unusable metadata are refused now)
    check_engine(engine, opened, device)
    cases = find_cases(path, leave_out=output_dir)
    clashes = {name for name, count in Counter(case.name for case in cases).items() if count > 1}
    folder_for(output_dir, "")
    several = len(cases) > 1 or cases[0].path != path
    if not several:
        check_name(cases[0].name, options)
        opened.check_kind(path, glance(path), force_modality)
    from convformer_monai.segmenter import Segmenter

    with _notice(f"loading the network of {opened.name}"):
        segmenter = Segmenter(opened, device, flips=flips, force_modality=force_modality, engine=engine)
    results: list[CaseResult] = []
    with _bar(len(cases), quiet or not several) as bar:
        for result in each_case(segmenter, cases, output_dir, options, several, clashes):
            results.append(result)
            _log_case(result, several, quiet)
            bar.update()
    if several:
        if any(result.status in (DONE, SKIPPED) for result in results):
            merge_measurements(output_dir)
        _log_all(results, quiet)
    return Summary(results)


def each_case(
    segmenter: Segmenter, cases: Sequence[Case], output_dir: Path, options: Options, several: bool, clashes: set[str]
) -> Iterator[CaseResult]:
    """Does each case once, held while it is done; those that another run holds come when it lets them go."""

    def do(case: Case) -> CaseResult | None:
        with hold(Path(output_dir).expanduser() / case.name) as ours:
            return _one(segmenter, case, output_dir, options, several, case.name in clashes) if ours else None

    waiting = Waiting()
    together = PHOTOGRAPHS if segmenter.bundle.is_photo else VOLUMES
    with _stoppable(segmenter) as stop:
        while cases:
            held = []
            for case, result in _in_turn(do, cases, together, stop):
                if result is None:
                    held.append(case)
                else:
                    yield result
            if len(held) == len(cases):
                waiting.say(len(held))
                time.sleep(WAIT_SECONDS)
            cases = held


class _Stopped(BaseException):
    """The run was stopped while a case was done; it is no fault of the case."""


@contextlib.contextmanager
def _stoppable(segmenter: Segmenter) -> Iterator[threading.Event]:
    """Yields what stops the network before its next batch, in whatever thread it runs."""
    stop = threading.Event()

    def check(*_: object) -> None:
        if stop.is_set():
            raise _Stopped

    hook = segmenter.network.register_forward_pre_hook(check)
    try:
        yield stop
    finally:
        hook.remove()


def _in_turn(
    do: Callable[[Case], CaseResult | None], cases: Sequence[Case], together: int, stop: threading.Event
) -> Iterator[tuple[Case, CaseResult | None]]:
    """Does the cases, some at a time, and yields them in their order.

    The network runs for one case at a time (:class:`Segmenter` sees to it): while it does, the case before is measured
    and written, and the next one read.
    """
    if len(cases) == 1:
        yield cases[0], do(cases[0])
        return
    with ThreadPoolExecutor(together, thread_name_prefix="case") as pool:
        running: deque[tuple[Case, Future[CaseResult | None]]] = deque()
        try:
            for case in cases:
                running.append((case, pool.submit(do, case)))
                if len(running) == together:
                    first, future = running.popleft()
                    yield first, future.result()
            while running:
                first, future = running.popleft()
                yield first, future.result()
        except BaseException:  # stopped by the user, or by who asked for the cases
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def _bar(count: int, hidden: bool) -> Iterator[tqdm[Case]]:
    """A bar on a terminal; elsewhere the line that each case gets is the progress."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    hidden = hidden or not sys.stderr.isatty()
    with logging_redirect_tqdm([logging.getLogger()]):
        with tqdm(total=count, unit="case", disable=hidden, file=sys.stderr, dynamic_ncols=True) as bar:
            yield bar


@contextlib.contextmanager
def _notice(text: str) -> Iterator[None]:
    """Says what is being done if it takes longer than a moment."""
    timer = threading.Timer(PATIENCE_SECONDS, logger.info, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _one(
    segmenter: Segmenter, case: Case, output_dir: Path, options: Options, several: bool, clashes: bool
) -> CaseResult:
    """Does one case, whatever happens to it."""
    start = time.perf_counter()
    try:
        if clashes:
            raise InputRefused(
                RefusalCode.EQUAL_NAMES,
                f"{case.path} and another image would both be written as {case.name}_seg; rename one",
            )
        if several and not options.overwrite:
            before = finished(case, output_dir, segmenter, options)
            if before is not None:
                return CaseResult(case, SKIPPED, "done before", measurements=before)
        if several:
            segmenter.bundle.check_kind(case.path, glance(case.path), segmenter.modality is None)
        with contextlib.nullcontext() if several else _notice(f"segmenting {case.path}"):
            files, measurements = process(segmenter, case, output_dir, options)
        seconds, table = time.perf_counter() - start, "" if several else measurements.to_text()
        return CaseResult(case, DONE, "", seconds, files, measurements.to_dict(), table)
    except Exception as error:
        if not several:
            raise
        seconds, refusal = time.perf_counter() - start, find_refusal(error)
        if refusal is not None:
            return CaseResult(case, REFUSED, str(refusal), seconds)
        return CaseResult(case, FAILED, keep_fault(error, output_dir, case), seconds)


def _log_case(result: CaseResult, several: bool, quiet: bool) -> None:
    """Says how a case ended; why one is bad is said at the end, and the flags of a single image are in its table."""
    if quiet:
        return
    if not several:
        for file in result.files:
            logger.info("wrote %s", file)
    elif result.status == DONE:
        logger.info("%s: done in %.1f s", result.case.name, result.seconds)
        log_flags(result)
    else:
        code = result.message.partition("[")[2].partition("]")[0]  # of error[CODE]: ...
        logger.info("%s: %s%s", result.case.name, result.status, f" ({code})" if code else "")


def log_flags(result: CaseResult) -> None:
    """Says the flags of doubt of a case, one line each."""
    for flag in result.flags:
        logger.warning("%s: %s", result.case.name, flag["message"])


def _log_all(results: list[CaseResult], quiet: bool) -> None:
    """Lists the bad cases, those of one reason in one line if they are many, and says last how many ended how."""
    reasons: dict[str, list[CaseResult]] = {}
    for result in results:
        if result.status in (REFUSED, FAILED):
            reasons.setdefault(result.reason, []).append(result)
    for reason, alike in reasons.items():
        lines = [f"{result.case.name}: {result.message}" for result in alike]
        if len(alike) > LISTED_ALIKE:
            lines = [f"{len(alike)} images: {reason}; the first {alike[0].case.name}"]
        for line in lines:
            sys.stderr.write(printable(line) + "\n")
    if not quiet:
        logger.info("%s", _counted(results))


def _counted(results: list[CaseResult]) -> str:
    """How many ended how, and how many of them are flagged."""
    counts = Counter(result.status for result in results)
    flagged = Counter(result.status for result in results if result.flags)
    parts = [
        f"{counts[status]} {status}" + (f", {flagged[status]} of them with flags of doubt" if flagged[status] else "")
        for status in (DONE, SKIPPED, REFUSED, FAILED)
    ]
    return ("; " if flagged else ", ").join(parts)
