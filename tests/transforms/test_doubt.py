"""Numbers of doubt from scores."""

from __future__ import annotations

import pytest
import torch

from convformer_monai.transforms import NoteDoubtd


def test_the_highest_probability() -> None:
    scores = torch.zeros(4, 10, 10, 4)
    scores[1] = scores[3] = -5.0
    scores[1, :5, 0, 0] = 0.0  # 0.5 in the first phase
    scores[3, 0, 0, 0] = 1.0  # 0.73 in the second
    done = NoteDoubtd("pred")({"pred": scores, "evidence": {"skull_found": 1.0}})
    assert done["evidence"]["skull_found"] == 1.0
    assert done["evidence"]["highest_probability"] == pytest.approx(0.7311, abs=1e-4)
    assert torch.equal(done["pred"], scores)
