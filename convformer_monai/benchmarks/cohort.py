"""What a cohort costs beside its cases: the scheduler a task, and the files that say what is done.

The cases are done by the cohort's own engine, with the network replaced by a sleep: a worker process has many threads
that sleep, so that two processes stand for hundreds.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

from convformer_monai.benchmarks.files import check_output, drawn
from convformer_monai.benchmarks.interruption import begins_anew
from convformer_monai.cohort.engines import Engine, check_packages, opened, stream
from convformer_monai.cohort.manifest import Entry
from convformer_monai.cohort.plan import BundleOf, Job, make_plan
from convformer_monai.cohort.status import DONE, Status, status_name
from convformer_monai.cohort.storage import Folder, fingerprint
from convformer_monai.cohort.tables import write_tables
from convformer_monai.cohort.worker import Outcome
from convformer_monai.measurements.values import CSV_COLUMNS, csv_of
from convformer_monai.outputs.atomic import write_text
from convformer_monai.outputs.writer import Options

__all__ = ["Scheduling", "keep_books", "run", "schedule"]

logger = logging.getLogger(__name__)

MEASUREMENTS = 8  # rows a case
OTHERS = ("_seg.nii.gz", "_seg.ctbl", "_seg.label", "_measurements.json")  # results that are not read here
MB = 1e6


@dataclass(frozen=True)
class Scheduling:
    """What handing out so many tasks took.

    Attributes:
        tasks: that were done.
        slots: at a time.
        sleep_s: length of a task.
        wall_s: from the first to the last.
        share_of_ideal: the time that the sleeps alone take on all slots, of ``wall_s``.
        scheduler_ms: processor time of scheduler and client a task.
        scheduler_mb: by which the memory of their process grew.
    """

    tasks: int
    slots: int
    sleep_s: float
    wall_s: float
    share_of_ideal: float
    scheduler_ms: float
    scheduler_mb: float


@dataclass(frozen=True)
class Books:
    """What the files of so many cases took.

    Attributes:
        tasks: cases, all of them done.
        plan_s: reading every status and looking at every input, as a resumed run does.
        tables_s: the tables and the page of the whole folder.
    """

    tasks: int
    plan_s: float
    tables_s: float


def _job(output: str) -> Job:
    bundle = BundleOf("cardiac", "benchmark", "0" * 64, "0" * 64)
    return Job("benchmark", output, {"": bundle}, Options())


def _sleep(entry: Entry, job: Job, seconds: float) -> Outcome:
    """Stands for a case: the same argument, the same answer."""
    time.sleep(seconds)
    return Outcome(Status(entry.case, entry.path, DONE, made_by=job.made_by(entry, "0-0"), attempts=1, run=job.run))


def _entries(count: int) -> list[Entry]:
    return [Entry(f"site{number % 1000:03}/case{number:06}", "/data/registry/image.nii.gz") for number in range(count)]


def schedule(counts: Sequence[int], seconds: float, workers: int, threads: int) -> list[Scheduling]:
    """Hands out sleeping tasks.

    Args:
        counts: how many, one run each.
        seconds: length of a task.
        workers: processes.
        threads: tasks at a time in each of them.
    """
    import psutil

    process, job, slots = psutil.Process(), _job("benchmark"), workers * threads
    rows = []
    with opened(Engine("local", None, workers, 1, threads)) as client:
        client.wait_for_workers(workers)
        for count in counts:
            call = functools.partial(_sleep, job=job, seconds=seconds)
            for _ in stream(client, call, deque(_entries(slots))):  # every thread is there
                pass
            cpu, memory, start = time.process_time(), process.memory_info().rss, time.perf_counter()
            done = sum(future.result().status is not None for _, future in stream(client, call, deque(_entries(count))))
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            grown = (process.memory_info().rss - memory) / MB
            ideal = count * seconds / slots
            rows.append(Scheduling(done, slots, seconds, wall, ideal / wall, cpu / count * 1000, grown))
            logger.info("%s", _line(asdict(rows[-1])))
    return rows


def keep_books(counts: Sequence[int]) -> list[Books]:
    """Plans and sums up folders of cases that are all done.

    Args:
        counts: cases, a folder each.
    """
    rows = []
    for count in counts:
        with TemporaryDirectory(prefix="convformer-benchmark-") as folder:
            place, job = Folder(Path(folder) / "out"), _job(str(Path(folder) / "out"))
            image = Path(folder) / "image.nii.gz"
            image.write_bytes(b"0")
            entries = [Entry(entry.case, str(image)) for entry in _entries(count)]
            _fill(place, job, entries)
            start = time.perf_counter()
            plan = make_plan("benchmark", entries, job, place)
            planned = time.perf_counter()
            assert not plan.todo
            write_tables(place, job, quiet=True)
            rows.append(Books(count, planned - start, time.perf_counter() - planned))
            logger.info("%s", _line(asdict(rows[-1])))
    return rows


def _fill(place: Folder, job: Job, entries: Sequence[Entry]) -> None:
    """Leaves what a run leaves: a status, a report and measurements of each case."""
    header = ",".join(CSV_COLUMNS)
    found = fingerprint(entries[0].path) or ""
    for number, entry in enumerate(entries):
        base = place.root / entry.case
        base.parent.mkdir(parents=True, exist_ok=True)
        values = [f"{entry.case},value{row},Value {row},{number % 97 + row},mL,,," for row in range(MEASUREMENTS)]
        base.with_name(f"{base.name}_measurements.csv").write_text("\n".join([header, *values, ""]))
        base.with_name(f"{base.name}_report.json").write_text("{}")
        for suffix in OTHERS:
            base.with_name(base.name + suffix).touch()
        files = tuple(base.name + suffix for suffix in (*OTHERS, "_measurements.csv"))
        made_by = job.made_by(entry, found)
        status = Status(entry.case, entry.path, DONE, made_by=made_by, files=files, seconds=1.0, run=job.run)
        path = place.root / status_name(entry.case)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(status.to_json())  # plainly: what is measured comes later


def _line(row: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
    )


@begins_anew()
def run(
    counts: Sequence[int], seconds: float, workers: int, threads: int, book_counts: Sequence[int], output: Path | None
) -> str:
    """Measures both and draws how they grow.

    Args:
        counts: tasks to hand out.
        seconds: length of a task.
        workers: processes.
        threads: tasks at a time in each.
        book_counts: cases whose files are planned and summed up.
        output: name of the files ``.csv``, ``_files.csv`` and ``.svg``, which are replaced; ``None`` writes none.

    Returns:
        Two tables.

    Raises:
        InputRefused: a package is missing, or the files cannot be written.
    """
    check_packages()
    if output is not None:
        check_output(output, ".csv", "_files.csv", ".svg")
    scheduled, books = schedule(counts, seconds, workers, threads), keep_books(book_counts)
    if output is not None:
        for rows, ending in ((scheduled, ".csv"), (books, "_files.csv")):
            write_text(output.with_name(output.name + ending), csv_of([asdict(row) for row in rows]), overwrite=True)
        _plot(scheduled, books, output.with_name(f"{output.name}.svg"))
    return _table(scheduled) + "\n" + _table(books)


def _table(rows: Sequence[Scheduling] | Sequence[Books]) -> str:
    """Rows in Markdown."""
    if not rows:
        return ""
    names = [field.name for field in fields(rows[0])]
    lines = [f"| {' | '.join(names)} |", "|" + "---:|" * len(names)]
    for row in rows:
        cells = [f"{value:.3g}" if isinstance(value, float) else f"{value:,}" for value in asdict(row).values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _plot(scheduled: Sequence[Scheduling], books: Sequence[Books], path: Path) -> None:
    """Cost a task against the number of tasks: flat lines grow linearly in all."""
    with drawn(path, "cohort", (6.5, 3), 9) as figure:
        axes = figure.add_subplot()
        lines = [
            ("scheduler and client, processor", [(row.tasks, row.scheduler_ms) for row in scheduled]),
            ("plan of a resumed run", [(row.tasks, row.plan_s / row.tasks * 1000) for row in books]),
            ("tables and page", [(row.tasks, row.tables_s / row.tasks * 1000) for row in books]),
        ]
        for label, points in lines:
            axes.plot(*zip(*points, strict=True), marker="o", label=label)
        axes.set(xscale="log", yscale="log", xlabel="cases", ylabel="ms a case")
        axes.grid(alpha=0.3)
        axes.legend()
