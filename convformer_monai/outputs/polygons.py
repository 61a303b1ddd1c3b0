"""Outlines of a mask of one slice as closed polygons, each in one piece: holes are reached through a keyhole.

PS3.3 C.8.8.6.3 describes the keyhole: an outer contour is connected to an inner one by a channel without width, so that
both are drawn in one line. Every program that fills polygons then leaves the hole out.

The lines run halfway between the centres of pixels inside and outside (marching squares, Lorensen and Cline, SIGGRAPH
1987), so that exactly the centres of the mask's pixels lie within.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["keyholed", "outlines"]

LEVEL = 0.5
Points = NDArray[np.float64]


def outlines(mask: NDArray[np.bool_]) -> list[Points]:
    """Traces a mask.

    Args:
        mask: (rows, columns).

    Returns:
        For each part, pixels that touch at their edges, a polygon (N, 2) of rows and columns, 0 at the centre of the
        first pixel; the last point is not the first again.
    """
    from skimage.measure import find_contours

    lines = find_contours(np.pad(mask, 1).astype(np.float32), LEVEL)  # type: ignore[no-untyped-call]
    polygons = [_without_midpoints(np.asarray(line[:-1], dtype=np.float64) - 1) for line in lines]
    outer = [one for one in polygons if _area(one) > 0]
    holes: list[list[Points]] = [[] for _ in outer]
    for hole in (one for one in polygons if _area(one) < 0):
        around = [place for place, one in enumerate(outer) if _contains(one, hole[0])]
        holes[min(around, key=lambda place: _area(outer[place]))].append(hole)
    return [keyholed(one, inside) for one, inside in zip(outer, holes, strict=True)]


def keyholed(outer: Points, holes: Sequence[Points]) -> Points:
    """Connects an outer contour with the inner ones by channels without width, at the points that are nearest.

    Args:
        outer: (N, 2).
        holes: (M, 2) each.

    Returns:
        One polygon.
    """
    line = outer
    left = list(holes)
    while left:
        distances = [np.linalg.norm(line[:, None] - hole[None], axis=-1) for hole in left]
        place = int(np.argmin([one.min() for one in distances]))  # the nearest first: its channel meets no other hole
        at, into = np.unravel_index(int(distances[place].argmin()), distances[place].shape)
        hole = np.roll(left.pop(place), -int(into), axis=0)
        line = np.concatenate([line[: at + 1], hole, hole[:1], line[at:]])
    return line


def _without_midpoints(line: Points) -> Points:
    """Leaves out the points that lie on the line between their neighbours."""
    before, after = line - np.roll(line, 1, axis=0), np.roll(line, -1, axis=0) - line
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return line[np.abs(turns) > 1e-9]


def _area(line: Points) -> float:
    """The area of a polygon; of an inner contour, which scikit-image traces the other way round, it is negative."""
    rows, columns = line.T
    twice = np.dot(columns, np.roll(rows, -1)) - np.dot(rows, np.roll(columns, -1))
    return float(twice) / 2


def _contains(line: Points, point: Points) -> bool:
    """Whether a point lies in a polygon: a ray from it crosses the line an odd number of times."""
    here, there = line, np.roll(line, -1, axis=0)
    crosses = (here[:, 0] > point[0]) != (there[:, 0] > point[0])
    here, there = here[crosses], there[crosses]
    share = (point[0] - here[:, 0]) / (there[:, 0] - here[:, 0])
    return bool(np.count_nonzero(here[:, 1] + share * (there[:, 1] - here[:, 1]) > point[1]) % 2)
