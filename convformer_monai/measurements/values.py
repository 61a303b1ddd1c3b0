"""Numbers with their units, codes and doubts, and the JSON and CSV that hold them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from convformer_monai.tasks.task import Code, Label

__all__ = ["CSV_COLUMNS", "Flag", "Measurement", "Measurements", "csv_of", "readable", "safe_cell", "to_csv"]

SCHEMA, SCHEMA_VERSION = "convformer_monai.measurements", 1
CSV_COLUMNS = ("case", "name", "title", "value", "unit", "phase", "structure", "flags")
SIGNIFICANT_DIGITS = 7
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with what formulas begin
UNITS_FOR_PEOPLE = {"1": "", "{pixel}": "pixels", "mm2": "mm\N{SUPERSCRIPT TWO}"}


@dataclass(frozen=True)
class Measurement:
    """One number.

    Attributes:
        name: key for programs, e.g. ``lv_ef``; with phase and structure unique within a case.
        title: name for people.
        value: ``None`` if it is undefined here, e.g. the ejection fraction of an empty ventricle.
        unit: UCUM. ``{pixel}`` counts pixels, or lengths in pixels; ``1`` counts.
        code: the concept that it measures; ``None`` where PS3.16 has none that says exactly this.
        structure: index of the label that it is about.
        phase: 0-based phase of the source; ``None`` if it is of no phase, or of more than one.
    """

    name: str
    title: str
    value: float | None
    unit: str
    code: Code | None = None
    structure: int | None = None
    phase: int | None = None


@dataclass(frozen=True)
class Flag:
    """A reason to look again.

    Attributes:
        code: short upper-case identifier, stable between versions, e.g. ``MASK_EMPTY``.
        message: one line for people, without personal data.
    """

    code: str
    message: str


@dataclass(frozen=True)
class Measurements:
    """What was measured on one case.

    Attributes:
        case: name of the case.
        bundle: name of the bundle that made the mask, or of its task.
        labels: its structures.
        items: the numbers, the most important first.
        flags: doubts.
        details: how the numbers came about, ready for JSON; see the task's ``measure``.
    """

    case: str
    bundle: str
    labels: tuple[Label, ...]
    items: tuple[Measurement, ...]
    flags: tuple[Flag, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def get(self, name: str) -> Measurement | None:
        """Returns the first item of that name, or ``None``."""
        return next((item for item in self.items if item.name == name), None)

    def structure_name(self, item: Measurement) -> str | None:
        """Returns the short name of the structure that an item is about."""
        return next((label.name for label in self.labels if label.index == item.structure), None)

    def to_dict(self) -> dict[str, Any]:
        """Returns what :meth:`to_json` writes."""
        items = [
            {**asdict(item), "value": _rounded(item.value), "structure": self.structure_name(item)}
            for item in self.items
        ]
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "case": self.case,
            "bundle": self.bundle,
            "measurements": items,
            "flags": [asdict(flag) for flag in self.flags],
            "structures": [
                {"index": label.index, "name": label.name, "title": label.long_name} for label in self.labels
            ],
            "details": _rounded(self.details),
        }

    def to_json(self) -> str:
        """Returns a JSON object, numbers to seven significant digits.

        Keys: ``schema`` and ``schema_version``; ``case``; ``bundle``; ``measurements``, a list of objects, ``name``,
        ``title``, ``value`` (null if undefined), ``unit`` (UCUM), ``code`` (``scheme``, ``value``, ``meaning``, or
        null), ``structure`` (short name or null), ``phase`` (0-based, or null); ``flags``, a list of ``code`` and
        ``message``; ``structures``, the label table; ``details``.
        """
        return json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    def to_text(self) -> str:
        """Returns an aligned table for people: title, value and unit of each item, then notes and flags.

        Of measurements that are repeated for each phase beside others, only the number is given.
        """
        times = Counter(item.name for item in self.items)
        shown = [item for item in self.items if times[item.name] == 1] or list(self.items)
        several = len({item.phase for item in shown if item.phase is not None}) > 1
        table = [
            (
                f"{item.title} (phase {item.phase})" if several and item.phase is not None else item.title,
                *(readable(item).split(" ", 1) + [""])[:2],
            )
            for item in shown
        ]
        wide, narrow = (max((len(row[column]) for row in table), default=0) for column in (0, 1))
        lines = [self.case]
        lines += [f"  {title:{wide}}  {value:>{narrow}} {unit}".rstrip() for title, value, unit in table]
        if len(shown) < len(self.items):
            lines.append(f"  and {len(self.items) - len(shown)} measurements of single phases, which JSON and CSV hold")
        lines += [f"  note: {note}" for note in self.details.get("notes", ())]
        lines += [f"  {flag.code}: {flag.message}" for flag in self.flags]
        return "\n".join(lines) + "\n"

    def rows(self) -> list[dict[str, object]]:
        """Returns a row for each item, with the keys of :data:`CSV_COLUMNS`; undefined cells are empty.

        ``flags`` holds the codes of the whole case, separated by spaces.
        """
        rows, flags = [], " ".join(dict.fromkeys(flag.code for flag in self.flags))
        for item in self.items:
            cells = {
                "case": self.case,
                "name": item.name,
                "title": item.title,
                "value": _rounded(item.value),
                "unit": item.unit,
                "phase": item.phase,
                "structure": self.structure_name(item),
                "flags": flags,
            }
            rows.append({key: "" if cell is None else cell for key, cell in cells.items()})
        return rows


def to_csv(cases: Iterable[Measurements], header: bool = True) -> str:
    """Returns the CSV of one or many cases, a row for each measurement.

    Args:
        cases: in the order of the rows; of any bundles, the columns are always the same.
        header: begin with the names of the columns; leave out to append to a file that has them.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    if header:
        writer.writeheader()
    for case in cases:
        writer.writerows({key: safe_cell(cell) for key, cell in row.items()} for row in case.rows())
    return text.getvalue()


def safe_cell(value: object) -> object:
    """Returns a cell that no spreadsheet takes for a formula: such a text gets an apostrophe in front.

    Args:
        value: of the cell; numbers stay as they are.
    """
    if not isinstance(value, str):
        return value
    text = value.replace("\r", "\\r")  # which Python leaves unquoted, and spreadsheets take for the end of a row
    return f"'{text}" if value.startswith(FORMULA) else text


def csv_of(rows: Sequence[Mapping[str, object]]) -> str:
    """Returns rows of the same keys as CSV, with a header and safe cells; without rows nothing.

    Args:
        rows: cells by column.
    """
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: safe_cell(cell) for name, cell in row.items()} for row in rows)
    return text.getvalue()


def readable(item: Measurement) -> str:
    """Returns value and unit as people write them: whole counts, else one decimal or three digits, the more of them.

    Args:
        item: the measurement.
    """
    if item.value is None or not math.isfinite(item.value):
        return "undefined"
    whole = item.unit == "1" or (item.unit == "{pixel}" and item.value >= 1000)
    digits = ".0f" if whole else ".1f" if abs(item.value) >= 10 or item.value == 0 else ".3g"
    return f"{item.value:{digits}} {UNITS_FOR_PEOPLE.get(item.unit, item.unit)}".rstrip()


def _rounded(value: Any) -> Any:
    """Returns the same with floats rounded, and those that are not finite as ``None``."""
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
