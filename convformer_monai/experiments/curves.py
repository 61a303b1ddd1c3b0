"""The pictures of an experiment, drawn from its CSV files; nothing is drawn where matplotlib is not installed.

``differences.png``: each row minus its reference. ``collapse.png``: how alike the attention of two patches, and the
features of two tokens, are from layer to layer. ``fraction.png``: Dice against the share of the patients.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_collapse", "draw_differences", "draw_fractions", "draw_pictures"]

SIMILARITIES = {"patch_similarity": "patch similarity", "token_similarity": "token similarity"}
DPI = 120


def draw_pictures(folder: Path) -> list[Path]:
    """Draws what the tables of an experiment hold.

    Args:
        folder: with ``table.csv`` and ``layers.csv``.

    Returns:
        The pictures; none without matplotlib.
    """
    if find_spec("matplotlib") is None:
        return []
    table, layers = _rows(folder / "table.csv"), _rows(folder / "layers.csv")
    drawn = [draw_differences(table, folder / "differences.png"), draw_collapse(layers, folder / "collapse.png")]
    if table and "patients" in table[0]:
        drawn.append(draw_fractions(table, folder / "fraction.png"))
    return [path for path in drawn if path is not None]


def draw_differences(table: Sequence[dict[str, str]], path: Path) -> Path | None:
    """Draws the difference of each row of ``table.csv`` to its reference, with its 95% interval.

    Args:
        table: rows by column.
        path: picture to write.

    Returns:
        The picture; None if no row is compared.
    """
    compared = [row for row in table if row["difference"]]
    if not compared:
        return None
    figure, (axes,) = _figure(1, (6, 1 + 0.22 * len(compared)))
    places = range(len(compared))
    centres = [float(row["difference"]) for row in compared]
    below = [centre - float(row["difference_ci95_low"]) for centre, row in zip(centres, compared, strict=True)]
    above = [float(row["difference_ci95_high"]) - centre for centre, row in zip(centres, compared, strict=True)]
    axes.errorbar(centres, places, xerr=[below, above], fmt="o", markersize=4, capsize=2)
    axes.axvline(0, color="0.5", linewidth=1)
    axes.set_yticks(places, [_name(row) for row in compared])
    axes.invert_yaxis()
    axes.set_xlabel("Dice minus that of the reference (95% interval)")
    figure.savefig(path, dpi=DPI)
    return path


def draw_collapse(layers: Sequence[dict[str, str]], path: Path) -> Path | None:
    """Draws patch and token similarity by layer, a column for each net; dashed: untrained.

    Args:
        layers: rows of ``layers.csv``, by column.
        path: picture to write.

    Returns:
        The picture; None without layers.
    """
    lines: dict[str, dict[tuple[str, bool], dict[int, list[dict[str, str]]]]] = defaultdict(dict)
    for row in layers:
        net = row.get("net") or row.get("network", "")
        name = row.get("block") or row.get("alpha") or row.get("patients") or ""
        line = lines[net].setdefault((name, row["trained"] == "1"), defaultdict(list))
        line[int(row["number"])].append(row)
    if not lines:
        return None
    figure, axes = _figure(len(lines), (max(4, 2.4 * len(lines)), 5), rows=len(SIMILARITIES))
    names = list(dict.fromkeys(name for of_net in lines.values() for name, _ in of_net))
    for column, (net, of_net) in enumerate(lines.items()):
        for place, (measure, title) in enumerate(SIMILARITIES.items()):
            one = axes[place * len(lines) + column]
            for (name, trained), by_layer in of_net.items():
                points = {
                    number: [float(row[measure]) for row in rows if row[measure]] for number, rows in by_layer.items()
                }
                known = {number: sum(values) / len(values) for number, values in points.items() if values}
                style: dict[str, Any] = {"color": f"C{names.index(name)}", "linestyle": "-" if trained else ":"}
                one.plot(list(known), list(known.values()), marker=".", label=name if trained else None, **style)
            one.set(ylim=(-0.1, 1.05), title=net if place == 0 else "", ylabel=title if column == 0 else "")
            one.set_xlabel("layer" if place else "")
            one.xaxis.get_major_locator().set_params(integer=True)
    handles = {line.get_label(): line for one in axes for line in one.get_lines()}
    shown = [name for name in names if name in handles]
    if len(names) > 1:
        columns = min(len(shown), int(figure.get_figwidth() // 1.3))
        figure.legend([handles[name] for name in shown], shown, loc="outside lower center", ncols=columns)
    figure.savefig(path, dpi=DPI)
    return path


def draw_fractions(table: Sequence[dict[str, str]], path: Path) -> Path:
    """Draws the mean Dice of each network against the share of the patients, with 95% intervals over patients.

    Args:
        table: rows of ``table.csv``, by column.
        path: picture to write.

    Returns:
        The picture.
    """
    figure, (axes,) = _figure(1, (6, 4))
    names = list(dict.fromkeys(row["network"] for row in table))
    for number, name in enumerate(names):
        chosen = [row for row in table if row["network"] == name]
        shift = 1 + 0.03 * (number - (len(names) - 1) / 2)  # so that intervals lie beside each other
        shares = [shift * float(row["patients"].rstrip("%")) for row in chosen]
        dice = [float(row["dice"]) for row in chosen]
        below = [float(row["dice"]) - float(row["dice_ci95_low"]) for row in chosen]
        above = [float(row["dice_ci95_high"]) - float(row["dice"]) for row in chosen]
        axes.errorbar(shares, dice, yerr=[below, above], marker="o", markersize=4, capsize=2, label=name)
    axes.set(xlabel="share of the training patients (%)", ylabel="Dice", xscale="log")
    axes.set_xticks(sorted({float(row["patients"].rstrip("%")) for row in table}))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=DPI)
    return path


def _figure(columns: int, size: tuple[float, float], rows: int = 1) -> tuple[Figure, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=rows > 1).flat)


def _name(row: dict[str, str]) -> str:
    return " ".join(row[key] for key in ("net", "block", "alpha", "network", "patients") if key in row)


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    with open(file, encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))
