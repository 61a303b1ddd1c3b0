"""Conversion of published weights; equality with real ones is in test_parity.py."""

from __future__ import annotations

import pytest
import torch
from contract import Randomise
from torch import nn

from convformer_monai.networks import SETR, ConvFormerUNet, Encoder
from convformer_monai.networks.checkpoints import convert_published_state_dict, to_published_state_dict


def small(block: str = "convformer", hidden_size: int = 8) -> SETR:
    return SETR(2, 3, (8, 12), 4, hidden_size, 11, 2, 4, 8, block=block)  # 11 layers: numbers of two digits


def encoder(block: str) -> Encoder:
    return Encoder(2, 8, 2, 2, 4, block)


@pytest.mark.parametrize(
    "net", [*map(small, ("convformer", "vit", "reattention", "refiner")), Encoder(3, 8, 2, 2), encoder("vit")]
)
def test_round_trip(net: nn.Module, randomise: Randomise) -> None:
    expected = {name: value.clone() for name, value in randomise(net).state_dict().items()}
    published = to_published_state_dict(net)
    assert len(published) == len(expected)
    converted = convert_published_state_dict(published, net)
    assert list(converted) == list(expected)
    assert all(torch.equal(converted[name], value) for name, value in expected.items())


def test_published_names_and_layouts() -> None:
    published = to_published_state_dict(small())
    assert published["transformer.layers.10.0.headsita"].shape == (2,)
    assert published["cnn_encoder.inc.single_conv.0.weight"].shape == (64, 2, 3, 3)
    assert published["cnn_encoder.down2.maxpool_conv.1.single_conv.1.running_var"].shape == (8,)
    published = to_published_state_dict(small("vit"))
    assert published["pos_embedding"].shape == (1, 6, 8)
    assert published["to_patch_embedding.1.weight"].shape == (8, 32)


def test_scales_are_shared_over_all_layers_as_published(randomise: Randomise) -> None:
    net = randomise(encoder("layerscale"))
    with pytest.raises(
        ValueError, match=r"equal layers.1.scale1.weight in all layers: published weights share gamma_1"
    ):
        to_published_state_dict(net)
    net.layers[1].load_state_dict(net.layers[0].state_dict())
    published = to_published_state_dict(net)
    assert len(published) == len(net.state_dict()) - 2
    published["gamma_2"] = torch.arange(8.0)
    net.load_state_dict(convert_published_state_dict(published, net), strict=True)
    assert all(torch.equal(layer.scale2.weight, torch.arange(8.0)) for layer in net.layers)
    assert torch.equal(net.layers[1].scale1.weight, published["gamma_1"])
    assert "transformer.gamma_1" in to_published_state_dict(small("layerscale"))


def test_prefix_of_data_parallel_training() -> None:
    net = small()
    published = {f"module.{name}": value for name, value in to_published_state_dict(net).items()}
    net.load_state_dict(convert_published_state_dict(published, net), strict=True)


def test_refuses_what_is_not_published() -> None:
    net = small()
    published = to_published_state_dict(net)
    with pytest.raises(ValueError, match=r"not that of the published net: \d+ names are missing \(cnn_enc.*unknown"):
        convert_published_state_dict(net.state_dict(), net)
    with pytest.raises(ValueError, match="names are missing"):
        convert_published_state_dict({}, net)
    with pytest.raises(ValueError, match=r"1 names are missing \(decoder.8.bias\), 0 are unknown$"):
        convert_published_state_dict({k: v for k, v in published.items() if k != "decoder.8.bias"}, net)
    with pytest.raises(ValueError, match=r"0 names are missing, 1 are unknown \(fc.weight\)"):
        convert_published_state_dict({**published, "fc.weight": torch.zeros(1)}, net)
    with pytest.raises(ValueError, match="missing.*unknown"):
        convert_published_state_dict(published, small("vit"))
    for block in ("convformer", "vit"):
        with pytest.raises(ValueError, match=r"must have shape \(.*8.*\) for this net, got \(.*12.*\)"):
            convert_published_state_dict(to_published_state_dict(small(block, 12)), small(block))


def test_refuses_nets_that_were_not_published() -> None:
    with pytest.raises(ValueError, match="published blocks ConvFormerBlock, ViTBlock, .*RefinerBlock, got ConvBlock"):
        to_published_state_dict(small("conv"))
    with pytest.raises(ValueError, match="net must be a SETR or an Encoder, got a ConvFormerUNet"):
        convert_published_state_dict({}, ConvFormerUNet())  # type: ignore[arg-type]
