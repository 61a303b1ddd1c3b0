"""Equality with the published implementation, on tensors that it computed with every parameter randomised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from convformer_monai.networks import SETR, Encoder
from convformer_monai.networks.checkpoints import convert_published_state_dict, to_published_state_dict

NETS = {"setr_convformer": "convformer", "setr_vanilla": "vit"}
ENCODERS = {
    "encoder_vanilla": "vit",
    "encoder_reattention": "reattention",
    "encoder_layerscale": "layerscale",
    "encoder_refiner": "refiner",
}


def golden(data_dir: Path, name: str) -> dict[str, Any]:
    path = data_dir / "parity" / f"{name}.pt"
    if not path.is_file():
        pytest.skip(f"needs the golden tensors, and there is no {path}")
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def build(config: dict[str, int], block: str) -> SETR:
    return SETR(
        config["n_channels"],
        config["n_classes"],
        config["imgsize"],
        config["imgsize"] // config["patch_num"],
        config["dim"],
        config["depth"],
        config["heads"],
        config["dim_head"],
        config["mlp_dim"],
        block=block,
    )


def encoder(config: dict[str, int], block: str) -> Encoder:
    sizes = (config["dim"], config["depth"], config["heads"], config["dim_head"])
    return Encoder(2, *sizes, block, mlp_dim=config["mlp_dim"])


def assert_equal(result: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5, relative in norm and, of single entries, to the largest."""
    difference = (result - expected).double()
    assert float(difference.norm() / expected.double().norm()) < 1e-5
    assert float(difference.abs().max() / expected.abs().max()) < 1e-5


def to_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)  # (B, N, C)


@pytest.mark.parametrize("with_grad", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", NETS)
def test_setr(data_dir: Path, name: str, with_grad: bool) -> None:
    data = golden(data_dir, name)
    net = build(data["config"], NETS[name]).eval()
    net.load_state_dict(convert_published_state_dict(data["state_dict"], net), strict=True)
    x = data["input"]
    with torch.set_grad_enabled(with_grad):
        assert_equal(net(x).detach(), data["output"])
        for key, results in (("attention", net.attention(x)), ("features", map(to_tokens, net.features(x)))):
            if data[key] is not None:
                for result, expected in zip(results, data[key], strict=True):
                    assert_equal(result.detach(), expected)


@pytest.mark.parametrize("with_grad", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("budget", [None, 1000], ids=["whole", "in-parts"])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoder(
    data_dir: Path, name: str, budget: int | None, with_grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the maps of Re-attention and Refiner are made some rows at a time, and recomputed."""
    data = golden(data_dir, name)
    if budget is not None:
        monkeypatch.setattr("convformer_monai.networks.blocks.refined.CHUNK_ON_CPU", budget)
        monkeypatch.setattr("convformer_monai.networks.blocks.refined.RECOMPUTE_ABOVE", budget)
    net = encoder(data["config"], ENCODERS[name]).eval()
    net.load_state_dict(convert_published_state_dict(data["state_dict"], net), strict=True)
    x = data["input"].transpose(1, 2).unflatten(2, (8, 8))  # 64 tokens
    with torch.set_grad_enabled(with_grad):
        assert_equal(to_tokens(net(x)).detach(), data["output"])
        for result, expected in zip(net.attention(x), data["attention"], strict=True):
            assert_equal(result.detach(), expected)


@pytest.mark.parametrize("name", [*NETS, *ENCODERS])
def test_round_trip(data_dir: Path, name: str) -> None:
    data = golden(data_dir, name)
    net = build(data["config"], NETS[name]) if name in NETS else encoder(data["config"], ENCODERS[name])
    net.load_state_dict(convert_published_state_dict(data["state_dict"], net), strict=True)
    back = to_published_state_dict(net)
    assert back.keys() == data["state_dict"].keys()
    for key, value in data["state_dict"].items():
        assert back[key].dtype == value.dtype and torch.equal(back[key], value), key
