"""What is kept of an experiment when its weights are not: CSV files of trainings, epochs, cases and layers.

``trainings.csv`` has a row for each training: network's size, learning rate, steps, last loss, best validation, and the
SHA-256 of its best weights; ``epochs.csv`` its loss by epoch; ``cases.csv`` the Dice of each case of its evaluation;
``layers.csv`` the measures of attention collapse of each layer, trained and untrained. The table and the pictures
follow from these files. A training that they hold counts as done, wherever its weights are: so an experiment goes on
from the files of another machine.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from convformer_monai.bundle import file_sha256
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.evaluation.comparison import CaseScores, read_scores
from convformer_monai.evaluation.head_scans import HEADS
from convformer_monai.experiments.cells import Cell
from convformer_monai.measurements.values import csv_of, safe_cell
from convformer_monai.outputs.atomic import write_text
from convformer_monai.training.handlers import BEST, BEST_RECORD, LOG

if TYPE_CHECKING:
    from convformer_monai.experiments.runner import Runner

__all__ = ["COLLAPSE", "EVALUATION", "Record"]

EVALUATION, COLLAPSE = "evaluation", "collapse.json"  # in the folder of a cell and seed
NEEDED = {  # columns beside the labels; written in this order, since a row in the last says that a training is done
    "epochs": ("seed", "epoch", "loss"),
    "cases": ("seed", "patient", "case", "dice"),
    "layers": ("seed", "trained", "number"),
    "trainings": ("seed", "parameters", "learning_rate", "false_positives"),
}
STEP = re.compile(r"epoch (\d+) step (\d+) loss (\S+)")
NEGATIVE = re.compile(r"-[\d.]+(e[-+]\d+)?")
DIGITS = 6
TITLES = {"block": "class"}  # of a layer; the block of the cell is one of its labels

Row = dict[str, Any]


class Record:
    """The trainings that the files of a folder hold.

    Args:
        folder: of the experiment; without files it holds none.

    Raises:
        InputRefused: ``SCORES``, if a file is none of an experiment's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, list[Row]] = {name: _read(folder / f"{name}.csv", NEEDED[name]) for name in NEEDED}
        self._taken: set[tuple[str, int]] = set()
        self._lock = Lock()

    def holds(self, cell: Cell, seed: int) -> bool:
        """Tells whether a cell was trained with a seed, at its own learning rate if it has one."""
        rate = cell.training.get("learning_rate")
        trainings = self._of("trainings", cell, [seed])
        return bool(trainings) and (rate is None or trainings[0]["learning_rate"] == str(rate))

    def parameters(self, cell: Cell) -> int:
        """Number of parameters of a cell that was trained."""
        return int(self._of("trainings", cell)[0]["parameters"])

    def scores(self, cell: Cell, seeds: Sequence[int]) -> CaseScores:
        """Dice of each case by a cell, trained with each of these seeds."""
        dice: dict[str, dict[int, float]] = defaultdict(dict)
        patients = {}
        for row in self._of("cases", cell, seeds):
            dice[row["case"]][int(row["seed"])] = float(row["dice"])
            patients[row["case"]] = row["patient"]
        if any(len(of_case) < len(seeds) for of_case in dice.values()):
            raise InputRefused(
                RefusalCode.SCORES, f"{self.folder}: {cell.name} was evaluated on other cases with another seed"
            )
        return CaseScores({case: tuple(of_case[seed] for seed in seeds) for case, of_case in dice.items()}, patients)

    def false_positives(self, cell: Cell, seeds: Sequence[int]) -> float | None:
        """Share of blood-free slices with a finding, seen alone; None of bundles that are not tested on such slices."""
        found = {int(row["seed"]): row["false_positives"] for row in self._of("trainings", cell, seeds)}
        known = [float(value) for value in found.values() if value != ""]
        return sum(known) / len(known) if known else None

    def layer_mean(self, cell: Cell, seeds: Sequence[int], measure: str) -> float | None:
        """Mean of a measure of attention collapse over the trained layers that have it; None without any."""
        layers = [row for row in self._of("layers", cell, seeds) if row["trained"] == "1" and row[measure] != ""]
        return sum(float(row[measure]) for row in layers) / len(layers) if layers else None

    def take(self, runner: Runner, cells: Sequence[Cell], seeds: Sequence[int]) -> None:
        """Adds the trainings that are done, and writes the files; rows of other trainings stay.

        Args:
            runner: of the experiment; its folders have what the files do not hold yet.
            cells: come first, in this order.
            seeds: of the trainings.
        """
        with self._lock:
            for cell in cells:
                for seed in seeds:
                    folder = runner.folder(cell, seed)
                    if (cell.name, seed) not in self._taken and (folder / COLLAPSE).is_file():
                        self._replace(cell, seed, _rows_of(runner, cell, seed, folder))
                        self._taken.add((cell.name, seed))
            labels = [_texts(cell.labels) for cell in cells]
            for name, rows in self._rows.items():
                if rows:
                    rows.sort(key=lambda row: _place(row, labels))
                    write_text(self.folder / f"{name}.csv", csv_of(rows), overwrite=True)

    def _of(self, name: str, cell: Cell, seeds: Sequence[int] | None = None) -> list[Row]:
        labels = _texts(cell.labels)
        return [
            row
            for row in self._rows[name]
            if (seeds is None or int(row["seed"]) in seeds) and all(row.get(key) == labels[key] for key in labels)
        ]

    def _replace(self, cell: Cell, seed: int, rows: Mapping[str, list[Row]]) -> None:
        for name, new in rows.items():
            old = {id(row) for row in self._of(name, cell, [seed])}
            kept = [row for row in self._rows[name] if id(row) not in old]
            self._rows[name] = [*kept, *({**_texts(cell.labels), "seed": str(seed), **_texts(row)} for row in new)]


def _read(file: Path, needed: Sequence[str]) -> list[Row]:
    if not file.is_file():
        return []
    with open(file, encoding="utf-8", newline="") as opened:
        reader = csv.DictReader(opened)
        missing, rows = set(needed) - set(reader.fieldnames or ()), list(reader)
    if missing or any(None in row or None in row.values() for row in rows):
        raise InputRefused(
            RefusalCode.SCORES,
            f"{file} is not whole, or without the columns {', '.join(needed)}; move it away, or give --output_dir",
        )
    return [{key: float(cell) if NEGATIVE.fullmatch(cell) else cell for key, cell in row.items()} for row in rows]


def _texts(row: Mapping[str, Any]) -> Row:
    """The cells as they stand in a file; negative numbers stay numbers, which no spreadsheet takes for formulas."""
    cells = {key: safe_cell(value) for key, value in row.items()}
    return {key: value if isinstance(value, float) and value < 0 else str(value) for key, value in cells.items()}


def _place(row: Row, labels: Sequence[Row]) -> tuple[int, int]:
    places = (place for place, of_cell in enumerate(labels) if all(row.get(key) == of_cell[key] for key in of_cell))
    return next(places, len(labels)), int(row["seed"])


def _rows_of(runner: Runner, cell: Cell, seed: int, folder: Path) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {name: [] for name in NEEDED}
    collapse = json.loads((folder / COLLAPSE).read_text(encoding="utf-8"))
    false_positives = _false_positives(folder / EVALUATION / runner.scores) if runner.by_folds else ""
    for stage in runner.stages:
        place = folder / stage["name"]
        steps = _losses(place / LOG)
        epochs: dict[int, list[float]] = defaultdict(list)
        for epoch, loss in steps.values():
            epochs[epoch].append(loss)
        means = {epoch: round(sum(losses) / len(losses), DIGITS) for epoch, losses in sorted(epochs.items())}
        rows["epochs"].extend({"stage": stage["name"], "epoch": epoch, "loss": loss} for epoch, loss in means.items())
        best = json.loads((place / BEST_RECORD).read_text(encoding="utf-8"))
        training = {"stage": stage["name"], "parameters": collapse["parameters"]}
        training |= {"learning_rate": cell.training.get("learning_rate", ""), "epochs": len(means), "steps": len(steps)}
        training |= {"last_loss": list(means.values())[-1] if means else "", "metric": best["metric"]}
        training |= {"best_validation": best["value"], "false_positives": false_positives}
        rows["trainings"].append({**training, "weights_sha256": file_sha256(place / BEST)})
    scores = read_scores([folder / EVALUATION / runner.scores])
    rows["cases"] = [
        {"patient": scores.patients[case], "case": case, "dice": round(dice[0], DIGITS)}
        for case, dice in scores.dice.items()
    ]
    rows["layers"] = list(_layers(collapse))
    return rows


def _losses(log: Path) -> dict[int, tuple[int, float]]:
    """Epoch and loss by step; of steps done twice, since a training was stopped, the last."""
    found = STEP.findall(log.read_text(encoding="utf-8"))
    return {int(step): (int(epoch), float(loss)) for epoch, step, loss in found}


def _false_positives(slices: Path) -> float | str:
    with open(slices, encoding="utf-8", newline="") as file:
        alone = [row for row in csv.DictReader(file) if row["seen_in"] != HEADS and row["lesions"] == "0"]
    return round(sum(int(row["findings"]) > 0 for row in alone) / len(alone), DIGITS) if alone else ""


def _layers(collapse: Mapping[str, Any]) -> Iterator[Row]:
    for state in ("untrained", "layers"):
        for number, layer in enumerate(collapse.get(state, [])):
            row = {"trained": int(state == "layers"), "number": number + 1}
            yield row | {TITLES.get(name, name): _cell(value) for name, value in layer.items()}


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return " x ".join(map(str, value))
    if isinstance(value, float):
        return round(value, DIGITS)
    return "" if value is None else value
