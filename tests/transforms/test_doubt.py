"""Numbers of doubt from scores."""

from __future__ import annotations

import pytest
import torch

from convformer_monai.transforms import NoteDoubtd
from convformer_monai.transforms.doubt import box_around, expected_dice


def test_the_highest_probability() -> None:
    scores = torch.zeros(4, 10, 10, 4)
    scores[1] = scores[3] = -5.0
    scores[1, :5, 0, 0] = 0.0  # 0.5 in the first phase
    scores[3, 0, 0, 0] = 1.0  # 0.73 in the second
    done = NoteDoubtd("pred")({"pred": scores, "evidence": {"skull_found": 1.0}})
    assert done["evidence"]["skull_found"] == 1.0
    assert done["evidence"]["highest_probability"] == pytest.approx(0.7311, abs=1e-4)
    assert torch.equal(done["pred"], scores)


def two_classes(probabilities: torch.Tensor) -> torch.Tensor:
    """Scores (2, X, Y, Z) of which the second class has these probabilities."""
    return torch.stack([torch.zeros_like(probabilities), torch.logit(probabilities)])


def test_expected_dice_by_hand() -> None:
    probabilities = torch.full((40, 40, 3), 1e-6)
    probabilities[10:14, 10:14] = 0.8  # 48 voxels of the mask
    probabilities[20, 10:20] = 0.3  # 30 beside it
    assert expected_dice(two_classes(probabilities)) == pytest.approx(2 * 38.4 / (48 + 38.4 + 9), rel=1e-4)


def test_far_from_the_mask_nothing_counts() -> None:
    probabilities = torch.full((64, 64, 1), 1e-6)
    probabilities[10:14, 10:14] = 0.9
    near = expected_dice(two_classes(probabilities))
    probabilities[40:] = 0.4
    assert expected_dice(two_classes(probabilities)) == near
    probabilities[15] = 0.4
    assert expected_dice(two_classes(probabilities)) < near


def test_expected_dice_is_the_mean_over_structures_that_are_there() -> None:
    scores = torch.full((4, 16, 16), -20.0)
    scores[0] = 0.0
    scores[1, 2:5, 2:5] = 30.0  # sure
    scores[2, 8:11, 8:11] = 0.0001  # a toss-up with the background
    assert expected_dice(scores) == pytest.approx((1 + 2 * 0.5 / 1.5) / 2, abs=1e-3)


def test_nothing_found_promises_nothing() -> None:
    assert expected_dice(two_classes(torch.full((8, 8, 2), 0.2))) is None


def test_temperature_lowers_what_is_promised() -> None:
    probabilities = torch.full((16, 16, 40), 0.01)  # more slices than are held at a time
    probabilities[4:9, 4:9] = 0.95
    promised = [expected_dice(two_classes(probabilities), temperature) for temperature in (0.5, 1.0, 2.0)]
    assert promised[0] > promised[1] > promised[2]


def test_box() -> None:
    mask = torch.zeros(40, 30, 5, dtype=torch.bool)
    assert box_around(mask) == (slice(0, 40), slice(0, 30))
    mask[15, 3, 2] = mask[17, 8, 4] = True
    assert box_around(mask) == (slice(5, 28), slice(0, 19))
