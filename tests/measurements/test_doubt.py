"""Doubts of slices whose probabilities are known."""

import numpy as np
import pytest

from convformer_monai.measurements.doubt import slice_doubt


def test_doubts_of_known_slices() -> None:
    labels = np.zeros((1, 4, 4, 4), np.uint8)
    labels[0, :2, :, :3] = 2
    likely = np.zeros((1, 4, 4, 4), np.uint8)
    likely[0, :2, :, 0] = 255  # sure
    likely[0, :, :, 1] = 128  # as probable within as without: p m = 4, p = 8, m = 8
    ((sure, even, missed, empty),) = slice_doubt(labels, likely)
    assert sure == 0 and missed == 1 and empty is None
    assert even == pytest.approx(0.5, abs=0.01)


def test_slices_along_another_axis_and_several_phases() -> None:
    labels = np.zeros((2, 3, 4, 4), np.uint8)
    labels[1, 1] = 1
    found = slice_doubt(labels, labels * np.uint8(255), axis=0)
    assert found == ((None, None, None), (None, 0.0, None))


def test_shapes_that_differ() -> None:
    with pytest.raises(ValueError, match="shape of labels"):
        slice_doubt(np.zeros((1, 2, 2, 2), np.uint8), np.zeros((1, 2, 2, 3), np.uint8))


def test_what_is_far_or_improbable_does_not_count() -> None:
    labels = np.zeros((1, 40, 40, 3), np.uint8)
    labels[0, 3:7, 3:7, 0] = 1
    likely = 255 * labels
    likely[0, 20:, :, :2] = 100  # far from the mask of the first slice, and all there is in the second
    likely[0, 30, 30, 2] = 128
    assert slice_doubt(labels, likely) == ((0.0, None, 1.0),)
