"""The table of an experiment: one row a cell, as CSV and as Markdown.

A cell is compared with its reference on the seeds with which both were trained; cells that are not done yet have no
row. What the measures of attention collapse mean: :mod:`convformer_monai.analysis`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from convformer_monai.evaluation.comparison import CaseScores, PairedDifference, compare, holm, read_scores
from convformer_monai.evaluation.head_scans import HEADS
from convformer_monai.evaluation.report import table_of
from convformer_monai.evaluation.summary import LEVEL, RESAMPLES, Statistics
from convformer_monai.experiments.cells import Cell
from convformer_monai.experiments.runner import COLLAPSE, EVALUATION, Runner
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


def write_table(runner: Runner, cells: Sequence[Cell], seeds: Sequence[int]) -> str:
    """Writes ``table.csv`` and ``table.md`` of the cells that are done.

    Args:
        runner: of the experiment.
        cells: in the order of the rows.
        seeds: to show.

    Returns:
        The Markdown table; empty if no cell is done.
    """
    shown = [cell for cell in cells if _done(runner, cell, seeds)]
    if not shown:
        return ""
    rows = _rows(runner, shown, seeds)
    write_text(runner.output_dir / "table.csv", csv_of(rows), overwrite=True)
    lines = [_line(row, cell.reference == cell.name) for cell, row in zip(shown, rows, strict=True)]
    table = "\n".join(table_of([_heading(rows[0]), *lines]))
    about = f"Options: {' '.join(runner.options) or 'those of the bundle'}."
    write_text(runner.output_dir / "table.md", f"{table}\n\n{NOTE}\n\n{about}\n", overwrite=True)
    return table


def _done(runner: Runner, cell: Cell, seeds: Sequence[int]) -> list[int]:
    return [seed for seed in seeds if runner.is_done(cell, seed)]


def _scores(runner: Runner, cell: Cell, seeds: Sequence[int]) -> CaseScores:
    return read_scores([runner.folder(cell, seed) / EVALUATION / runner.scores for seed in seeds])


def _rows(runner: Runner, cells: Sequence[Cell], seeds: Sequence[int]) -> list[dict[str, Any]]:
    done = {cell.name: _done(runner, cell, seeds) for cell in cells}
    named = {cell.name: cell for cell in cells}
    differences: dict[str, PairedDifference] = {}
    for cell in cells:
        both = [seed for seed in done[cell.name] if seed in done.get(cell.reference, [])]
        if both and cell.reference != cell.name:
            reference = _scores(runner, named[cell.reference], both)
            differences[cell.name] = compare(_scores(runner, cell, both), reference)
    adjusted: dict[str, float] = {}
    for reference_name in {cell.reference for cell in cells}:
        family = [cell.name for cell in cells if cell.reference == reference_name and cell.name in differences]
        adjusted.update(holm({name: differences[name].p for name in family}))
    rows = []
    for cell in cells:
        own = done[cell.name]
        scores = _scores(runner, cell, own)
        contents = [_json(runner, cell, seed, COLLAPSE) for seed in own]
        row: dict[str, Any] = {**cell.labels, "parameters": contents[0]["parameters"], "seeds": len(own)}
        row["learning_rate"] = cell.training.get("learning_rate", "")
        row.update(_dice(scores))
        row.update(_false_positives(runner, cell, own))
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


def _false_positives(runner: Runner, cell: Cell, seeds: Sequence[int]) -> dict[str, float]:
    """Share of blood-free slices with a finding, seen alone, of bundles that are tested on such slices."""
    if not runner.by_folds:
        return {}
    found = []
    for seed in seeds:
        with open(runner.folder(cell, seed) / EVALUATION / runner.scores, encoding="utf-8", newline="") as file:
            alone = [row for row in csv.DictReader(file) if row["seen_in"] != HEADS]
            found += [int(row["findings"]) > 0 for row in alone if row["lesions"] == "0"]
    return {"false_positives": sum(found) / len(found)} if found else {}


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
