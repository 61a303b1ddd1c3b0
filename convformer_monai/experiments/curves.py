"""The picture of the experiment ``fraction``: Dice against the share of the patients, a line for each network."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

__all__ = ["draw_fractions"]


def draw_fractions(table: Path, path: Path) -> bool:
    """Draws the mean Dice of each network against the share of the patients, with 95% intervals over patients.

    Args:
        table: ``table.csv`` of the experiment.
        path: picture to write.

    Returns:
        False if nothing is drawn, since matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = list(dict.fromkeys(row["network"] for row in rows))
    for number, name in enumerate(names):
        chosen = [row for row in rows if row["network"] == name]
        shift = 1 + 0.03 * (number - (len(names) - 1) / 2)  # so that intervals lie beside each other
        shares = [shift * float(row["patients"].rstrip("%")) for row in chosen]
        dice = [float(row["dice"]) for row in chosen]
        below = [float(row["dice"]) - float(row["dice_ci95_low"]) for row in chosen]
        above = [float(row["dice_ci95_high"]) - float(row["dice"]) for row in chosen]
        axes.errorbar(shares, dice, yerr=[below, above], marker="o", markersize=4, capsize=2, label=name)
    axes.set(xlabel="share of the training patients (%)", ylabel="Dice", xscale="log")
    axes.set_xticks(sorted({float(row["patients"].rstrip("%")) for row in rows}))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=120)
    return True
