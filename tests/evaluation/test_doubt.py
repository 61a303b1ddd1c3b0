"""Measures of doubt: curves by hand, and the report of a shipped bundle on generated hearts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from nifti_files import save

from convformer_monai.cli import main
from convformer_monai.errors import find_refusal
from convformer_monai.evaluation import doubt
from convformer_monai.evaluation.calibration import VoxelSample
from convformer_monai.evaluation.doubt import (
    MEASURES,
    DoubtfulCase,
    area_under_risk,
    report_doubt,
    summarise_doubt,
)
from convformer_monai.phantoms.cardiac import cardiac_phantom


def cases(count: int = 20) -> list[DoubtfulCase]:
    """The more doubt of flips, the lower the Dice; the expected Dice tells nothing."""
    return [DoubtfulCase(f"c{n}", f"p{n // 2}", 1 - n / 50, 0.1 * (n % 2), 0.1, n % 3, n / 100) for n in range(count)]


def test_area_under_the_curve_by_hand() -> None:
    assert area_under_risk([0.1, 0.2, 0.3], [1.0, 0.5, 0.2]) == pytest.approx((0 + 0.25 + 1.3 / 3) / 3)
    assert area_under_risk([0.3, 0.2, 0.1], [1.0, 0.5, 0.2]) == pytest.approx((0.8 + 0.65 + 1.3 / 3) / 3)


def test_the_order_of_cases_with_equal_doubt_does_not_count() -> None:
    assert area_under_risk([0.0] * 4, [1, 1, 0, 0]) == area_under_risk([0.0] * 4, [0, 0, 1, 1]) == 0.5
    first = area_under_risk([0.2, 0.1, 0.2, 0.1], [1.0, 0.8, 0.4, 0.6])
    assert first == area_under_risk([0.1, 0.2, 0.1, 0.2], [0.6, 0.4, 0.8, 1.0])
    assert first == pytest.approx((0.3 + 0.3 + 0.9 / 3 + 1.2 / 4) / 4)


def test_a_tenth_is_flagged() -> None:
    summary = summarise_doubt(cases(), "flips")
    assert 0.17 < summary["threshold"] < 0.18 and summary["spearman"] == pytest.approx(-1)
    assert (summary["flagged"]["volumes"], summary["others"]["volumes"]) == (2, 18)
    assert summary["flagged"]["mean"] == pytest.approx(1 - 18.5 / 50)
    assert summary["area"] < summarise_doubt(cases(), "expected_dice")["area"]


def test_nothing_is_flagged_where_all_are_alike() -> None:
    summary = summarise_doubt(cases(), "expected_dice_uncalibrated")
    assert summary["flagged"] is None and summary["others"]["volumes"] == 20
    assert (summary["spearman"], summary["spearman_p"]) == (0, 1)


def test_missing_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:
        report_doubt("cardiac", tmp_path, tmp_path / "out")
    refusal = find_refusal(caught.value)
    assert refusal is not None and refusal.code == "DATALIST_MISSING"


def test_a_report_of_two_cases_is_valid_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []
    scores = torch.tensor([[2.0, -1.0, 0.0, 0.5], [-1.0, 3.0, 0.2, 0.1]])
    samples = [VoxelSample(name, scores, torch.tensor([0, 1])) for name in ("a", "b")]
    two = [DoubtfulCase("a1", "a", 0.9, 0.1, 0.1, 1.0, 0.1), DoubtfulCase("b1", "b", 0.8, 0.2, 0.2, 2.0, 0.2)]
    monkeypatch.setattr(doubt, "read_lists", lambda _: None)
    monkeypatch.setattr(doubt, "measure_doubt", lambda *_: (two, samples, [1.1, 1.2]))
    monkeypatch.setattr(doubt, "held_out_temperatures", lambda _: fits.append(1) or [1.1, 1.2])
    text = report_doubt("cardiac", tmp_path, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "doubt.json").read_text(), parse_constant=pytest.fail)
    assert content["measures"]["flips"]["spearman_p"] is None
    assert content["measures"]["flips"]["spearman"] == pytest.approx(-1)
    assert content["measures"]["flips"]["flagged"]["std"] is None
    assert "nan" not in text and fits == []


@pytest.mark.slow
def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    entries = []
    for seed in range(3):
        phantom, name = cardiac_phantom(seed=seed), f"p{seed}_frame01"
        save(tmp_path / "data" / f"{name}.nii.gz", phantom.image, phantom.affine)
        save(tmp_path / "data" / f"{name}_gt.nii.gz", phantom.label, phantom.affine)
        entries.append({"id": name, "image": f"{name}.nii.gz", "label": f"{name}_gt.nii.gz"})
    (tmp_path / "data" / "datalist.json").write_text(json.dumps({"val": entries}))
    capsys.readouterr()
    assert main(["evaluate", "cardiac", "--data", str(tmp_path / "data"), "--doubt", "-o", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "doubt.json").read_text())
    assert list(content["measures"]) == list(MEASURES) and f"Temperature {content['temperature']:.2f}" in text
    assert list(content["calibration_error"]) == ["RV", "MYO", "LV"]
    with open(tmp_path / "out" / "doubt.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(abs(1 - float(row["expected_dice"]) - float(row["dice"])) < 0.15 for row in rows)
    with open(tmp_path / "out" / "calibration.csv", newline="") as file:
        assert {row["temperature"] for row in csv.DictReader(file)} == {"1", "fitted"}
    assert (tmp_path / "out" / "reliability.png").exists() and (tmp_path / "out" / "risk_coverage.png").exists()
