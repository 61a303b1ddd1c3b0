"""Which cases a cohort has: a CSV or Parquet file, or a folder; checked whole before any work."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from convformer_monai.cohort.storage import file_system, is_url, local_path
from convformer_monai.errors import InputRefused, RefusalCode, printable
from convformer_monai.readers.cases import find_cases

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Entry", "read_entries", "refuse_problems", "shard_of"]

logger = logging.getLogger(__name__)

NEEDED, OPTIONAL = ("case", "path"), ("series_uid", "phase", "bundle")
SUFFIXES = (".csv", ".csv.gz", ".parquet")
MOMENTS = ("all", "ed", "es")
LISTED = 20


@dataclass(frozen=True)
class Entry:
    """A row of the manifest.

    Attributes:
        case: name of the results below the output folder; ``/`` separates sub-folders.
        path: of the image: a file or DICOM folder, absolute, or a URL.
        series_uid: DICOM series to take, if the row says so.
        phase: to keep, likewise.
        bundle: likewise.
        seen: end of the case's last attempt when the run looked, empty if there was none; ``None`` before it looked.
    """

    case: str
    path: str
    series_uid: str = ""
    phase: str = ""
    bundle: str = ""
    seen: str | None = field(default=None, compare=False)


def read_entries(source: str, output: str) -> list[Entry]:
    """Reads a manifest, or finds the cases of a folder.

    Args:
        source: a CSV or Parquet file, its path or URL, with the columns ``case`` and ``path`` (relative to the
            manifest's folder, absolute, or a URL) and optionally ``series_uid``, ``phase`` and ``bundle``; or a folder.
        output: folder that is left out.

    Raises:
        InputRefused: ``MANIFEST``, after a line for each of the first problems; or as
            :func:`convformer_monai.readers.cases.find_cases` does.
    """
    if not is_url(source) and local_path(source).is_dir():
        leave_out = None if is_url(output) else local_path(output)
        cases = find_cases(local_path(source), leave_out=leave_out)
        entries = [Entry(case.name, str(case.path.absolute())) for case in cases]
        refuse_problems(source, _duplicates([entry.case for entry in entries], "image"))
        return entries
    table = _table(source)
    problems = _column_problems(table)
    refuse_problems(source, problems)
    table = table.astype(object).map(_text)
    for column in OPTIONAL:
        table[column] = table[column] if column in table else ""
    refuse_problems(source, _row_problems(table))
    folder = source.rpartition("/")[0] if is_url(source) else str(local_path(source).absolute().parent)
    columns = [list(table[name]) for name in (*NEEDED, *OPTIONAL)]
    return [
        Entry(case, _absolute(path, folder), series, phase.lower(), bundle)
        for case, path, series, phase, bundle in zip(*columns, strict=True)
    ]


def refuse_problems(source: str, problems: Sequence[str]) -> None:
    """Refuses a manifest with problems, after a line for each of the first.

    Args:
        source: the manifest.
        problems: one line each.

    Raises:
        InputRefused: ``MANIFEST`` if there is one.
    """
    if not problems:
        return
    for problem in problems[:LISTED]:
        logger.error("%s", printable(problem))
    rest = f", {LISTED} of them above" if len(problems) > LISTED else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise InputRefused(RefusalCode.MANIFEST, f"{source} has {count}{rest}; correct it and start again")


def shard_of(entries: Sequence[Entry], shard: str | None) -> list[Entry]:
    """The cases of one of several runs. Which run a case belongs to depends on its name alone.

    Args:
        entries: of the whole cohort.
        shard: ``i/n``, ``i`` from 1; ``None`` for all.

    Raises:
        InputRefused: ``OPTION``.
    """
    if shard is None:
        return list(entries)
    first, _, second = shard.partition("/")
    if not (first.isascii() and first.isdigit() and second.isascii() and second.isdigit()):
        raise InputRefused(RefusalCode.OPTION, f"--shard {shard!r} is not of the form i/n; give 1/8 to 8/8, e.g.")
    index, count = int(first), int(second)
    if not 1 <= index <= count:
        raise InputRefused(RefusalCode.OPTION, f"--shard {shard}: the first number must be from 1 to {count}")
    return [entry for entry in entries if _number(entry.case) % count == index - 1]


def _number(case: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(case)).digest()[:8], "big")


def _table(source: str) -> pd.DataFrame:
    """Reads the file.

    Raises:
        InputRefused: ``MANIFEST``.
    """
    import pandas as pd

    name = source.lower()
    if not name.endswith(SUFFIXES):
        raise InputRefused(
            RefusalCode.MANIFEST, f"{source} is neither a folder nor a list of cases ({', '.join(SUFFIXES)})"
        )
    if is_url(source):
        file_system(source)  # refuses what fsspec does not know
    elif not local_path(source).is_file():
        raise InputRefused(RefusalCode.FILE_NOT_FOUND, f"{source} does not exist; give a list of cases or a folder")
    where = source if is_url(source) else local_path(source)
    try:
        if name.endswith(".parquet"):
            return pd.read_parquet(where)
        return pd.read_csv(where, dtype=str, keep_default_na=False, skipinitialspace=True)
    except Exception as error:  # pandas, pyarrow and each storage have errors of their own
        reason = " ".join(str(error).split())[:200]
        raise InputRefused(RefusalCode.MANIFEST, f"{source} cannot be read: {reason}") from error


def _text(cell: Any) -> str:
    """A cell as CSV has it: Parquet has types, and numbers with gaps may be floats there."""
    import pandas as pd

    if pd.api.types.is_scalar(cell) and pd.isna(cell):
        return ""
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()


def _column_problems(table: pd.DataFrame) -> list[str]:
    columns = [str(name) for name in table.columns]
    problems = [f"the column {name} is missing" for name in NEEDED if name not in columns]
    allowed = ", ".join((*NEEDED, *OPTIONAL))
    problems += [f"the column {name!r} is unknown: {allowed}" for name in columns if name not in NEEDED + OPTIONAL]
    return problems or ([] if len(table) else ["it has no rows"])


def _row_problems(table: pd.DataFrame) -> list[str]:
    """What is wrong with rows, numbered from 1 below the header."""
    problems: list[str] = []
    for number, (case, path, phase) in enumerate(zip(table["case"], table["path"], table["phase"], strict=True), 1):
        problems += [f"row {number}: {name} is empty" for name, cell in (("case", case), ("path", path)) if not cell]
        if case and not _can_be_named(case):
            problems.append(f"row {number}: case {case!r} cannot be the name of results below the output folder")
        if phase and phase.lower() not in MOMENTS and not (phase.isascii() and phase.isdigit()):
            problems.append(f"row {number}: phase {phase!r} must be all, ed, es or a number from 0")
    return problems + _duplicates([case for case in table["case"] if case], "row")


def _duplicates(cases: Sequence[str], what: str) -> list[str]:
    return [f"case {case!r} is that of {count} {what}s" for case, count in Counter(cases).items() if count > 1]


def _can_be_named(case: str) -> bool:
    parts = PurePosixPath(case).parts
    return (
        case.isprintable()
        and "\\" not in case
        and case == "/".join(parts)
        and not any(part.startswith(".") for part in parts)
    )


def _absolute(path: str, folder: str) -> str:
    if is_url(path):
        return path
    if is_url(folder) and not (path.startswith("/") or path.lower().startswith("file://")):
        return f"{folder}/{path}"
    return str(Path(folder) / local_path(path)) if not is_url(folder) else str(local_path(path))
