"""The flag of doubt: disagreement by hand, thresholds, and both evaluations of a bundle with a known network."""

from __future__ import annotations

import numpy as np
import pytest

from convformer_monai.errors import find_refusal
from convformer_monai.evaluation.doubt import DoubtfulCase, as_text, disagreement_of, report_doubt, summarise_doubt


def test_disagreement() -> None:
    plain, averaged = np.zeros((2, 10), np.uint8)
    assert disagreement_of(plain, averaged) == 0
    plain[:4], averaged[2:6] = 1, 1
    assert disagreement_of(plain, averaged) == pytest.approx(0.5)
    averaged[2:6] = 2  # another structure at the same place
    assert disagreement_of(plain, averaged) == 1


def cases(count: int = 20) -> list[DoubtfulCase]:
    """The more doubt, the lower the Dice."""
    return [DoubtfulCase(f"c{n}", f"p{n // 2}", n / 100, 1 - n / 50) for n in range(count)]


def test_a_tenth_is_flagged() -> None:
    summary = summarise_doubt(cases())
    assert 0.17 < summary["threshold"] < 0.18 and summary["spearman"] == pytest.approx(-1)
    assert (summary["flagged"]["volumes"], summary["others"]["volumes"]) == (2, 18)
    assert summary["flagged"]["mean"] == pytest.approx(1 - 18.5 / 50)
    assert "2 cases of   1 patients: Dice 0.630" in as_text(summary)


def test_nothing_is_flagged() -> None:
    summary = summarise_doubt(cases(), threshold=0.5)
    assert summary["flagged"] is None and summary["others"]["volumes"] == 20
    assert "flagged  " not in as_text(summary)


def test_missing_data_is_refused(tmp_path) -> None:
    with pytest.raises(Exception) as caught:
        report_doubt("cardiac", tmp_path, tmp_path / "out")
    refusal = find_refusal(caught.value)
    assert refusal is not None and refusal.code == "DATALIST_MISSING"
