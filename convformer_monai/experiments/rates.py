"""The learning rate of each network and family of blocks, so that no rival is crippled by one that suits another.

Of every net and family (softmax attention, ConvFormer, convolutions) the first cell is trained with each rate and the
first seed. The rate with the highest validation Dice is taken for all cells of the family, and the training that had it
counts as the cell's own; ``rates.json`` keeps what was found.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from convformer_monai.experiments.cells import Cell
from convformer_monai.experiments.runner import Runner
from convformer_monai.outputs.atomic import write_text

__all__ = ["RATES", "choose_rates", "family_of"]

logger = logging.getLogger(__name__)

RATES = "rates.json"
FAMILIES = {"vit": "attention", "reattention": "attention", "layerscale": "attention", "refiner": "attention"}
FAMILIES |= {"convformer": "convformer", "conv": "convolution", "identity": "convolution"}


def family_of(cell: Cell) -> str:
    """The net and family of blocks of a cell, whose members share a learning rate."""
    block = cell.labels.get("block", "convformer" if "alpha" in cell.labels else "")
    net = cell.labels.get("net") or cell.labels.get("network", cell.name)
    return f"{net} {FAMILIES[block]}" if block in FAMILIES else net


def choose_rates(
    runner: Runner, cells: Sequence[Cell], rates: Sequence[float], seed: int
) -> tuple[list[Cell] | None, list[str]]:
    """Finds the learning rate of each family.

    Args:
        runner: of the experiment; trains what is not trained yet.
        cells: of the experiment.
        rates: to try, at least two.
        seed: to try them with.

    Returns:
        The cells with their rates, ``None`` if a training is left for another time; and the names of those that failed.
    """
    file = runner.output_dir / RATES
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(family_of(cell), cell)
    trials = {
        family: {rate: _with_rate(cell, rate, f"{cell.name}_rate{rate:g}") for rate in rates}
        for family, cell in first.items()
        if family not in found
    }
    failed = runner.run([cell for of_family in trials.values() for cell in of_family.values()], [seed])
    for family, of_family in trials.items():
        if all(runner.is_done(cell, seed) for cell in of_family.values()):
            dice = {f"{rate:g}": runner.case_scores(cell, seed).statistics().mean for rate, cell in of_family.items()}
            found[family] = {"rate": float(max(dice, key=lambda rate: dice[rate])), "validation_dice": dice}
            rate = found[family]["rate"]
            runner.adopt(of_family[rate], first[family], seed)
            logger.info("%s: learning rate %g (validation Dice %s)", family, rate, _shown(dice))
            write_text(file, json.dumps(found, indent=2) + "\n", overwrite=True)
    if any(family not in found for family in first):
        return None, failed
    return [_with_rate(cell, found[family_of(cell)]["rate"], cell.name) for cell in cells], failed


def _with_rate(cell: Cell, rate: float, name: str) -> Cell:
    return replace(cell, name=name, training={**cell.training, "learning_rate": rate})


def _shown(dice: Mapping[str, float]) -> str:
    return ", ".join(f"{rate}: {value:.4f}" for rate, value in dice.items())
