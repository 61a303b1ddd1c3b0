"""The tables of a whole output folder: measurements as CSV and Parquet, and what is not done, with the reason."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convformer_monai.cohort.outliers import picture_of
from convformer_monai.cohort.page import make_page
from convformer_monai.cohort.plan import Job
from convformer_monai.cohort.status import BAD, Status, all_statuses, now
from convformer_monai.cohort.storage import Folder, Place
from convformer_monai.locks import try_lock
from convformer_monai.measurements.values import CSV_COLUMNS, safe_cell
from convformer_monai.outputs.atomic import write_atomically
from convformer_monai.outputs.case import TABLE, merge_measurements
from convformer_monai.outputs.journal import tidy_up

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_tables"]

PARQUET, REFUSED_TABLE, PAGE = "measurements.parquet", "refused.csv", "cohort.html"
REFUSED_COLUMNS = ("case", "path", "state", "code", "message")
LOCK, WAIT_SECONDS = ".cohort/tables", 0.5
BATCH = 1000


def write_tables(place: Place, job: Job, quiet: bool) -> list[str]:
    """Writes the tables and the page of all cases of an output folder, whichever run did them.

    Of several runs that end together one writes after the other, so that the last one has all cases.

    Args:
        place: output folder.
        job: the run.
        quiet: say nothing.

    Returns:
        Where they are.
    """
    with _alone(place):
        _remove_empty_logs(place)
        statuses = sorted(all_statuses(place), key=lambda status: status.case)
        _tidy_up(place, statuses)
        table = _merged(place)
        _write_parquet(place, table)
        place.write(REFUSED_TABLE, _refused(statuses))
        bundles = list(job.bundles.values())
        place.write(
            PAGE,
            make_page(statuses, table, lambda status: picture_of(status, place, bundles), now()[:16].replace("T", " ")),
        )
        names = [TABLE, PARQUET, REFUSED_TABLE, PAGE]
    return [f"{place.url}/{name}" for name in names]


@contextlib.contextmanager
def _alone(place: Place) -> Iterator[None]:
    """Waits until no other run writes tables."""
    while True:
        with place.hold(LOCK) as ours:
            if ours:
                yield
                return
        time.sleep(WAIT_SECONDS)


def _tidy_up(place: Place, statuses: Sequence[Status]) -> None:
    """Ends what killed processes began, in every folder with results or statuses."""
    if isinstance(place, Folder):
        folders = {place.root, *((place.root / status.case).parent for status in statuses)}
        folders |= set((place.root / ".cohort" / "status").glob("*"))
        for folder in sorted(folders):
            tidy_up(folder)


def _remove_empty_logs(place: Place) -> None:
    """Processes that did not crash have left nothing in theirs; those that live, of other runs, hold theirs."""
    if isinstance(place, Folder):
        for path in (place.root / ".cohort" / "logs").glob("*.log"):
            with contextlib.suppress(OSError):
                with path.open("ab") as file:
                    if path.stat().st_size == 0 and try_lock(file):
                        path.unlink()


def _merged(place: Place) -> pd.DataFrame:
    """Writes ``measurements.csv`` and returns it, numbers as numbers."""
    import pandas as pd

    if isinstance(place, Folder):
        text = merge_measurements(place.root).read_text(encoding="utf-8")
    else:
        text = _merge_remote(place)
        place.write(TABLE, text)
    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    table["value"] = pd.to_numeric(table["value"], errors="coerce")
    table["phase"] = pd.to_numeric(table["phase"], errors="coerce").astype("Int64")
    return table


def _merge_remote(place: Place) -> str:
    """The tables of all cases that have a report, in one; as ``merge_measurements`` does it in a folder."""
    reports = {name.removesuffix("_report.json") for name in place.find("", "_report.json")}
    parts = [name for name in place.find("", f"_{TABLE}") if name.removesuffix(f"_{TABLE}") in reports]
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for start in range(0, len(parts), BATCH):
        for part in place.read_all(parts[start : start + BATCH]):
            writer.writerows(csv.DictReader(io.StringIO(part)))
    return text.getvalue()


def _write_parquet(place: Place, table: pd.DataFrame) -> None:
    import pandas as pd

    def holds(path: Path) -> bool:
        return len(pd.read_parquet(path)) == len(table)

    with place.workspace() as folder:
        write_atomically(folder / PARQUET, lambda path: table.to_parquet(path, index=False), holds, overwrite=True)


def _refused(statuses: Sequence[Status]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(REFUSED_COLUMNS)
    for status in statuses:
        if status.state in BAD:
            cells = (status.case, status.path, status.state, status.code, status.message)
            writer.writerow([safe_cell(cell) for cell in cells])
    return text.getvalue()
