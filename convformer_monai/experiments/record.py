"""What is kept of an experiment when its weights are not: CSV files of trainings, epochs, cases and layers.

``trainings.csv`` has a row for each training: learning rate, steps, last loss, best validation, and the SHA-256 of its
best weights; ``epochs.csv`` its loss by epoch; ``cases.csv`` the Dice of each case of its evaluation; ``layers.csv``
the measures of attention collapse of each layer, trained and untrained.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from convformer_monai.bundle import file_sha256
from convformer_monai.evaluation.comparison import read_scores
from convformer_monai.experiments.cells import Cell
from convformer_monai.experiments.runner import COLLAPSE, EVALUATION, Runner
from convformer_monai.measurements.values import csv_of
from convformer_monai.outputs.atomic import write_text
from convformer_monai.training.handlers import BEST, BEST_RECORD, LOG

__all__ = ["write_record"]

STEP = re.compile(r"epoch (\d+) step (\d+) loss (\S+)")
DIGITS = 6
TITLES = {"block": "class"}  # of a layer; the block of the cell is one of its labels


def write_record(runner: Runner, cells: Sequence[Cell], seeds: Sequence[int]) -> None:
    """Writes the four files of the trainings that are done.

    Args:
        runner: of the experiment.
        cells: in the order of the rows.
        seeds: of the trainings.
    """
    rows: dict[str, list[dict[str, Any]]] = {"trainings": [], "epochs": [], "cases": [], "layers": []}
    for cell in cells:
        for seed in seeds:
            if runner.is_done(cell, seed):
                _add(rows, {**cell.labels, "seed": seed}, runner, cell, runner.folder(cell, seed))
    for name, content in rows.items():
        if content:
            write_text(runner.output_dir / f"{name}.csv", csv_of(content), overwrite=True)


def _add(
    rows: Mapping[str, list[dict[str, Any]]], labels: Mapping[str, Any], runner: Runner, cell: Cell, folder: Path
) -> None:
    for stage in runner.stages:
        place = folder / stage["name"]
        steps = _losses(place / LOG)
        epochs: dict[int, list[float]] = defaultdict(list)
        for epoch, loss in steps.values():
            epochs[epoch].append(loss)
        means = {epoch: round(sum(losses) / len(losses), DIGITS) for epoch, losses in sorted(epochs.items())}
        rows["epochs"].extend(
            {**labels, "stage": stage["name"], "epoch": epoch, "loss": loss} for epoch, loss in means.items()
        )
        best = json.loads((place / BEST_RECORD).read_text(encoding="utf-8"))
        training = {"learning_rate": cell.training.get("learning_rate", ""), "epochs": len(means), "steps": len(steps)}
        training |= {"last_loss": list(means.values())[-1] if means else "", "metric": best["metric"]}
        training |= {"best_validation": best["value"], "weights_sha256": file_sha256(place / BEST)}
        rows["trainings"].append({**labels, "stage": stage["name"], **training})
    scores = read_scores([folder / EVALUATION / runner.scores])
    rows["cases"].extend(
        {**labels, "patient": scores.patients[case], "case": case, "dice": round(dice[0], DIGITS)}
        for case, dice in scores.dice.items()
    )
    rows["layers"].extend({**labels, **row} for row in _layers(folder / COLLAPSE))


def _losses(log: Path) -> dict[int, tuple[int, float]]:
    """Epoch and loss by step; of steps done twice, since a training was stopped, the last."""
    found = STEP.findall(log.read_text(encoding="utf-8"))
    return {int(step): (int(epoch), float(loss)) for epoch, step, loss in found}


def _layers(file: Path) -> Iterator[dict[str, Any]]:
    content = json.loads(file.read_text(encoding="utf-8"))
    for state in ("untrained", "layers"):
        for number, layer in enumerate(content.get(state, [])):
            row = {"trained": int(state == "layers"), "number": number + 1}
            yield row | {TITLES.get(name, name): _cell(value) for name, value in layer.items()}


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return " x ".join(map(str, value))
    if isinstance(value, float):
        return round(value, DIGITS)
    return "" if value is None else value
