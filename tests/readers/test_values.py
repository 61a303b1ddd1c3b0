"""What the values of an image tell: CT, or a mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convformer_monai.readers import read_series
from convformer_monai.readers.values import PIECE, is_grey, label_values, looks_like_ct, mask_values, pieces


def head(padding: float | None = None) -> np.ndarray:
    """A head in air, in the circle of a scanner; one phase."""
    x, y = np.meshgrid(np.arange(32) - 16, np.arange(32) - 16)
    radius = np.hypot(x, y)
    values = np.where(radius < 10, 40.0, -1000.0) + np.random.default_rng(0).normal(0, 10, (32, 32))
    if padding is not None:
        values[radius > 16] = padding
    return np.repeat(values[None, :, :, None], 3, axis=3).astype(np.float32)


@pytest.mark.parametrize("padding", [None, -1024.0, -2000.0, -3024.0])
def test_ct(padding: float | None) -> None:
    assert looks_like_ct(head(padding))


def test_no_ct() -> None:
    values = head()
    assert not looks_like_ct(values - values.min()), "shifted"
    assert not looks_like_ct(values * 4), "values of many sizes below air: a phase image"
    assert not looks_like_ct(np.clip(values, 0, 80)), "windowed"
    assert not looks_like_ct((values - values.mean()) / values.std()), "normalised"
    assert not looks_like_ct(np.full((1, 4, 4, 4), -2000.0)) and not looks_like_ct(np.zeros((1, 4, 4, 4)))
    few = np.full((1, 10, 10, 10), 40.0)
    few[0, 0, 0] = -1000.0
    assert not looks_like_ct(few), "one of a hundred"


@pytest.mark.parametrize("folder", ["ich/heads", "acdc/val"])
def test_real_images(folder: str, data_dir: Path) -> None:
    path = next(path for path in sorted((data_dir / folder).glob("*.nii.gz")) if "_gt" not in path.name)
    values = read_series(path, phase="all").image.numpy()
    assert looks_like_ct(values) == (folder == "ich/heads") and mask_values(values) == []


def test_masks() -> None:
    values = np.zeros((1, 4, 4, 4), np.float32)
    assert mask_values(values) == [], "constant: flagged elsewhere"
    values[0, 1, 1, 1:4] = 1, 2, 3
    assert mask_values(values) == [0, 1, 2, 3]
    assert mask_values(values + 1) == mask_values(values / 2) == mask_values(values * 100) == mask_values(-values) == []
    assert mask_values(values * 85) == [0, 85, 170, 255]
    assert mask_values(np.arange(10.0)) == [*range(10)] and mask_values(np.arange(11.0)) == []


def test_grey() -> None:
    pixels = np.zeros((3, 4, 4), np.uint8)
    assert is_grey(pixels)
    pixels[2, 0, 0] = 1
    assert not is_grey(pixels)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_pieces_are_all_values_without_a_copy(order: tuple[int, ...]) -> None:
    values = np.arange(PIECE + 6 * 7 * 8, dtype=np.int32)[: -(-PIECE // 48) * 48].reshape(6, 8, -1).transpose(order)
    parts = list(pieces(values))
    assert max(part.size for part in parts) <= PIECE and sum(part.size for part in parts) == values.size
    assert all(np.shares_memory(part, values) for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(values.size))


def test_label_values() -> None:
    labels = np.zeros((3, 400, 1000), np.uint8)
    labels[0, 0, 0], labels[2, 399, 999] = 255, 3
    assert label_values(labels) == [0, 3, 255]
    assert label_values(np.array([[1.0, 2.0]])) == [1, 2]


def test_a_large_image_is_judged_as_a_whole() -> None:
    """What tells lies in different pieces."""
    values = np.full((2, 1024, 1024), 40, np.float32)
    values[0, :100] = -1000
    values[1, :5] = -3000
    assert looks_like_ct(values)
    values[0, -1, -1] = -2000
    assert not looks_like_ct(values), "padding has one value"
    mask = np.zeros((2, 1024, 1024), np.float32)
    mask[1, -1, -1] = 4
    assert mask_values(mask) == [0, 4]
    mask[0, 0, 0] = 0.5
    assert mask_values(mask) == []
