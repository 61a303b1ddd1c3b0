"""The transformer layers of any network, passed by one after the other while an image goes through it.

Layers are found by their class, so they may be anywhere: in our nets, in an encoder inside a net of somebody else's.
Each is handed out with its input and output the moment it has run, and nothing of it is kept: the memory needed is
that of one layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from convformer_monai.networks.nets.parts.window_layer import WindowLayer
from convformer_monai.networks.nets.patcher import PatcherStage
from convformer_monai.networks.registry import BLOCKS


@dataclass(frozen=True)
class Windows:
    """The overlapping windows that a feature map was cut into, in tokens of the layer.

    Attributes:
        rows: of windows.
        columns: of windows.
        size: edge length of a window without its context.
        context: tokens on each side of it.
    """

    rows: int
    columns: int
    size: int
    context: int


@dataclass(frozen=True)
class Visit:
    """A layer that has just run.

    Attributes:
        name: path of the module in the network; the second call of a module in one pass ends in ``#2``, and so on.
        module: the layer.
        x: its input, ``(B, C, *grid)``.
        output: its output.
        stride: pixels of the network's input that a token's edge spans, one an axis; None where that is unknown, as in
            windows of somebody else's.
        windows: how the feature map was cut, if ``B`` counts windows of the images.
    """

    name: str
    module: nn.Module
    x: Tensor
    output: Tensor
    stride: tuple[float, ...] | None
    windows: Windows | None = None


def block_classes() -> tuple[type[nn.Module], ...]:
    """The classes that count as transformer layers: all registered blocks, and the layer of Patcher's windows."""
    return (*(BLOCKS[name] for name in BLOCKS.names), WindowLayer)


def visit(
    net: nn.Module, images: Tensor, act: Callable[[Visit], None], classes: tuple[type[nn.Module], ...] | None = None
) -> None:
    """Sends images through a network, in evaluation mode and without gradients, and passes by its layers.

    Args:
        net: any network; it is left in the mode that it had.
        images: ``(B, C, *spatial)``, on the network's device.
        act: called with each layer as soon as it has run.
        classes: of the layers; None for :func:`block_classes`.
    """
    chosen = block_classes() if classes is None else classes
    image = images.shape[2:]
    calls: Counter[str] = Counter()
    cut: list[tuple[tuple[float, ...] | None, Windows]] = []  # strides and windows of the Patcher stage that is running

    def begin_stage(stage: PatcherStage, args: tuple[Any, ...]) -> None:
        grid, size = args[0].shape[2:], stage.patch_size
        windows = Windows(-(-grid[0] // size), -(-grid[1] // size), size // 2, stage.context // 2)
        outer = strides(image, grid)
        cut.append((outer and tuple(2 * stride for stride in outer), windows))

    def end_stage(stage: PatcherStage, args: tuple[Any, ...], output: Tensor) -> None:
        cut.pop()

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            calls[name] += 1
            called = name if calls[name] == 1 else f"{name}#{calls[name]}"
            x = _plain(args[0] if args else next(iter(kwargs.values())))
            stride, windows = cut[-1] if cut else (None, None)
            if not cut and x.shape[0] == images.shape[0]:
                stride = strides(image, x.shape[2:])
            act(Visit(called, module, x, _plain(output), stride, windows))

        return hook

    modes = [(module, module.training) for module in net.modules()]
    handles = []
    try:
        net.eval()
        for name, module in net.named_modules():
            if isinstance(module, PatcherStage):
                handles.append(module.register_forward_pre_hook(begin_stage))
                handles.append(module.register_forward_hook(end_stage))
            if isinstance(module, chosen):
                handles.append(module.register_forward_hook(note(name), with_kwargs=True))
        with torch.no_grad():
            net(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode


def strides(image: Sequence[int], grid: Sequence[int]) -> tuple[float, ...] | None:
    """Pixels that a token spans along each axis.

    That is the smallest power of two by which the image's size leads to the grid's, rounded up or else down; where
    there is none, their quotient.

    Args:
        image: size of the network's input.
        grid: tokens along each axis.

    Returns:
        One number an axis; None if the grid has not as many axes as the image.
    """
    if len(image) != len(grid):
        return None
    found = []
    for pixels, tokens in zip(image, grid, strict=True):
        powers = [2**level for level in range(pixels.bit_length() + 1)]
        fitting = [power for power in powers if -(-pixels // power) == tokens]
        fitting += [power for power in powers if pixels // power == tokens]
        found.append(float(fitting[0]) if fitting else pixels / tokens)
    return tuple(found)


def attention_rows(block: nn.Module, x: Tensor, queries: Tensor) -> Tensor | None:
    """Rows of a block's attention maps, without making the whole maps.

    Args:
        block: a layer.
        x: its input, ``(B, C, *grid)``.
        queries: ``(Q,)`` tokens in row-major order.

    Returns:
        ``(B, heads, Q, M)``, or None of a block that has no attention.
    """
    if not hasattr(block, "attention"):
        return None
    try:
        maps: Tensor = block.attention(x, queries=queries)  # type: ignore[operator]
    except NotImplementedError:  # the control `conv`
        return None
    return maps


def _plain(x: Tensor) -> Tensor:
    return x.as_tensor() if isinstance(x, MetaTensor) else x
