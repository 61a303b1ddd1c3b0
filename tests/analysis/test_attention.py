"""The attention of one pixel's token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from convformer_monai.analysis import attention_of_pixel
from convformer_monai.networks import Patcher, make_net

Randomise = Callable[..., nn.Module]


@pytest.mark.parametrize("pixel", [(0, 0), (47, 65), (16.4, 33.0), (15.6, 31.2)])
@torch.no_grad()
def test_rows_of_the_maps(pixel: tuple[float, float], randomise: Randomise) -> None:
    net = randomise(make_net("SETR", 1, 2, "convformer", "small")).eval()
    x = torch.randn(1, 1, 48, 66)  # 6 x 9 tokens, the last column partly outside
    found = attention_of_pixel(net, x, pixel)
    assert len(found) == 4
    row, column = int((pixel[0] + 0.5) / 8), int((pixel[1] + 0.5) / 8)
    for layer, maps in zip(found, net.attention(x), strict=True):
        assert layer.token == (row, column) and layer.box == ((0, 48), (0, 72))
        torch.testing.assert_close(layer.maps, maps[0, :, row * 9 + column].unflatten(1, (6, 9)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pixel", [(0, 0), (9, 30), (19, 31)])
@torch.no_grad()
def test_windows(pixel: tuple[int, int], randomise: Randomise) -> None:
    """The token that stands for a pixel in the window whose middle holds it: the one whose input a change changes."""
    net = Patcher(1, 2, (8, 8), (1, 1), (1, 1), (2, 1), 1, patch_size=8, context=2, decoder_channels=8)
    net = randomise(net).eval()
    x = torch.randn(1, 1, 20, 32)
    first, second = attention_of_pixel(net, x, pixel)
    maps = net.attention(x)
    for layer, whole, columns, stride in ((first, maps[0], 4, 2), (second, maps[1], 2, 4)):
        (top, bottom), (left, right) = layer.box
        assert bottom - top == right - left == 6 * stride
        window = int((top + stride) / (4 * stride)) * columns + int((left + stride) / (4 * stride))
        for axis, start in enumerate((top, left)):
            place = start + layer.token[axis] * stride
            assert place <= pixel[axis] < place + stride and 1 <= layer.token[axis] < 5, "in the window's middle"
        row = whole[window, :, layer.token[0] * 6 + layer.token[1]]
        torch.testing.assert_close(layer.maps.flatten(1), row, rtol=1e-4, atol=1e-6)
    assert first.maps.shape == (1, 3, 3) and second.maps.shape == (1, 6, 6)


def test_blocks_without_attention_are_left_out() -> None:
    assert attention_of_pixel(make_net("SETR", 1, 2, "conv", "small"), torch.randn(1, 1, 32, 32), (3, 3)) == []


def test_wrong_arguments() -> None:
    net = make_net("SETR", 1, 2, "vit", "small")
    with pytest.raises(ValueError, match=r"pixel must lie within an image of \(32, 48\), got \(32, 0\)"):
        attention_of_pixel(net, torch.randn(1, 1, 32, 48), (32, 0))
    with pytest.raises(ValueError, match="pixel must lie within"):
        attention_of_pixel(net, torch.randn(1, 1, 32, 48), (-1, 0))
    with pytest.raises(ValueError, match="image must be one image, got 2"):
        attention_of_pixel(net, torch.randn(2, 1, 32, 48), (1, 1))
