"""Cleaning of label maps."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor

from convformer_monai.transforms import KeepLargestPerPhased
from convformer_monai.transforms.postprocess import keep_largest


def scene() -> np.ndarray:
    labels = np.zeros((12, 12, 4), np.uint8)
    labels[2:6, 2:6, :3] = 1
    labels[6, 6, 3] = 1  # touches the large part at a corner: the same part
    labels[9:11, 9:11, 1] = 1
    labels[2:4, 8:10, 2] = 2
    labels[0, 0, 0] = 3
    return labels


def test_only_the_largest_part_of_each_structure_stays() -> None:
    labels = scene()
    labels[5, 10, 2] = 2
    cleaned = keep_largest(labels, (1, 2, 3))
    expected = scene()
    expected[9:11, 9:11, 1] = 0
    np.testing.assert_array_equal(cleaned, expected)


def test_structures_not_named_stay() -> None:
    labels = scene()
    np.testing.assert_array_equal(keep_largest(labels, (2,)), labels)


def test_each_phase_by_itself() -> None:
    empty, small, full = np.zeros_like(scene()), np.zeros_like(scene()), scene()
    small[9:11, 9:11, 1] = 1  # the largest part in its own phase, though not in the next
    cine = MetaTensor(torch.from_numpy(np.stack([empty, small, full])), meta={"filename_or_obj": "x"})
    cleaned = KeepLargestPerPhased("pred", structures=(1, 2, 3))({"pred": cine})["pred"]
    assert isinstance(cleaned, MetaTensor) and cleaned.dtype == torch.uint8 and cleaned.meta == cine.meta
    np.testing.assert_array_equal(cleaned.numpy()[:2], np.stack([empty, small]))
    np.testing.assert_array_equal(cleaned.numpy()[2], keep_largest(full, (1, 2, 3)))
