"""The table of an experiment: one row a cell, as CSV and as Markdown.

Only seeds with which every cell was trained are compared, so that all rows rest on the same number of trainings; cells
that are not done yet have no row. What the measures of attention collapse mean: :mod:`convformer_monai.analysis`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from convformer_monai.evaluation.comparison import PairedDifference, compare, holm, read_scores
from convformer_monai.evaluation.report import table_of
from convformer_monai.evaluation.summary import LEVEL, RESAMPLES, Statistics, describe
from convformer_monai.experiments.cells import Cell
from convformer_monai.experiments.runner import COLLAPSE, EVALUATION, Runner
from convformer_monai.outputs.atomic import write_text

__all__ = ["write_table"]

NOTE = (
    f"Dice: mean over cases and seeds, with the {LEVEL:.0%} bootstrap interval over patients ({RESAMPLES} draws); "
    "difference: row minus reference, paired by case, interval likewise; p: Wilcoxon's signed ranks on the means of "
    "patients, adjusted by Holm's method over the rows of one reference."
)
LABELS = ("net", "block", "alpha", "network", "patients")
MEASURES = {  # columns of attention collapse: mean over layers
    "token_similarity": "token similarity",
    "patch_similarity": "patch similarity",
    "head_similarity": "head similarity",
}


def write_table(runner: Runner, cells: Sequence[Cell], seeds: Sequence[int]) -> str:
    """Writes ``table.csv`` and ``table.md`` of the cells that are done.

    Args:
        runner: of the experiment.
        cells: in the order of the rows.
        seeds: to show.

    Returns:
        The Markdown table; empty if no cell is done.
    """
    shown = [cell for cell in cells if runner.is_done(cell, seeds[0])]
    common = [seed for seed in seeds if all(runner.is_done(cell, seed) for cell in shown)]
    if not shown:
        return ""
    rows = _rows(runner, shown, common)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(runner.output_dir / "table.csv", text.getvalue(), overwrite=True)
    table = "\n".join(table_of([_heading(rows[0]), *(_line(row) for row in rows)]))
    about = f"Seeds {', '.join(map(str, common))}; options: {' '.join(runner.options) or 'those of the bundle'}."
    write_text(runner.output_dir / "table.md", f"{table}\n\n{NOTE}\n\n{about}\n", overwrite=True)
    return table


def _rows(runner: Runner, cells: Sequence[Cell], seeds: Sequence[int]) -> list[dict[str, Any]]:
    scores = {
        cell.name: read_scores([runner.folder(cell, seed) / EVALUATION / runner.scores for seed in seeds])
        for cell in cells
    }
    differences = {
        cell.name: compare(scores[cell.name], scores[cell.reference])
        for cell in cells
        if cell.reference in scores and cell.reference != cell.name
    }
    adjusted: dict[str, float] = {}
    for reference in {cell.reference for cell in cells}:
        family = {
            cell.name: differences[cell.name].p
            for cell in cells
            if cell.reference == reference != cell.name and cell.name in differences
        }
        adjusted.update(holm(family))
    rows = []
    for cell in cells:
        contents = [_json(runner, cell, seed, COLLAPSE) for seed in seeds]
        row: dict[str, Any] = {**cell.labels, "parameters": contents[0]["parameters"]}
        row.update(_numbers("dice", scores[cell.name].statistics()))
        row.update(_false_positives(runner, cell, seeds))
        row.update(_difference(differences.get(cell.name), adjusted.get(cell.name, math.nan)))
        layers = [layer for content in contents for layer in content["layers"]]
        for name in MEASURES:
            known = [layer[name] for layer in layers if layer.get(name) is not None]
            row[name] = sum(known) / len(known) if known else ""
        rows.append(row)
    return rows


def _json(runner: Runner, cell: Cell, seed: int, file: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((runner.folder(cell, seed) / file).read_text(encoding="utf-8"))
    return content


def _numbers(name: str, statistics: Statistics) -> dict[str, float]:
    low, high = statistics.ci95
    return {name: statistics.mean, f"{name}_ci95_low": low, f"{name}_ci95_high": high}


def _difference(difference: PairedDifference | None, p: float) -> dict[str, float]:
    return {**_numbers("difference", describe([], []) if difference is None else difference.difference), "p": p}


def _false_positives(runner: Runner, cell: Cell, seeds: Sequence[int]) -> dict[str, float]:
    """Share of blood-free slices with a finding, of bundles that are tested on such slices."""
    summaries = [_json(runner, cell, seed, f"{EVALUATION}/summary.json") for seed in seeds]
    rates = [summary["blood_free"]["rate"] for summary in summaries if "blood_free" in summary]
    return {"false_positives": sum(rates) / len(rates)} if rates else {}


def _heading(row: dict[str, Any]) -> list[str]:
    labels = [key for key in row if key in LABELS]
    rates = ["blood-free slices with a finding"] if "false_positives" in row else []
    measures = [title for name, title in MEASURES.items() if name in row]
    return [*labels, "parameters, million", "Dice [95% CI]", *rates, "difference [95% CI]", "p", *measures]


def _line(row: dict[str, Any]) -> list[str]:
    line = [row[key] for key in row if key in LABELS]
    line += [f"{row['parameters'] / 1e6:.2f}", _interval(row, "dice", "")]
    if "false_positives" in row:
        line.append(f"{row['false_positives']:.1%}")
    if math.isnan(row["difference"]):
        line += ["reference", ""]
    else:
        line += [_interval(row, "difference", "+"), "-" if math.isnan(row["p"]) else f"{row['p']:.2g}"]
    return [*line, *("-" if row[name] == "" else f"{row[name]:.2f}" for name in MEASURES)]


def _interval(row: dict[str, Any], name: str, sign: str) -> str:
    text = f"{row[name]:{sign}.3f}"
    low, high = row[f"{name}_ci95_low"], row[f"{name}_ci95_high"]
    return text if math.isnan(low) else f"{text} [{low:{sign}.3f}, {high:{sign}.3f}]"
