"""Figures of numbers as SVG: a volume curve, a bull's eye of 17 segments, bars by slice.

They are text that a page holds; colours of lines and letters are those of the page, by its CSS classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["bars", "bulls_eye", "volume_curve"]

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 26, 44
# Light to dark in equal steps of lightness, as ColorBrewer's sequential schemes are.
STEPS = ((237, 248, 251), (178, 226, 226), (102, 194, 164), (44, 162, 95), (0, 109, 44))
LIGHT = 0.18  # relative luminance (WCAG 2) above which black letters have more contrast than white ones
RADII = (30.0, 62.0, 96.0, 130.0)
# Segments counterclockwise from the anterior wall at the top, as Cerqueira et al. 2002 number them.
RINGS = ((13, 4, RADII[0], RADII[1]), (7, 6, RADII[1], RADII[2]), (1, 6, RADII[2], RADII[3]))
MANY_BARS = 24


def volume_curve(
    times: Sequence[float],
    volumes: Sequence[float],
    moments: Sequence[tuple[str, int]],
    *,
    unit: str,
    title: str,
    colour: tuple[int, int, int],
) -> str:
    """Draws a volume over the phases of a beat.

    Args:
        times: of the phases, ascending.
        volumes: mL, of as many.
        moments: names and indices of phases that are marked, as ``ED``.
        unit: of the times, as it stands below the axis.
        title: what it shows.
        colour: of the line, 0-255.
    """
    most = _round_up(max(*volumes, 1.0))
    first, last = times[0], times[-1] if times[-1] > times[0] else times[0] + 1

    def place(time: float, volume: float) -> tuple[float, float]:
        x = LEFT + (time - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - volume / most * (HEIGHT - TOP - BOTTOM)

    points = [place(time, volume) for time, volume in zip(times, volumes, strict=True)]
    shade = "rgb({},{},{})".format(*colour)
    parts = [_axes(most, "mL", unit)]
    for fraction in (0, 0.5, 1):
        time = first + fraction * (last - first)
        x, _ = place(time, 0)
        parts.append(f'<text class="t" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{time:.0f}</text>')
    parts.append(f'<polyline points="{_points(points)}" fill="none" stroke="{shade}" stroke-width="3"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{shade}"/>' for x, y in points]
    for name, index in moments:
        x, y = points[index]
        below = volumes[index] < max(volumes)
        words = f"{name} {volumes[index]:.0f} mL"
        anchor = "end" if x > WIDTH - 90 else "start" if x < LEFT + 60 else "middle"
        parts.append(f'<circle class="k" cx="{x:.1f}" cy="{y:.1f}" r="7" fill="none"/>')
        parts.append(
            f'<text class="b" x="{x:.1f}" y="{y + (26 if below else -14):.1f}" text-anchor="{anchor}">{words}</text>'
        )
    marked = ", ".join(f"{name} {volumes[index]:.1f} mL" for name, index in moments)
    return _svg(title, f"{title}: {marked}", parts)


def bulls_eye(segments_mm: Sequence[float | None], names: Sequence[str], title: str, most: float) -> str:
    """Draws the wall thickness of the 17 segments of the American Heart Association.

    Args:
        segments_mm: of the segments 1 to 17; ``None`` is left white and shown as a dash.
        names: of the segments.
        title: what it shows.
        most: mm that get the darkest colour.
    """
    side = 2 * RADII[-1] + 44
    middle = side / 2
    parts = []
    for begin, count, inner, outer in RINGS:
        width = 360 / count
        for place in range(count):
            angle = 90 + place * width  # counterclockwise from the right, degrees
            path = _sector(middle, middle, inner, outer, angle - width / 2, angle + width / 2)
            centre = _polar(middle, middle, (inner + outer) / 2, angle)
            number = begin + place
            parts += _segment(path, centre, segments_mm[number - 1], names[number - 1], number, most)
    circle = f'<circle cx="{middle}" cy="{middle}" r="{RADII[0]}"'
    parts += _segment(circle, (middle, middle), segments_mm[16], names[16], 17, most)
    around = (("anterior", 90.0), ("septal", 180.0), ("inferior", 270.0), ("lateral", 0.0))
    for word, angle in around:
        x, y = _polar(middle, middle, RADII[-1] + 12, angle)
        turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if angle in (0.0, 180.0) else ""
        parts.append(f'<text class="t" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle"{turn}>{word}</text>')
    measured = [f"{name} {one:.1f}" for name, one in zip(names, segments_mm, strict=True) if one is not None]
    return _svg(title, f"{title}, mm: {', '.join(measured) or 'not measured'}", parts, (side, side))


def bars(values: Sequence[tuple[int, float]], *, title: str, unit: str, colour: tuple[int, int, int]) -> str:
    """Draws a bar for each slice; a click on one is taken by the page as a wish to see that slice.

    Args:
        values: number of the slice from 1, and its value.
        title: what it shows.
        unit: of the values.
        colour: of the bars, 0-255.
    """
    most = _round_up(max([value for _, value in values], default=1.0))
    step = (WIDTH - LEFT - RIGHT) / max(len(values), 1)
    wide = min(step * 0.8, 46.0)
    parts = [_axes(most, unit, "slice")]
    every = math.ceil(len(values) / MANY_BARS)
    for place, (number, value) in enumerate(values):
        x = LEFT + place * step + (step - wide) / 2
        high = value / most * (HEIGHT - TOP - BOTTOM)
        y = HEIGHT - BOTTOM - high
        parts.append(
            f'<rect data-slice="{number - 1}" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" '
            f'fill="rgb({colour[0]},{colour[1]},{colour[2]})"><title>slice {number}: {value:.2f} {unit}</title></rect>'
        )
        if place % every == 0:
            middle = x + wide / 2
            parts.append(
                f'<text class="t" x="{middle:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{number}</text>'
            )
            parts.append(f'<text class="t" x="{middle:.1f}" y="{y - 5:.1f}" text-anchor="middle">{value:.2g}</text>')
    total = sum(value for _, value in values)
    return _svg(title, f"{title}: {len(values)} slices, {total:.1f} {unit} in all", parts)


def _axes(most: float, above: str, below: str) -> str:
    """The frame of a plot, with the numbers of its upright axis."""
    base = HEIGHT - BOTTOM
    lines = [f'<path class="a" d="M{LEFT} {TOP - 6} V{base} H{WIDTH - RIGHT}" fill="none"/>']
    for share in (0, 0.5, 1):
        y = base - share * (base - TOP)
        lines.append(f'<path class="g" d="M{LEFT} {y:.1f} H{WIDTH - RIGHT}" fill="none"/>')
        lines.append(f'<text class="t" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share * most:g}</text>')
    lines.append(f'<text class="t" x="{LEFT - 8}" y="{TOP - 12}" text-anchor="end">{escape(above)}</text>')
    lines.append(f'<text class="t" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(below)}</text>')
    return "".join(lines)


def _segment(
    shape: str, centre: tuple[float, float], value: float | None, name: str, number: int, most: float
) -> list[str]:
    """A segment with its number of millimetres."""
    share = 0.0 if value is None else min(1.0, value / most)
    shade = (255, 255, 255) if value is None else _shade(share)
    fill, ink = "rgb({},{},{})".format(*shade), "#000" if _luminance(shade) > LIGHT else "#fff"
    words = "not measured" if value is None else f"{value:.1f} mm"
    text = "\N{EN DASH}" if value is None else f"{value:.1f}"
    x, y = centre
    return [
        f'{shape} fill="{fill}" stroke="#667"><title>{number} {escape(name)}: {words}</title></{shape[1:].split()[0]}>',
        f'<text x="{x:.1f}" y="{y + 5:.1f}" text-anchor="middle" fill="{ink}" pointer-events="none">{text}</text>',
    ]


def _shade(share: float) -> tuple[int, int, int]:
    """A colour between light, at 0, and dark, at 1."""
    place = share * (len(STEPS) - 1)
    low = min(int(place), len(STEPS) - 2)
    red, green, blue = (
        round(one + (two - one) * (place - low)) for one, two in zip(STEPS[low], STEPS[low + 1], strict=True)
    )
    return red, green, blue


def _luminance(colour: tuple[int, int, int]) -> float:
    """Relative luminance of sRGB, 0 to 1 (WCAG 2)."""
    shares = (one / 255 for one in colour)
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _sector(x: float, y: float, inner: float, outer: float, begin: float, end: float) -> str:
    """A piece of a ring between two angles, degrees counterclockwise."""
    (ax, ay), (bx, by) = _polar(x, y, outer, begin), _polar(x, y, outer, end)
    (cx, cy), (dx, dy) = _polar(x, y, inner, end), _polar(x, y, inner, begin)
    return (
        f'<path d="M{ax:.1f} {ay:.1f} A{outer} {outer} 0 0 0 {bx:.1f} {by:.1f} '
        f'L{cx:.1f} {cy:.1f} A{inner} {inner} 0 0 1 {dx:.1f} {dy:.1f} Z"'
    )


def _polar(x: float, y: float, radius: float, degrees: float) -> tuple[float, float]:
    angle = math.radians(degrees)
    return x + radius * math.cos(angle), y - radius * math.sin(angle)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _round_up(value: float) -> float:
    """The next 1, 2, 4, 5 or 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value * (1 - 1e-9))


def _svg(title: str, words: str, parts: Sequence[str], size: tuple[float, float] = (WIDTH, HEIGHT)) -> str:
    wide, high = size
    return f'<svg viewBox="0 0 {wide:g} {high:g}" role="img" aria-label="{escape(words)}">{"".join(parts)}</svg>'
