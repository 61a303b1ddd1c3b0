"""Outlines of a mask of one slice as closed polygons, each in one piece: holes are reached through a keyhole.

PS3.3 C.8.8.6.3 describes the keyhole: an outer contour is connected to an inner one by a channel without width, so that
both are drawn in one line. Every program that fills polygons then leaves the hole out.

The lines run halfway between the centres of pixels inside and outside (marching squares, Lorensen and Cline, SIGGRAPH
1987), so that exactly the centres of the mask's pixels lie within.

A channel runs to the left from beside the leftmost point of a hole, within a row of the mask's pixels, to the first
line that it meets: the outer one, or that of a hole further left. So channels meet nothing else, and no run of pixels
has two. They keep off the centres of pixels, which would lie on the polygon's line.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["outlines"]

LEVEL = 0.5
BESIDE = 0.25  # rows from the centres of pixels to a channel
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

    padded = np.pad(mask, 1).astype(bool)
    lines = [
        np.asarray(line[:-1], dtype=np.float64)
        for line in find_contours(padded.astype(np.float32), LEVEL)  # type: ignore[no-untyped-call]
    ]
    is_hole = [_area(line) < 0 for line in lines]
    lines = [_from_leftmost(line) if hole else line for line, hole in zip(lines, is_hole, strict=True)]
    channels = _channels(padded, lines, is_hole)
    outer = [number for number, hole in enumerate(is_hole) if not hole]
    return [_without_midpoints(_in_one_line(number, lines, channels)) - 1 for number in outer]


@dataclass(frozen=True, order=True)
class _Channel:
    """Where a channel begins.

    Attributes:
        after: the line's point before it.
        hole: the number of the hole to which it leads.
        start: (1, 2).
    """

    after: int
    hole: int
    start: Points = field(compare=False)


def _from_leftmost(line: Points) -> Points:
    """Turns the line of a hole so that it begins and ends where its channel comes in."""
    line = np.roll(line, -int(line[:, 1].argmin()), axis=0)  # its leftmost point: on the row of a pixel's centre
    after, start = _below(line, 0)
    return np.concatenate([start, np.roll(line, -after - 1, axis=0), start])


def _below(line: Points, number: int) -> tuple[int, Points]:
    """A little below a point that lies on the row of a pixel's centre: the point before, and (1, 2) on the line."""
    here, there = line[number], line[(number + 1) % len(line)]
    after = number
    if there[0] < here[0]:
        there, after = line[number - 1], (number - 1) % len(line)
    return after, (here + BESIDE / (there[0] - here[0]) * (there - here))[None]


def _channels(mask: NDArray[np.bool_], lines: list[Points], is_hole: list[bool]) -> list[list[_Channel]]:
    """Finds the channels that begin at each line, in their order.

    Args:
        mask: padded.
        lines: those of holes by :func:`_from_leftmost`.
        is_hole: for each line.
    """
    outside = np.where(mask, -1, np.arange(mask.shape[1]))
    next_outside = np.maximum.accumulate(outside, axis=1)  # to the left
    line_at, point_at = np.full(mask.shape, -1), np.full(mask.shape, -1)  # on the right border of a pixel outside
    for number, line in enumerate(lines):
        rows, columns = np.floor(line).astype(int).T
        found = (line[:, 0] == rows) & ~mask[rows, columns]
        line_at[rows[found], columns[found]] = number
        point_at[rows[found], columns[found]] = np.flatnonzero(found)
    channels: list[list[_Channel]] = [[] for _ in lines]
    for number, line in enumerate(lines):
        if is_hole[number]:
            row, column = np.floor(line[0]).astype(int)
            place = row, next_outside[row, column]
            other = int(line_at[place])
            after, start = _below(lines[other], int(point_at[place]))
            channels[other].append(_Channel(after, number, start))
    return [sorted(one) for one in channels]


def _in_one_line(outer: int, lines: list[Points], channels: list[list[_Channel]]) -> Points:
    """Walks an outer line, and at each channel through it, around the hole and back.

    Args:
        outer: its number.
        lines: those of holes by :func:`_from_leftmost`.
        channels: of :func:`_channels`.
    """
    pieces: list[Points] = []
    under_way = [(outer, 0)]  # line, its channels done
    while under_way:
        number, done = under_way.pop()
        line, own = lines[number], channels[number]
        first = own[done - 1].after + 1 if done else 0
        if done:
            pieces.append(own[done - 1].start)
        if done == len(own):
            pieces.append(line[first:])
            continue
        pieces += [line[first : own[done].after + 1], own[done].start]
        under_way += [(number, done + 1), (own[done].hole, 0)]
    return np.concatenate(pieces)


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
