"""``convformer-monai benchmark nets``: its nets, its table and its options; never how long anything takes."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from convformer_monai.benchmarks.cost_table import Cost, Row, Table
from convformer_monai.benchmarks.nets import BLOCK_NAMES, NET_NAMES, Setting, measure
from convformer_monai.benchmarks.reference_nets import NNUNET, REFERENCES, plain_conv_unet
from convformer_monai.cli import main
from convformer_monai.networks import BLOCKS, NETS

SETTING = Setting("small", size=64, channels=1, classes=4, threads=1)


def test_all_nets_and_blocks_are_measured() -> None:
    assert set(NET_NAMES) == set(NETS.names) and set(BLOCK_NAMES) == set(BLOCKS.names)


@pytest.mark.parametrize("name", REFERENCES)
def test_references_run(name: str) -> None:
    net = REFERENCES[name](1, 4, 64).eval()
    with torch.inference_mode():
        assert net(torch.randn(1, 1, 64, 64)).shape == (1, 4, 64, 64)


def test_nnunet_is_as_planned() -> None:
    """The plan for a 2-D data set of 256 x 256: seven stages, 33.5 million parameters."""
    net = plain_conv_unet(1, 4, 256)
    convolutions = [layer for layer in net.encoder.modules() if isinstance(layer, nn.Conv2d)]
    widths = list(dict.fromkeys(id(layer) for layer in convolutions))  # each is registered twice
    assert len(widths) == 14
    assert [stage[0].output_channels for stage in net.encoder.stages] == [32, 64, 128, 256, 512, 512, 512]
    assert sum(parameter.numel() for parameter in net.parameters()) == 33_474_840


def test_multiply_adds_are_those_of_one_slice() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    assert SETTING.multiply_adds(net) == 64 * 64 * 4 * 9
    assert net[0].weight.device.type == "cpu"  # the net itself stays as it is


def test_net_that_cannot_be_built_says_why() -> None:
    table = Table("caption", ["float32"])
    row = measure("SETR", "nothing", SETTING, nn.Identity(), table, 1)
    assert row.failure.startswith("block must be one of ") and "'nothing'" in row.failure
    assert row.failure in table.line(row)


def test_table(tmp_path: Path) -> None:
    table = Table("What it shows.", ["float32", "bfloat16"])
    costs = {"float32": Cost(0.25, 2.0, 3 * 2**20), "bfloat16": Cost(0.125, 1.5, 2**20)}
    table.rows += [Row("SETR", "vit", 1_234_567, 2_000_000_000, costs), Row("SETR", "conv", failure="a | b, c")]
    table.write(tmp_path / "costs.v1")
    lines = (tmp_path / "costs.v1.md").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["What it shows.", ""] and len(lines) == 6
    assert len({line.replace("\\|", "").count("|") for line in lines[2:]}) == 1
    figures = [cell.strip() for cell in lines[4].strip("|").split("|")]
    assert figures == ["SETR", "vit", "1.23", "2.00", "250.0", "2.00", "3", "125.0", "1.50", "1"]
    with open(tmp_path / "costs.v1.csv", encoding="utf-8", newline="") as file:
        good, bad = csv.DictReader(file)
    assert good["parameters"] == "1234567" and good["bfloat16_peak_bytes"] == str(2**20) and not good["failure"]
    assert bad["failure"] == "a | b, c" and not bad["float32_seconds"]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that refuses the arguments."""
    assert main(["benchmark", "nets", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nets", "SETR,UNet"], "--nets must be of "),
        (["--blocks", "swin"], "conv, got swin"),
        (["--preset", "large"], "'large' is not one of 'small', 'full'"),
        (["--size", "100"], "--size must be a multiple of 32, which SwinUNETR needs, got 100"),
        (["--classes", "-1"], "'--classes'"),
        (["--output", "there/is/no/folder"], "there/is/no/folder.md cannot be written: no such file or directory"),
    ],
)
def test_bad_options(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(arguments, capsys)


def test_missing_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install -c constraints.txt -e '.[benchmark]'" in refused([], capsys)


@pytest.mark.slow
def test_whole_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At 32 pixels the deepest grid of SwinUNETR is one point, which its norm refuses."""
    arguments = ["--nets", "SETR", "--blocks", "convformer", "--size", "32", "--repeats", "1", "--threads", "1"]
    assert main(["benchmark", "nets", *arguments, "--output", str(tmp_path / "costs")]) == 0
    assert (tmp_path / "costs.md").read_text(encoding="utf-8") == capsys.readouterr().out
    with open(tmp_path / "costs.csv", encoding="utf-8", newline="") as file:
        rows = {row["net"]: row for row in csv.DictReader(file)}
    assert list(rows) == [*REFERENCES, "SETR"]
    assert "Expected more than 1 spatial element" in rows.pop("MONAI SwinUNETR")["failure"]
    assert float(rows[NNUNET]["float32_ratio"]) == 1
    for row in rows.values():
        assert not row["failure"] and int(row["parameters"]) > 1e5 and int(row["multiply_adds"]) > 1e6
        assert float(row["float32_seconds"]) > 0 and int(row["float32_peak_bytes"]) > 2**20
