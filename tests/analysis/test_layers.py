"""Every transformer layer of a network is found and passed by, wherever it is."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from convformer_monai.analysis import Visit, attention_rows, block_classes, visit
from convformer_monai.analysis.layers import strides
from convformer_monai.networks import BLOCKS, NETS, ConvFormerBlock, Encoder, Patcher, make_net
from convformer_monai.networks.nets.parts.window_layer import WindowLayer

QUICK = ("ConvFormerUNet", "Patcher", "SETR")


def visits(net: nn.Module, images: Tensor) -> list[Visit]:
    found: list[Visit] = []
    visit(net, images, found.append)
    return found


class Foreign(nn.Module):
    """A MONAI net, and one of our encoders on what it is given."""

    def __init__(self, block: str) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 8, 4, stride=4)
        self.encoder = Encoder(2, 8, 2, 2, 4, block)
        self.unet = BasicUNet(2, 8, 2, features=(4, 4, 4, 4, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.unet(self.encoder(self.down(x)))


@pytest.mark.parametrize("block", sorted(BLOCKS.names))
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(NETS.names)]
)
def test_all_layers_of_all_nets(name: str, block: str) -> None:
    net = make_net(name, 1, 2, block, "small").eval()
    expected = [layer for layer, module in net.named_modules() if isinstance(module, block_classes())]
    found = visits(net, torch.randn(1, 1, 48, 64))
    assert [one.name for one in found] == expected and len(found) >= 2
    for one in found:
        rows = attention_rows(one.module, one.x, torch.tensor([3, 1]))
        assert (rows is None) == (block == "conv")
        if rows is not None:
            whole = one.module.attention(one.x)
            torch.testing.assert_close(rows, whole[:, :, [3, 1]], rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            torch.testing.assert_close(one.output, one.module(one.x), rtol=1e-4, atol=1e-5)


def test_in_a_net_of_somebody_else() -> None:
    found = visits(Foreign("vit"), MetaTensor(torch.randn(2, 1, 128, 192)))
    assert [one.name for one in found] == ["encoder.layers.0", "encoder.layers.1"]
    assert all(one.x.shape == (2, 8, 32, 48) and one.stride == (4.0, 4.0) and one.windows is None for one in found)
    assert not any(isinstance(one.x, MetaTensor) for one in found)


def test_in_three_dimensions() -> None:
    (one,) = visits(
        nn.Sequential(nn.Conv3d(1, 4, 2, stride=2), ConvFormerBlock(3, 4, 1, 4)), torch.randn(1, 1, 8, 9, 6)
    )
    assert one.stride == (2.0, 2.0, 2.0)


def test_windows_of_a_patcher() -> None:
    net = Patcher(1, 2, (8, 8), (1, 1), (1, 1), (1, 1), 1, patch_size=8, context=2, decoder_channels=8)
    first, second = visits(net, torch.randn(2, 1, 20, 32))
    assert (first.stride, second.stride) == ((2.0, 2.0), (4.0, 4.0))
    assert (first.windows.rows, first.windows.columns) == (3, 4) and len(first.x) == 2 * 12
    assert (second.windows.rows, second.windows.columns) == (2, 2) and len(second.x) == 2 * 4
    assert (first.windows.size, first.windows.context) == (4, 1) and first.x.shape[2:] == (6, 6)


def test_windows_of_somebody_else_have_no_known_place() -> None:
    class Windowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = WindowLayer(4, 1, 8, 1, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(0, 2))

    (one,) = visits(Windowed(), torch.randn(1, 4, 8, 8))
    assert one.stride is None and one.windows is None


def test_a_layer_that_is_called_twice() -> None:
    block = ConvFormerBlock(2, 4, 1, 4)
    found = visits(nn.Sequential(block, block), torch.randn(1, 4, 5, 5))
    assert [one.name for one in found] == ["0", "0#2"] and torch.equal(found[0].output, found[1].x)


def test_the_network_is_left_as_it_was() -> None:
    net = Foreign("convformer").train()
    net.unet.eval()
    statistics = {name: value.clone() for name, value in net.state_dict().items()}
    assert all(not one.output.requires_grad for one in visits(net, torch.randn(1, 1, 128, 128)))

    def fail(_: Visit) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        visit(net, torch.randn(1, 1, 128, 128), fail)
    assert net.training and net.encoder.training and not net.unet.training
    assert all(torch.equal(value, statistics[name]) for name, value in net.state_dict().items())
    net(torch.randn(1, 1, 128, 128))  # `fail` is not called any more


@pytest.mark.parametrize(
    ("image", "grid", "expected"),
    [
        ((256, 256), (32, 32), (8.0, 8.0)),
        ((202, 240), (26, 30), (8.0, 8.0)),  # rounded up
        ((202, 243), (25, 30), (8.0, 8.0)),  # rounded down
        ((64, 60), (64, 20), (1.0, 3.0)),
        ((17, 8), (2, 1), (16.0, 8.0)),
        ((8, 8, 8), (8, 8), None),
    ],
)
def test_strides(image: tuple[int, ...], grid: tuple[int, ...], expected: tuple[float, ...] | None) -> None:
    assert strides(image, grid) == expected
