"""Agreement of two ways of measuring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convformer_monai.evaluation.agreement import bland_altman, draw_agreement


def test_limits_of_agreement() -> None:
    mean, low, high = bland_altman(np.array([0.0, 2.0]), np.array([1.0, 5.0]))
    assert mean == 2.0 and high - mean == pytest.approx(mean - low) == pytest.approx(1.96 * np.sqrt(2))


def test_picture(tmp_path: Path) -> None:
    assert draw_agreement(np.array([0.0, 2.0, 3.0]), np.array([1.0, 2.5, 3.0]), ("a", "b"), "mL", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (900, 600) and len(picture.convert("L").getcolors(256) or []) > 2
