"""What the token at one pixel attends to, in every layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convformer_monai.analysis.layers import Visit, attention_rows, visit


@dataclass(frozen=True)
class PixelAttention:
    """The attention of a pixel's token in one layer.

    Attributes:
        layer: path of the module in the network.
        token: place of the token in the grid, or in its window's.
        maps: ``(heads, *grid of the keys)``, signed where the layer's attention is.
        box: for each axis the pixels of the network's input between which the map lies; windows may reach beyond the
            image.
    """

    layer: str
    token: tuple[int, ...]
    maps: Tensor
    box: tuple[tuple[float, float], ...]


def attention_of_pixel(net: nn.Module, image: Tensor, pixel: Sequence[float]) -> list[PixelAttention]:
    """Finds what a pixel attends to: in each layer the row of the attention maps that belongs to its token.

    Args:
        net: any network with registered blocks; it is left in the mode that it had.
        image: ``(1, C, *spatial)``, on the network's device.
        pixel: one number an axis, in pixels from 0.

    Returns:
        One for each layer that has attention, and a place in the image.

    Raises:
        ValueError: there is not exactly one image, or the pixel is not within it.
    """
    size = tuple(image.shape[2:])
    if len(image) != 1:
        raise ValueError(f"image must be one image, got {len(image)}")
    if len(pixel) != len(size) or not all(0 <= at <= n - 1 for at, n in zip(pixel, size, strict=True)):
        raise ValueError(f"pixel must lie within an image of {size}, got {tuple(pixel)}")
    found: list[PixelAttention] = []

    def act(layer: Visit) -> None:
        if layer.stride is None:
            return
        item, token, box = _locate(layer, pixel)
        grid = tuple(layer.x.shape[2:])
        query = 0
        for at, n in zip(token, grid, strict=True):
            query = query * n + at
        rows = attention_rows(layer.module, layer.x[item : item + 1], torch.tensor([query], device=layer.x.device))
        if rows is None:
            return
        coarser = round((math.prod(grid) / rows.shape[-1]) ** (1 / len(grid)))  # grid of keys, as windows may have
        maps = rows[0, :, 0].float().cpu().unflatten(-1, [n // coarser for n in grid])
        found.append(PixelAttention(layer.name, token, maps, box))

    visit(net, image, act)
    return found


def _locate(layer: Visit, pixel: Sequence[float]) -> tuple[int, tuple[int, ...], tuple[tuple[float, float], ...]]:
    """Finds the item of the batch and the token in it that a pixel belongs to, and the pixels that the item spans."""
    assert layer.stride is not None
    grid = layer.x.shape[2:]
    positions = [int((at + 0.5) / step) for at, step in zip(pixel, layer.stride, strict=True)]
    if layer.windows is None:
        token = tuple(min(position, n - 1) for position, n in zip(positions, grid, strict=True))
        return 0, token, tuple((0.0, n * step) for n, step in zip(grid, layer.stride, strict=True))
    size, context = layer.windows.size, layer.windows.context
    row, column = (position // size for position in positions)
    token = tuple(position % size + context for position in positions)
    box = []
    for window, n, step in zip((row, column), grid, layer.stride, strict=True):
        start = (window * size - context) * step
        box.append((start, start + n * step))
    return row * layer.windows.columns + column, token, tuple(box)
