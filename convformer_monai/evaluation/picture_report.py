"""What an evaluation of pictures leaves behind: a row for each case, a summary for machines and for people."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from convformer_monai.evaluation.overlap import ALL, PictureScore, PictureSummary, summarise_pictures
from convformer_monai.evaluation.report import origin_of, output_folder, statistics_of, table_of, title_of
from convformer_monai.evaluation.summary import LEVEL, RESAMPLES, SEED, Statistics
from convformer_monai.measurements.values import safe_cell

__all__ = ["write_picture_report"]

logger = logging.getLogger(__name__)

THRESHOLD = 0.65  # of the Jaccard index; the ISIC challenges of 2018 and later count less as a failure
DEFINITIONS = {
    "grid": "native grid of each picture, against masks as read from their files",
    "dice": "of a picture; 1 if the structure is in neither prediction nor reference, 0 if in one of them only",
    "jaccard": "intersection over union, with the same rule",
    "ci95": f"{LEVEL:.0%} percentile bootstrap interval of the mean: patients (where unknown, pictures) drawn with "
    f"replacement, {RESAMPLES} times, seed {SEED}",
}


def write_picture_report(
    scores: Sequence[PictureScore],
    output_dir: object,
    name: str,
    bundle_version: str,
    weights: object,
    dataset_dir: object,
    section: str,
    settings: Mapping[str, Any] | None = None,
    threshold: float = THRESHOLD,
    more: Mapping[str, Any] | None = None,
    more_text: str = "",
) -> str:
    """Writes ``per_case.csv``, ``summary.json`` and ``summary.md``.

    Args:
        scores: of all pictures.
        output_dir: folder to write to, made if needed.
        name: of the bundle.
        bundle_version: of the bundle.
        weights: file of the weights that were used, or a list of them.
        dataset_dir: as for :func:`convformer_monai.datalist.read_cases`.
        section: as there.
        settings: what else was chosen for this run, e.g. overrides and device.
        threshold: pictures with a smaller Jaccard index are counted.
        more: further results for ``summary.json``.
        more_text: the same for people.

    Returns:
        The headline and the table, for people.
    """
    folder = output_folder(output_dir)
    rows = summarise_pictures(scores, threshold)
    files = weights if isinstance(weights, list | tuple) else [weights]
    origin = origin_of(name, bundle_version, files, dataset_dir, section, settings)
    title = title_of(name, bundle_version, files, section)
    text = f"{_headline(rows[-1], threshold)}\n\n{_table(rows, threshold)}" + (f"\n\n{more_text}" if more_text else "")
    with open(folder / "per_case.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(PictureScore)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: safe_cell(cell) for name, cell in asdict(score).items()} for score in scores)
    results = {row.source: _numbers(row) for row in rows}
    content = {
        **origin,
        "definitions": {**DEFINITIONS, "low": f"share of pictures with a Jaccard index below {threshold:g}"},
        "results": results,
        **(more or {}),
    }
    text_of_json = json.dumps(content, indent=2, allow_nan=False, default=str)
    (folder / "summary.json").write_text(text_of_json + "\n", encoding="utf-8")
    notes = "\n".join(f"- {key}: {meaning}." for key, meaning in DEFINITIONS.items())
    (folder / "summary.md").write_text(f"# {title}\n\n{text}\n\n{notes}\n", encoding="utf-8")
    logger.info("wrote per_case.csv, summary.json and summary.md to %s", Path(folder))
    return f"{title}\n{text}"


def _numbers(row: PictureSummary) -> dict[str, Any]:
    metrics = {name: statistics_of(getattr(row, name)) for name in ("dice", "jaccard", "low")}
    return {"pictures": row.pictures, **metrics}


def _headline(row: PictureSummary, threshold: float) -> str:
    return (
        f"Dice {_interval(row.dice, 4)}, Jaccard {_interval(row.jaccard, 4)}, means over {row.pictures} pictures; "
        f"Jaccard below {threshold:g} in {round(row.low.mean * row.pictures)} of them ({row.low.mean:.1%})."
    )


def _interval(statistics: Statistics, digits: int = 3) -> str:
    text = f"{statistics.mean:.{digits}f}"
    low, high = statistics.ci95
    return text if math.isnan(low) else f"{text} (95% CI {low:.3f} to {high:.3f})"


def _table(rows: Sequence[PictureSummary], threshold: float) -> str:
    cells = [["Source", "Pictures", "Patients", "Dice: mean [95% CI]", "median", "Jaccard: mean [95% CI]", "median"]]
    cells[0].append(f"Jaccard < {threshold:g}")
    for row in rows:
        line = [row.source if row.source != ALL else "all", str(row.pictures), str(row.dice.patients)]
        for statistics in (row.dice, row.jaccard):
            line += [_interval(statistics), f"{statistics.median:.3f}"]
        cells.append([*line, f"{row.low.mean:.1%}"])
    return "\n".join(table_of(cells))
