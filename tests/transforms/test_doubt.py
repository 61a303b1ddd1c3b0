"""Numbers of doubt from scores."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from convformer_monai.transforms import NoteDoubtd


def test_the_highest_probability_and_the_volume_above_a_low_level() -> None:
    image = MetaTensor(torch.zeros(2, 10, 10, 4), affine=torch.diag(torch.tensor([2.0, 2.0, 5.0, 1.0])))
    scores = torch.zeros(4, 10, 10, 4)
    scores[1] = scores[3] = -5.0
    scores[1, :5, 0, 0] = 0.0  # five voxels of 0.5 in the first phase
    scores[3, 0, 0, 0] = 1.0  # one of 0.73 in the second
    done = NoteDoubtd("pred", level=0.4)({"image": image, "pred": scores, "evidence": {"skull_found": 1.0}})
    assert done["evidence"]["skull_found"] == 1.0
    assert done["evidence"]["highest_probability"] == pytest.approx(0.7311, abs=1e-4)
    assert done["evidence"]["low_ml"] == pytest.approx(5 * 20 / 1000)
    assert torch.equal(done["pred"], scores)


def test_wrong_level() -> None:
    with pytest.raises(ValueError, match="level"):
        NoteDoubtd("pred", level=1.0)
