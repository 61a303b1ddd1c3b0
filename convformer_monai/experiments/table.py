"""The table of an experiment: one row a cell, as CSV and as Markdown.

A cell is compared with its reference on the seeds with which both were trained; cells that are not done yet have no
row. What the measures of attention collapse mean: :mod:`convformer_monai.analysis`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convformer_monai.evaluation.comparison import CaseScores, PairedDifference, compare, holm
from convformer_monai.evaluation.report import table_of
from convformer_monai.evaluation.summary import LEVEL, RESAMPLES, Statistics
from convformer_monai.experiments.cells import Cell
from convformer_monai.experiments.record import Record
from convformer_monai.measurements.values import csv_of
from convformer_monai.outputs.atomic import write_text

__all__ = ["write_table"]

NOTE = (
    f"Dice: mean over cases and seeds, with the {LEVEL:.0%} bootstrap interval over patients ({RESAMPLES} draws); "
    "SD: of the seeds' means; difference: row minus reference, mean over patients and the seeds that both have, with "
    f"the {LEVEL:.0%} interval and p of a mixed model with crossed random effects of patients and seeds (one seed: "
    "paired t-test over patients), p adjusted by Holm's method over the rows of one reference."
)
LABELS = ("net", "block", "alpha", "network", "patients")
MEASURES = {  # columns of attention collapse: mean over layers
    "token_similarity": "token similarity",
    "patch_similarity": "patch similarity",
    "head_similarity": "head similarity",
}


def write_table(record: Record, cells: Sequence[Cell], seeds: Sequence[int], options: Sequence[str] = ()) -> str:
    """Writes ``table.csv`` and ``table.md`` of the cells that are done, into the folder of the record.

    Args:
        record: of the experiment.
        cells: in the order of the rows.
        seeds: to show.
        options: of every training, for the note.

    Returns:
        The Markdown table; empty if no cell is done.
    """
    done = {cell.name: [seed for seed in seeds if record.holds(cell, seed)] for cell in cells}
    shown = [cell for cell in cells if done[cell.name]]
    if not shown:
        return ""
    rows = _rows(record, shown, done)
    write_text(record.folder / "table.csv", csv_of(rows), overwrite=True)
    lines = [_line(row, cell.reference == cell.name) for cell, row in zip(shown, rows, strict=True)]
    table = "\n".join(table_of([_heading(rows[0]), *lines]))
    about = f"Options: {' '.join(options) or 'those of the bundle'}."
    write_text(record.folder / "table.md", f"{table}\n\n{NOTE}\n\n{about}\n", overwrite=True)
    return table


def _rows(record: Record, cells: Sequence[Cell], done: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    named = {cell.name: cell for cell in cells}
    differences: dict[str, PairedDifference] = {}
    for cell in cells:
        both = [seed for seed in done[cell.name] if seed in done.get(cell.reference, [])]
        if both and cell.reference != cell.name:
            differences[cell.name] = compare(record.scores(cell, both), record.scores(named[cell.reference], both))
    adjusted: dict[str, float] = {}
    for reference_name in {cell.reference for cell in cells}:
        family = [cell.name for cell in cells if cell.reference == reference_name and cell.name in differences]
        adjusted.update(holm({name: differences[name].p for name in family}))
    rows = []
    for cell in cells:
        own = done[cell.name]
        row: dict[str, Any] = {**cell.labels, "parameters": record.parameters(cell), "seeds": len(own)}
        row["learning_rate"] = cell.training.get("learning_rate", "")
        row.update(_dice(record.scores(cell, own)))
        false_positives = record.false_positives(cell, own)
        row.update({} if false_positives is None else {"false_positives": false_positives})
        row.update(_difference(differences.get(cell.name), adjusted.get(cell.name, math.nan)))
        for name in MEASURES:
            mean = record.layer_mean(cell, own, name)
            row[name] = "" if mean is None else mean
        rows.append(row)
    return rows


def _dice(scores: CaseScores) -> dict[str, Any]:
    found: Statistics = scores.statistics()
    means = scores.of_seeds()
    low, high = found.ci95
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else ""
    return {"dice": found.mean, "dice_ci95_low": low, "dice_ci95_high": high, "dice_sd_of_seeds": spread}


def _difference(found: PairedDifference | None, p: float) -> dict[str, Any]:
    if found is None:
        return dict.fromkeys(("difference", "difference_ci95_low", "difference_ci95_high", "p", "seeds_compared"), "")
    low, high = found.ci95
    return {
        "difference": found.mean,
        "difference_ci95_low": low,
        "difference_ci95_high": high,
        "p": p,
        "seeds_compared": found.seeds,
    }


def _heading(row: dict[str, Any]) -> list[str]:
    labels = [key for key in row if key in LABELS]
    rates = ["blood-free slices with a finding"] if "false_positives" in row else []
    dice = ["Dice [95% CI]", "SD"]
    return [*labels, "parameters, million", "seeds", *dice, *rates, "difference [95% CI]", "p", *MEASURES.values()]


def _line(row: dict[str, Any], is_reference: bool) -> list[str]:
    line = [row[key] for key in row if key in LABELS]
    line += [f"{row['parameters'] / 1e6:.2f}", str(row["seeds"]), _interval(row, "dice", "")]
    line.append("-" if row["dice_sd_of_seeds"] == "" else f"{row['dice_sd_of_seeds']:.3f}")
    if "false_positives" in row:
        line.append(f"{row['false_positives']:.1%}")
    if row["difference"] == "":
        line += ["reference" if is_reference else "-", ""]
    else:
        line += [_interval(row, "difference", "+"), "-" if math.isnan(row["p"]) else f"{row['p']:.2g}"]
    return [*line, *("-" if row[name] == "" else f"{row[name]:.2f}" for name in MEASURES)]


def _interval(row: dict[str, Any], name: str, sign: str) -> str:
    text = f"{row[name]:{sign}.3f}"
    low, high = row[f"{name}_ci95_low"], row[f"{name}_ci95_high"]
    return text if math.isnan(low) else f"{text} [{low:{sign}.3f}, {high:{sign}.3f}]"
