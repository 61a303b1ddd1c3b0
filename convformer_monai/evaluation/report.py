"""What an evaluation leaves behind: a row for each case, a summary for machines and for people, and its origins."""

from __future__ import annotations

import csv
import json
import logging
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from convformer_monai import __version__
from convformer_monai.bundle import file_sha256
from convformer_monai.datalist import datalist_path
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.evaluation.metrics import VolumeScore
from convformer_monai.evaluation.summary import (
    ALL_PHASES,
    LEVEL,
    MEAN_STRUCTURE,
    RESAMPLES,
    SEED,
    Statistics,
    SummaryRow,
    summarise,
)
from convformer_monai.measurements.values import safe_cell

__all__ = ["cell_of", "origin_of", "output_folder", "statistics_of", "table_of", "title_of", "write_report"]

logger = logging.getLogger(__name__)

CASE_COLUMNS = "case patient phase structure dice hd95_mm asd_mm predicted_ml reference_ml state".split()
SUMMARY_COLUMNS = (
    "phase structure metric volumes patients mean std median ci95_low ci95_high one_empty both_empty".split()
)
TABLE_COLUMNS = {"dice": ("Dice", 3), "hd95_mm": ("HD95, mm", 2), "asd_mm": ("ASD, mm", 2)}
PACKAGES = ("torch", "monai", "numpy", "scipy", "nibabel")
DEFINITIONS = {
    "grid": "native grid of each image, against labels as read from their files",
    "dice": "of a volume; 1 if the structure is in neither prediction nor reference, 0 if in one of them only",
    "hd95_mm": "larger of the two directed 95th percentiles of the distances between surface voxel centres, in 3-D",
    "asd_mm": "mean of these distances in both directions",
    "volume_error_ml": "predicted minus reference volume",
    "undefined distances": "if the structure is missing in prediction or reference: left out, counted in one_empty or "
    "both_empty; structure 'mean' has none for a volume in which any structure is in one of them only",
    "mean": "over volumes; structure 'mean' is first averaged over the structures of each volume",
    "std": "sample standard deviation over volumes",
    "ci95": f"{LEVEL:.0%} percentile bootstrap interval of the mean: patients drawn with replacement, each with all of "
    f"its volumes, {RESAMPLES} times, seed {SEED}; none below two patients",
}


def write_report(
    scores: Sequence[VolumeScore],
    output_dir: object,
    name: str,
    bundle_version: str,
    weights: object,
    dataset_dir: object,
    section: str,
    settings: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
    more_text: str = "",
) -> str:
    """Writes ``per_case.csv``, ``summary.json``, ``summary.csv`` and ``summary.md``.

    Numbers in the files are unrounded but for the Markdown table; undefined ones are empty in CSV, null in JSON.

    Args:
        scores: of all volumes.
        output_dir: folder to write to, made if needed.
        name: of the bundle.
        bundle_version: of the bundle.
        weights: file of the weights that were used.
        dataset_dir: as for :func:`convformer_monai.datalist.read_cases`.
        section: as there.
        settings: what else was chosen for this run, e.g. overrides and device.
        more: further results of the task, for ``summary.json``.
        more_text: the same for people, after the table.

    Returns:
        The headline and the table, for people.
    """
    folder = output_folder(output_dir)
    rows = summarise(scores)
    origin = origin_of(name, bundle_version, [weights], dataset_dir, section, settings)
    headline = _headline(rows)
    title = title_of(name, bundle_version, [weights], section)
    text = f"{headline['text']}.\n\n{_table(rows)}" + (f"\n\n{more_text}" if more_text else "")
    _write_cases(folder / "per_case.csv", scores)
    _write_summary_csv(folder / "summary.csv", rows)
    content = {"headline": headline, **origin, "definitions": DEFINITIONS, "results": _nested(rows), **(more or {})}
    text_of_json = json.dumps(content, indent=2, allow_nan=False, default=str)
    (folder / "summary.json").write_text(text_of_json + "\n", encoding="utf-8")
    (folder / "summary.md").write_text(_markdown(title, text, origin), encoding="utf-8")
    logger.info("wrote per_case.csv, summary.json, summary.csv and summary.md to %s", folder)
    return f"{title}\n{text}"


def title_of(name: str, bundle_version: str, weights: Sequence[object], section: object) -> str:
    """Returns the heading of an evaluation, which names the weights; see :func:`write_report`."""
    files = [Path(str(file)) for file in weights]
    named = (
        f"weights {files[0].parent.name}/{files[0].name}" if len(files) == 1 else f"the weights of {len(files)} folds"
    )
    return f"{name} {bundle_version}, {named}, section '{section}'"


def origin_of(
    name: str,
    bundle_version: str,
    weights: Sequence[object],
    dataset_dir: object,
    section: str,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns where the results of an evaluation come from; see :func:`write_report`."""
    datalist = datalist_path(dataset_dir)
    files = [{"file": Path(str(file)).name, "sha256": file_sha256(Path(str(file)))} for file in weights]
    return {
        "bundle": {"name": name, "version": bundle_version},
        "weights": files[0] if len(files) == 1 else files,
        "data": {"datalist": datalist.name, "sha256": file_sha256(datalist), "section": str(section)},
        "settings": dict(settings or {}),
        "versions": _versions(),
    }


def output_folder(output_dir: object) -> Path:
    """Makes the output folder.

    Raises:
        InputRefused: if that is impossible.
    """
    folder = Path(str(output_dir)).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputRefused(RefusalCode.OUTPUT_DIR, f"cannot make the folder {folder}: {error.strerror}") from error
    return folder


def _headline(rows: Sequence[SummaryRow]) -> dict[str, Any]:
    """Returns the one number: mean over volumes of the mean Dice over structures."""
    (row,) = [row for row in rows if row.phase == ALL_PHASES and row.structure == MEAN_STRUCTURE]
    names = [other.structure for other in rows if other.phase == ALL_PHASES and other.structure != MEAN_STRUCTURE]
    dice = row.metrics["dice"]
    what = f"Dice per volume averaged over {', '.join(names)}"
    interval = "" if math.isnan(dice.ci95[0]) else f" (95% CI {dice.ci95[0]:.3f} to {dice.ci95[1]:.3f})"
    counted = f"{_count(row.volumes, 'volume')} of {_count(dice.patients, 'patient')}"
    return {"text": f"{what}: {dice.mean:.4f}{interval}, {counted}", "metric": what, **statistics_of(dice)}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _table(rows: Sequence[SummaryRow]) -> str:
    """Returns the summary as a Markdown table that is aligned for reading as it is."""
    cells = [["Phase", "Structure", "Volumes"]]
    for title, _ in TABLE_COLUMNS.values():
        cells[0] += [f"{title}: mean ± SD [95% CI]", "median"]
    for row in rows:
        line = [row.phase, row.structure, str(row.volumes)]
        for metric, (_, digits) in TABLE_COLUMNS.items():
            line += _figures(row, row.metrics[metric], digits)
        cells.append(line)
    lines = table_of(cells)
    undefined = [
        f"{row.structure}: missed or invented in {row.one_empty} of {_count(row.volumes, 'volume')}, absent from "
        f"prediction and reference in {row.both_empty}; the distances are without these."
        for row in rows
        if row.phase == ALL_PHASES and row.structure != MEAN_STRUCTURE and row.one_empty + row.both_empty
    ]
    return "\n".join(lines + ([""] if undefined else []) + undefined)


def table_of(cells: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table that is aligned for reading as it is; the first row is the head."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in cells]
    lines = [f"| {' | '.join(line)} |" for line in padded]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def _figures(row: SummaryRow, statistics: Statistics, digits: int) -> list[str]:
    """Returns mean, SD and interval as one text, and the median; with the number of volumes where it is less."""
    if not statistics.volumes:
        return ["-", "-"]
    text = f"{statistics.mean:.{digits}f}"
    if not math.isnan(statistics.std):
        text += f" ± {statistics.std:.{digits}f}"
    if not math.isnan(statistics.ci95[0]):
        text += f" [{statistics.ci95[0]:.{digits}f}, {statistics.ci95[1]:.{digits}f}]"
    if statistics.volumes < row.volumes:
        text += f" (n = {statistics.volumes})"
    return [text, f"{statistics.median:.{digits}f}"]


def _write_cases(path: Path, scores: Sequence[VolumeScore]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, CASE_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for score in scores:
            for part in score.structures:
                row = {name: getattr(part if hasattr(part, name) else score, name) for name in CASE_COLUMNS}
                writer.writerow({name: cell_of(value) for name, value in row.items()})


def _write_summary_csv(path: Path, rows: Sequence[SummaryRow]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, SUMMARY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            for metric, statistics in row.metrics.items():
                line = {"phase": row.phase, "structure": row.structure, "metric": metric, **statistics_of(statistics)}
                line.update(one_empty=row.one_empty, both_empty=row.both_empty)
                writer.writerow({key: cell_of(value) for key, value in line.items()})


def _nested(rows: Sequence[SummaryRow]) -> dict[str, dict[str, Any]]:
    """Returns ``[phase][structure][metric]``, with the counts beside the metrics."""
    nested: dict[str, dict[str, Any]] = {}
    for row in rows:
        content: dict[str, Any] = {name: statistics_of(statistics) for name, statistics in row.metrics.items()}
        content.update(volumes=row.volumes, one_empty=row.one_empty, both_empty=row.both_empty)
        nested.setdefault(row.phase, {})[row.structure] = content
    return nested


def statistics_of(statistics: Statistics) -> dict[str, float | int | None]:
    """Returns the numbers by name, as JSON has them."""
    values: dict[str, float | int | None] = {"volumes": statistics.volumes, "patients": statistics.patients}
    named = {"mean": statistics.mean, "std": statistics.std, "median": statistics.median}
    named.update(ci95_low=statistics.ci95[0], ci95_high=statistics.ci95[1])
    return {**values, **{name: None if math.isnan(value) else value for name, value in named.items()}}


def cell_of(value: object) -> object:
    """What a CSV file holds for a value: nothing where it is undefined."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else safe_cell(value)


def _versions() -> dict[str, str]:
    others = {name: version(name) for name in PACKAGES}
    return {"convformer_monai": __version__, "python": platform.python_version(), **others}


def _markdown(title: str, text: str, origin: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in origin["versions"].items())
    notes = "\n".join(f"- {name}: {meaning}." for name, meaning in DEFINITIONS.items())
    weights = f"{origin['weights']['file']}, SHA-256 {origin['weights']['sha256']}"
    return f"# {title}\n\n{text}\n\n{notes}\n- weights: {weights}.\n- {versions}.\n"
