"""Cleaning of label maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from convformer_monai.transforms import FillHolesd, KeepLargestPerPhased
from convformer_monai.transforms.postprocess import fill_holes, keep_largest


def scene() -> np.ndarray:
    """An organ of three structures that touch."""
    labels = np.zeros((12, 12, 4), np.uint8)
    labels[2:6, 2:6, :3] = 1
    labels[6, 6, 3] = 1  # touches the large part at a corner: the same part
    labels[2:4, 6:8, 2] = 2
    labels[2:4, 8, 2] = 3
    return labels


def test_an_organ_in_one_piece_is_left_alone() -> None:
    np.testing.assert_array_equal(keep_largest(scene(), (1, 2, 3)), scene())


def test_parts_away_from_the_organ_go_even_if_they_are_the_largest_of_their_structure() -> None:
    labels = scene()
    labels[9:12, 8:12, :] = 2  # 48 voxels, against 4 in the organ, which has 57
    labels[0, 0, 0] = 3
    np.testing.assert_array_equal(keep_largest(labels, (1, 2, 3)), scene())


def test_only_the_largest_part_of_each_structure_of_the_organ_stays() -> None:
    labels = scene()
    labels[4, 8, 2] = 1  # within the organ, but away from the rest of its structure
    expected = scene()
    np.testing.assert_array_equal(keep_largest(labels, (1, 2, 3)), expected)


def test_structures_not_named_stay() -> None:
    labels = scene()
    labels[0, 11, 0] = 1
    np.testing.assert_array_equal(keep_largest(labels, (2,)), labels)


def test_each_phase_by_itself() -> None:
    empty, small, full = np.zeros_like(scene()), np.zeros_like(scene()), scene()
    small[9:11, 9:11, 1] = 1  # the largest part in its own phase, though not in the next
    cine = MetaTensor(torch.from_numpy(np.stack([empty, small, full])), meta={"filename_or_obj": "x"})
    cleaned = KeepLargestPerPhased("pred", structures=(1, 2, 3))({"pred": cine})["pred"]
    assert isinstance(cleaned, MetaTensor) and cleaned.dtype == torch.uint8 and cleaned.meta == cine.meta
    np.testing.assert_array_equal(cleaned.numpy()[:2], np.stack([empty, small]))
    np.testing.assert_array_equal(cleaned.numpy()[2], keep_largest(full, (1, 2, 3)))


def test_holes_are_filled_and_bays_are_not():
    mask = np.zeros((12, 14), bool)
    mask[1:8, 1:9] = True
    mask[3, 3] = mask[5:7, 5] = False  # holes
    mask[1:4, 6] = False  # a bay
    mask[10:, 2:] = True
    mask[11, 5] = mask[10, 13] = False  # bays at the border
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))
    assert fill_holes(mask).sum() == mask.sum() + 3


@pytest.mark.parametrize("border", [(0, 4), (-1, 4), (4, 0), (4, -1)])
def test_hole_that_reaches_any_border_is_none(border):
    mask = np.ones((9, 9), bool)
    mask[border] = False
    mask[4, 4] = False
    assert (~fill_holes(mask)).sum() == 1
    assert not fill_holes(mask)[border]


def test_masks_of_photographs_keep_type_and_largest_part():
    mask = torch.zeros(1, 9, 9, dtype=torch.uint8)
    mask[0, 1:6, 1:6] = 1
    mask[0, 3, 3] = 0
    mask[0, 8, 8] = 1
    data = FillHolesd("pred")(KeepLargestPerPhased("pred", [1])({"pred": MetaTensor(mask)}))
    assert data["pred"].dtype == torch.uint8 and data["pred"].shape == (1, 9, 9)
    assert data["pred"].sum() == 25 and data["pred"][0, 3, 3] == 1
