"""Cleaning of label maps."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor

from convformer_monai.transforms import KeepLargestPerPhased
from convformer_monai.transforms.postprocess import keep_largest


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
