"""How far two ways of measuring agree.

Bland and Altman, "Statistical methods for assessing agreement between two methods of clinical measurement", Lancet
1986;327:307-310.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["bland_altman", "draw_agreement"]

NORMAL_95 = 1.96


def bland_altman(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float, float]:
    """Bias and 95% limits of agreement.

    Args:
        first: measurements by one way (N,), at least two.
        second: by the other, of the same things.

    Returns:
        Mean of ``second - first``, and the limits, 1.96 standard deviations below and above it.
    """
    difference = second - first
    mean, spread = float(difference.mean()), NORMAL_95 * float(difference.std(ddof=1))
    return mean, mean - spread, mean + spread


def draw_agreement(
    first: NDArray[np.float64], second: NDArray[np.float64], names: tuple[str, str], unit: str, path: Path
) -> bool:
    """Draws the differences against the means, with bias and limits of agreement.

    Args:
        first: as for :func:`bland_altman`.
        second: likewise.
        names: of the two ways.
        unit: of the measurements.
        path: picture to write; its ending says which kind.

    Returns:
        False if nothing is drawn, since matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.scatter((first + second) / 2, second - first, s=18, alpha=0.7)
    mean, low, high = bland_altman(first, second)
    for value, style in ((mean, "-"), (low, "--"), (high, "--")):
        axes.axhline(value, color="black", linestyle=style, linewidth=1)
        axes.annotate(f"{value:.1f}", (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set_xlabel(f"mean of {names[1]} and {names[0]}, {unit}")
    axes.set_ylabel(f"{names[1]} minus {names[0]}, {unit}")
    figure.savefig(path, dpi=150)
    return True
