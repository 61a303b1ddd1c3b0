"""Names of cases and patients are no formulas in a spreadsheet, in whichever table they stand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from convformer_monai.evaluation import StructureScore, VolumeScore, write_report
from convformer_monai.evaluation import doubt as doubting
from convformer_monai.evaluation.calibration import VoxelSample
from convformer_monai.evaluation.overlap import PictureScore
from convformer_monai.evaluation.picture_report import write_picture_report

NAMES = ["=1+1", "+1", "-1", "@SUM(A1)", "plain"]
SAFE = ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "plain"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "model.pt").write_bytes(b"weights")
    (tmp_path / "datalist.json").write_bytes(b"{}")
    return tmp_path


def column(path: Path, name: str) -> list[str]:
    with open(path, encoding="utf-8", newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def test_volumes(data: Path) -> None:
    part = StructureScore("RV", 0.9, 3.0, 1.0, 101, 100)
    scores = [VolumeScore(name, name, name, (part,)) for name in NAMES]
    write_report(scores, data / "out", "Name", "1.0", data / "model.pt", data, "val", {})
    for name in ("case", "patient", "phase"):
        assert column(data / "out" / "per_case.csv", name) == SAFE
    assert set(SAFE) <= set(column(data / "out" / "summary.csv", "phase"))


def test_pictures(data: Path) -> None:
    scores = [PictureScore(name, name, name, 0.5, 0.4, 10, 12) for name in NAMES]
    write_picture_report(scores, data / "out", "Name", "1.0", data / "model.pt", data, "val")
    for name in ("case", "patient", "source"):
        assert column(data / "out" / "per_case.csv", name) == SAFE


def test_doubt(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [doubting.DoubtfulCase(name, name, n / 10, 0.1, 0.1, 0.1, 1 - n / 10) for n, name in enumerate(NAMES)]
    samples = [VoxelSample(name, torch.zeros(4, 4), torch.zeros(4, dtype=torch.long)) for name in NAMES]
    monkeypatch.setattr(doubting, "measure_doubt", lambda *_: (cases, samples, [1.0] * len(samples)))
    doubting.report_doubt("cardiac", data, data / "out")
    assert (
        set(column(data / "out" / "doubt.csv", "case"))
        == set(column(data / "out" / "doubt.csv", "patient"))
        == set(SAFE)
    )
