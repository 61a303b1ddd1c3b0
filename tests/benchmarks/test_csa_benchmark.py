"""``convformer-monai benchmark csa``."""

from __future__ import annotations

import pytest
import torch

from convformer_monai.benchmarks.measures import peak_growth
from convformer_monai.cli import main


@pytest.mark.slow
def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "csa", "--sizes", "6", "--heads", "2", "--head-dim", "16", "--repeats", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    for line, name in zip(lines[2:], ("ours", "published", "torch softmax (SDPA)"), strict=True):
        assert line.split()[0] == "6x6" and name in line and line.endswith("x")
    assert float(lines[2].split()[4]) < 1e-5  # error of ours


def test_peak_growth() -> None:
    size = 2**28
    assert size / 2 < peak_growth(lambda: torch.ones(size // 4)) < 2 * size
