"""``cohort.html``: one page that holds everything it shows and loads nothing."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from convformer_monai import __version__
from convformer_monai.cohort.outliers import Outlier, find_outliers, once_a_case
from convformer_monai.cohort.status import BAD, DONE, RUNNING, Status
from convformer_monai.measurements.values import UNITS_FOR_PEOPLE

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["make_page"]

HISTOGRAMS = 18
MOST_BINS = 40
OUTLIERS = 12
REASONS = 40
INK, BAR = "#010203", "#0f8b8d"  # the first is replaced by the page's own colour of text

STYLE = """
:root { color-scheme: light dark; --line: #8884; --tile: #8881; --accent: #0f8b8d; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
p.sub { margin-top: .2rem; opacity: .75; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; }
.tiles div { background: var(--tile); border-radius: 8px; padding: .6rem 1.1rem; min-width: 6rem; }
.tiles b { display: block; font-size: 1.7rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--tile); border-radius: 8px; padding: .6rem; }
figure svg, figure img { width: 100%; height: auto; display: block; border-radius: 4px; }
figcaption { font-size: .9rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; }
td, th { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; vertical-align: top; }
td { overflow-wrap: break-word; } .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


def make_page(
    statuses: Sequence[Status], table: pd.DataFrame, picture: Callable[[Status], str | None], when: str
) -> str:
    """Makes the page of an output folder.

    Args:
        statuses: of all its cases.
        table: of all measurements.
        picture: gives the data URL of a case's picture, or ``None``.
        when: time of writing, UTC.

    Returns:
        HTML. It shows names of cases and pictures of outliers, so it is as confidential as they are.
    """
    by_name = {status.case: status for status in statuses}
    outliers = find_outliers(table, OUTLIERS)
    bundles = ", ".join(sorted({status.bundle for status in statuses if status.bundle})) or "none"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Cohort</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        "<h1>Cohort</h1>",
        f'<p class="sub">{escape(bundles)}; convformer_monai {__version__}; {escape(when)} UTC. '
        "For research, not for diagnosis.</p>",
        _tiles(statuses),
        *_section("What is not done", _reasons(statuses)),
        *_section("Flags of doubt", _flags(statuses)),
        *_section("Measurements", _histograms(table)),
        *_section("Farthest from the others", _pictures(outliers, by_name, picture)),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _section(title: str, body: str) -> list[str]:
    return [f"<h2>{escape(title)}</h2>", body] if body else []


def _tiles(statuses: Sequence[Status]) -> str:
    counts = Counter(status.state for status in statuses)
    done = [status for status in statuses if status.state == DONE]
    numbers: list[tuple[str, str]] = [("cases", f"{len(statuses):,}"), ("done", f"{counts[DONE]:,}")]
    numbers += [(state, f"{counts[state]:,}") for state in (*BAD, RUNNING) if counts[state] or state in BAD]
    numbers.append(("flagged", f"{sum(bool(status.flags) for status in done):,}"))
    times = sorted(status.seconds for status in done if status.seconds)
    if times:
        numbers.append(("s a case, median", f"{times[len(times) // 2]:.1f}"))
        minutes = sum(times) / 60
        numbers.append(("hours of work", f"{minutes / 60:,.1f}") if minutes > 60 else ("min of work", f"{minutes:.1f}"))
        numbers.append(("machines", str(len({status.host for status in done}))))
    tiles = "".join(f"<div><b>{number}</b>{escape(name)}</div>" for name, number in numbers)
    return f'<div class="tiles">{tiles}</div>'


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int) -> str:
    """A table whose first columns are numbers."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if index < numbers else ''}>{escape(cell)}</{tag}>" for index, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table>"


def _reasons(statuses: Sequence[Status]) -> str:
    reasons: dict[tuple[str, str], list[Status]] = {}
    for status in statuses:
        if status.state in BAD:
            reasons.setdefault((status.state, status.code), []).append(status)
    ranked = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))[:REASONS]
    rows = [(f"{len(alike):,}", state, code, alike[0].case, alike[0].message) for (state, code), alike in ranked]
    return _rows(("cases", "state", "code", "first case", "its message"), rows, 1) if rows else ""


def _flags(statuses: Sequence[Status]) -> str:
    done = [status for status in statuses if status.state == DONE]
    counts = Counter(code for status in done for code in status.flags)
    first = {code: next(one.case for one in done if code in one.flags) for code in counts}
    rows = [
        (f"{count:,}", f"{count / len(done):.1%}", code, first[code])
        for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return _rows(("cases", "of those done", "flag", "first case"), rows, 2) if rows else ""


def _histograms(table: pd.DataFrame) -> str:
    groups = once_a_case(table)[:HISTOGRAMS]
    figures = []
    for name, rows in groups:
        values = rows["value"].to_numpy(float)
        unit = UNITS_FOR_PEOPLE.get(str(rows["unit"].iloc[0]), str(rows["unit"].iloc[0]))
        low, middle, high = (rows["value"].quantile(share) for share in (0.05, 0.5, 0.95))
        caption = f"<b>{escape(str(rows['title'].iloc[0]))}</b><br>median {_short(middle)} {escape(unit)}, "
        caption += f"5 to 95%: {_short(low)} to {_short(high)}; {len(values):,} cases"
        figures.append(f"<figure>{_histogram(values, unit, name)}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def _short(value: float) -> str:
    """A number in three digits, large ones without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _histogram(values: Any, unit: str, salt: str) -> str:
    """An SVG drawing; its ids are its own, so that many of them stand in one page."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9}
    for name in ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color"):
        settings[name] = INK
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(3.6, 1.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.hist(values, bins=min(MOST_BINS, max(1, round(2 * len(values) ** (1 / 3)))), color=BAR)  # Rice's rule
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlabel=unit, ylabel="cases")
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    text = content.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def _pictures(outliers: Sequence[Outlier], by_name: dict[str, Status], picture: Callable[[Status], str | None]) -> str:
    figures = []
    for one in outliers:
        status = by_name.get(one.case)
        image = picture(status) if status is not None else None
        shown = f'<img alt="" src="{image}">' if image else ""
        unit = escape(UNITS_FOR_PEOPLE.get(one.unit, one.unit))
        caption = (
            f"<b>{escape(one.case)}</b><br>{escape(one.title)}: {_short(one.value)} {unit}, median {_short(one.median)}"
        )
        caption += f" ({one.score:.1f} robust standard deviations)"
        if status is not None and status.flags:
            caption += f"<br>{escape(' '.join(status.flags))}"
        figures.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""
