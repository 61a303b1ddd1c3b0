"""Polygons of masks: filled they give the mask back, and their channels cross nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from convformer_monai.outputs.polygons import outlines

MASKS = {
    "noise": np.random.default_rng(0).random((24, 30)) > 0.4,
    "dense noise": np.random.default_rng(1).random((30, 24)) > 0.15,
    "blobs": ndimage.gaussian_filter(np.random.default_rng(2).normal(size=(40, 50)), 1.5) > -0.05,
    "full": np.ones((5, 6), bool),
    "sieve": ~((np.indices((31, 31)) % 3 == 1).all(axis=0)),
    "empty": np.zeros((4, 4), bool),
}
rings = np.hypot(*(np.indices((41, 41)) - 20)).astype(int)
MASKS["rings"] = rings // 3 % 2 == 0
MASKS["one tall hole"] = np.ones((40, 40), bool)
MASKS["one tall hole"][3:37, 20] = False
# The corners of a small hole are nearest to those of a notch in the border, beyond a hole with long straight lines.
MASKS["long edges"] = np.ones((60, 12), bool)
MASKS["long edges"][29:31, 0] = MASKS["long edges"][2:58, 4] = MASKS["long edges"][28:32, 7:9] = False


def filled(polygon: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels whose centres lie in a polygon by the even-odd rule; none may lie on its line."""
    crossings = np.zeros((shape[0], shape[1] + 1), int)
    for (row, column), (next_row, next_column) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if row == next_row:
            assert row % 1  # no channel over the centres of pixels
            continue
        rows = np.arange(np.ceil(min(row, next_row)), np.ceil(max(row, next_row))).astype(int)
        columns = column + (rows - row) / (next_row - row) * (next_column - column)
        assert np.all(columns % 1)
        np.add.at(crossings, (rows, np.ceil(columns).astype(int)), 1)
    return crossings.cumsum(axis=1)[:, :-1] % 2 == 1


def true_crossings(polygon: np.ndarray) -> int:
    """Pairs of edges that cross inside of both; a channel runs twice over the same line, which is none."""
    start, end = polygon, np.roll(polygon, -1, axis=0)

    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        ab, ac = b[:, None] - a[:, None], c[None] - a[:, None]
        return np.sign(ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0])

    apart = side(start, end, start) * side(start, end, end) < 0
    return int(np.count_nonzero(apart & apart.T))


@pytest.mark.parametrize("name", MASKS)
def test_polygons_fill_the_mask(name: str) -> None:
    mask = MASKS[name]
    found = np.zeros_like(mask)
    lines = outlines(mask)
    assert len(lines) == ndimage.label(mask)[1]  # one for each part
    for line in lines:
        inside = filled(line, mask.shape)
        assert not (found & inside).any()
        found |= inside
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("name", MASKS)
def test_no_polygon_crosses_itself(name: str) -> None:
    assert [true_crossings(line) for line in outlines(MASKS[name])] == [0] * len(outlines(MASKS[name]))


def test_no_polygon_of_many_random_masks_crosses_itself() -> None:
    random = np.random.default_rng(5)
    for sigma in (0.0, 0.5, 1.0):
        for plane in random.normal(size=(20, 22, 26)):
            mask = ndimage.gaussian_filter(plane, sigma) > -0.3 / (1 + 3 * sigma)
            assert not any(true_crossings(line) for line in outlines(mask))


def test_many_holes_of_one_part() -> None:
    """Some 10,000 holes: the work grows with the pixels, or this does not end."""
    mask = np.random.default_rng(3).random((400, 400)) > 0.2
    found = np.zeros_like(mask)
    for line in outlines(mask):
        found |= filled(line, mask.shape)
    np.testing.assert_array_equal(found, mask)
