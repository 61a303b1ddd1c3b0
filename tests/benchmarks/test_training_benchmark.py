"""The benchmark of growing training data, on a few cases; times are not asserted."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from convformer_monai.benchmarks import training
from convformer_monai.benchmarks.training import growing_data
from convformer_monai.cli import main
from convformer_monai.datalist import read_cases

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory and empties the cache as Linux does")


@pytest.mark.slow
def test_trainings_from_memory_and_disk_are_measured_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With batches of 2, which are enough to see that both ways train."""
    own_process = training.in_own_process
    monkeypatch.setattr(training, "in_own_process", lambda *given: own_process(*given, batch_size=2))
    words = "benchmark training --cases 9,18 --steps 1 --repeats 1".split()
    assert main([*words, "--output", str(tmp_path / "t")]) == 0
    out = capsys.readouterr().out
    assert "rate from disk / from memory: " in out and "slopes from disk: prepare_s " in out
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["cases"], row["kept"]) for row in rows] == [(n, k) for n in ("9", "18") for k in ("memory", "disk")]
    assert [float(row["arrays_mb"]) for row in rows] == pytest.approx([17.695, 17.695, 35.389, 35.389], abs=0.01)
    assert all(float(row["peak_mb"]) > 100 for row in rows)
    assert "</svg>" in (tmp_path / "t.svg").read_text()


@pytest.mark.slow
def test_a_limit_that_is_too_low_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("benchmark training --cases 9 --steps 1 --repeats 1 --limit 100".split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error[OUT_OF_MEMORY]: training on 9 cases from disk does not fit into --limit 100 MB")


def test_cases_are_links_to_a_few_files(tmp_path: Path) -> None:
    growing_data(tmp_path / "data", 11)
    cases = read_cases(str(tmp_path / "data"), "train")
    assert len({case["id"] for case in cases}) == 11
    inodes = {Path(case[key]).stat().st_ino for case in cases for key in ("image", "label")}
    assert len(inodes) == 16
