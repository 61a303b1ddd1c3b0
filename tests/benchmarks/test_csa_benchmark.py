"""``convformer-monai benchmark csa``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from convformer_monai.benchmarks import csa_cuda
from convformer_monai.benchmarks.measures import peak_growth
from convformer_monai.cli import main
from convformer_monai.networks.blocks import csa, csa_triton


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


@pytest.mark.parametrize("words", [["--output", "x"], ["--tiles"]])
def test_files_and_tiles_are_of_cuda(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "csa", "--sizes", "4", "--repeats", "1", *words]) == 2
    assert capsys.readouterr().err.startswith("error[OPTION]: --output and --tiles are of CUDA")


def test_cuda_needs_cuda(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    assert main(["benchmark", "csa", "--device", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("error[DEVICE]: this machine has no device cuda")


def test_kernels_that_do_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert not csa_cuda.run(torch.device("cpu"), [4], 1, 16, 1)
    assert "The kernels do not run on this device" in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton, which is not installed")
class TestOnDevice:
    """The script for CUDA, on the CPU where there is none."""

    @pytest.fixture
    def device(self, monkeypatch: pytest.MonkeyPatch) -> torch.device:
        if torch.cuda.is_available():
            return torch.device("cuda")
        for module in (csa, csa_cuda):
            monkeypatch.setattr(
                module,
                "kernels_take",
                lambda *tensors: csa_triton.supports(*tensors) and csa_triton.os.environ.get(csa_triton.SWITCH) != "0",
            )
        monkeypatch.setattr(csa_cuda, "BOUNDS", {torch.float32: 1e-5})  # the interpreter rounds bfloat16 in its own way
        return torch.device("cpu")

    @pytest.mark.slow
    def test_tables(
        self, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(csa_cuda, "CHECKS", csa_cuda.CHECKS[:1])
        monkeypatch.setattr(csa_cuda, "TILES_TO_TRY", csa_cuda.TILES_TO_TRY[:1])
        monkeypatch.setattr(csa_cuda, "DTYPES", (torch.float32,))
        monkeypatch.setattr(csa_cuda, "TILES_SIZE", 5)
        assert csa_cuda.run(device, [5], 2, 16, 1, tmp_path / "csa", tiles=True)
        text = capsys.readouterr().out
        for name in ("dtheta", csa_cuda.KERNEL, csa_cuda.SHORT, csa_cuda.SOFTMAX, "published", "queries"):
            assert name in text
        assert "Every check passed." in text
        assert (tmp_path / "csa.md").read_text("utf-8").splitlines()[1:] == text.splitlines()[1:-2]
        header, *rows = (tmp_path / "csa_times.csv").read_text("utf-8").splitlines()
        assert header.startswith("dtype,tokens,pass,formulation,median; ms,of SDPA")
        assert len(rows) == 10
        kernel = dict(zip(header.split(","), rows[0].split(","), strict=True))
        assert kernel["formulation"] == csa_cuda.KERNEL and float(kernel["error"]) < 1e-5

    def test_an_error_fails(
        self, device: torch.device, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(csa_cuda, "CHECKS", csa_cuda.CHECKS[:1])
        right = csa_triton._forward
        monkeypatch.setattr(csa_triton, "_forward", lambda *arguments: right(*arguments) * 1.001)
        assert not csa_cuda.run(device, [], 2, 16, 1)
        assert "A CHECK FAILED" in capsys.readouterr().out
