"""Walls whose thickness is known: a cylinder with a thicker lateral wall, stored in any order, and the phantom."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from result_series import centred, positions

from convformer_monai.measurements.wall_thickness import NAMES, wall_thickness
from convformer_monai.tasks.cardiac import CARDIAC

RV, MYO, LV = 1, 2, 3
SHAPE = (80, 80, 9)
INNER, THIN, THICK = 20.0, 8.0, 13.0  # mm


def stack(spacing: tuple[float, float, float] = (1.0, 1.0, 8.0)) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A cylinder along the third axis: the wall is thick in the half that looks to the patient's left.

    The right ventricle lies to the right; the three last slices are narrower, and the last has no cavity.
    """
    affine = centred(np.diag([-1.0, -1.0, 1.0]) * spacing, SHAPE)
    x, y, z = np.moveaxis(positions(affine, SHAPE), -1, 0)  # RAS mm: x to the right
    radius = np.hypot(x, y)
    inner = np.where(z < spacing[2] * 1.5, INNER, INNER - 6)
    outer = inner + np.where(x < 0, THICK, THIN)
    labels = np.zeros(SHAPE, np.uint8)
    labels[np.hypot(x - 30, y) < 18] = RV
    labels[radius < outer] = MYO
    labels[(radius < inner) & (z < spacing[2] * 3.5)] = LV
    return labels, affine


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 8.0), (1.0, 1.3, 8.0)])
def test_segments_have_the_thickness_of_their_wall(spacing: tuple[float, float, float]) -> None:
    labels, affine = stack(spacing)
    found = dict(zip(NAMES, wall_thickness(labels, affine, CARDIAC.labels), strict=True))
    assert found.pop("apex") is None
    for name, thickness in found.items():
        if "septal" in name:
            assert thickness == pytest.approx(THIN, abs=0.6), name
        elif "lateral" in name:
            assert thickness == pytest.approx(THICK, abs=0.6), name
        else:  # half of either
            assert THIN + 1 < thickness < THICK - 1, name


def test_anterior_is_where_the_chest_is() -> None:
    labels, affine = stack()
    y = positions(affine, SHAPE)[..., 1]
    radius = np.hypot(*np.moveaxis(positions(affine, SHAPE)[..., :2], -1, 0))
    labels[(y > 0) & (labels == 0) & (radius < INNER + THICK + 4)] = MYO  # RAS: y to the front
    found = dict(zip(NAMES, wall_thickness(labels, affine, CARDIAC.labels), strict=True))
    for level in ("basal", "mid-cavity", "apical"):
        assert found[f"{level} anterior"] > found[f"{level} inferior"] + 2


@pytest.mark.parametrize("order", list(permutations(range(3)))[1:])
def test_storage_order_changes_nothing(order: tuple[int, ...]) -> None:
    labels, affine = stack((1.0, 1.3, 8.0))
    expected = wall_thickness(labels, affine, CARDIAC.labels)
    flipped = labels.transpose(order)[::-1]
    turned = affine[:, [*order, 3]]
    turned[:, 3] += turned[:, 0] * (flipped.shape[0] - 1)
    turned[:, 0] *= -1
    found = wall_thickness(np.ascontiguousarray(flipped), turned, CARDIAC.labels)
    assert found[:16] == pytest.approx(expected[:16], abs=0.3)


def test_what_cannot_be_measured_is_none() -> None:
    labels, affine = stack()
    assert set(wall_thickness(labels[..., :2], affine, CARDIAC.labels)) == {None}  # two slices
    alone = np.where(labels == RV, 0, labels).astype(np.uint8)
    assert set(wall_thickness(alone, affine, CARDIAC.labels)) == {None}  # no septum
    opened = labels.copy()
    opened[:, :, :][(positions(affine, SHAPE)[..., 0] < -5) & (labels == MYO)] = 0
    found = dict(zip(NAMES, wall_thickness(opened, affine, CARDIAC.labels), strict=True))
    assert found["basal anterolateral"] is None and found["basal anteroseptal"] == pytest.approx(THIN, abs=0.6)
    assert set(wall_thickness(np.zeros_like(labels), affine, CARDIAC.labels)) == {None}
