"""The pooling stem that replaces patch embedding and position embedding.

Paper: Lin et al., "ConvFormer", MICCAI 2023 (arXiv 2309.05674), section 2.1: 3x3 convolution, batch norm and ReLU,
then log2(patch size) times a 2x2 max-pooling followed by the same.

Deviation: a pooling of an odd number of grid points rounds up, so that no pixel is lost; even numbers are as published.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from monai.networks.layers.factories import Conv, Norm, Pool
from torch import Tensor, nn

from convformer_monai.networks.checks import check_positive, check_spatial_dims


def same_size_conv(spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Module:
    """A convolution without bias whose output has its input's size.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd edge length of the kernel.

    Raises:
        ValueError: ``spatial_dims`` is neither 2 nor 3, or ``kernel_size`` is even.
    """
    check_spatial_dims(spatial_dims)
    check_positive(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size)
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}")
    conv: nn.Module = Conv[Conv.CONV, spatial_dims](
        in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False
    )
    return conv


def conv_norm_relu(
    spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int = 3, activation: bool = True
) -> nn.Sequential:
    """:func:`same_size_conv`, batch norm and ReLU: the unit that every part of ConvFormer is made of.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd edge length of the kernel.
        activation: end in the ReLU.
    """
    conv = same_size_conv(spatial_dims, in_channels, out_channels, kernel_size)
    norm = Norm[Norm.BATCH, spatial_dims](out_channels)
    return nn.Sequential(conv, norm, nn.ReLU(inplace=True)) if activation else nn.Sequential(conv, norm)


class PoolingStem(nn.Module):
    """Image to feature map, by convolutions and max-pooling.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        channels: channels at each scale, full resolution first; ``len(channels) - 1`` poolings are made.

    Raises:
        ValueError: ``channels`` is empty, or a number is out of its range.
    """

    def __init__(self, spatial_dims: int, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        if not channels:
            raise ValueError("channels must name at least one stage, got an empty sequence")
        stages = [conv_norm_relu(spatial_dims, in_channels, channels[0])]
        for narrow, wide in zip(channels, channels[1:], strict=False):
            pool = Pool[Pool.MAX, spatial_dims](2, ceil_mode=True)
            stages.append(nn.Sequential(pool, *conv_norm_relu(spatial_dims, narrow, wide)))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``x``.

        Args:
            x: ``(B, in_channels, *spatial)``.

        Returns:
            ``(B, channels[-1], *spatial / 2^(len(channels) - 1))``, odd sizes rounded up at each pooling.
        """
        for stage in self.stages:
            x = stage(x)
        return x


def stem_channels(patch_size: int, hidden_size: int) -> tuple[int, ...]:
    """Channels of the published stem: 64, 128, 256, ... and ``hidden_size`` at the last scale.

    Args:
        patch_size: a power of two, the factor by which the grid shrinks.
        hidden_size: channels of the transformer.

    Raises:
        ValueError: ``patch_size`` is not a power of two.
    """
    if patch_size < 1 or patch_size & (patch_size - 1):
        raise ValueError(f"patch_size must be a power of two, got {patch_size}")
    return (*(64 * 2**level for level in range(int(math.log2(patch_size)))), hidden_size)
