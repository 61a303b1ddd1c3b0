"""Parts of FAT-Net's decoder: feature adaptation of the skips, and upsampling through a bottleneck.

Paper: Wu et al., "FAT-Net: Feature adaptive transformers for automated skin lesion segmentation", Medical Image
Analysis 2022 (10.1016/j.media.2021.102327).
"""

from __future__ import annotations

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from convformer_monai.networks.blocks.pooling import conv_norm_relu


class FeatureAdaptation(nn.Module):
    """A 3x3 and a 1x1 convolution side by side, each with ReLU, added; several times in a row with the same weights.

    Args:
        channels: channels of input and output.
        repeats: how often.
    """

    def __init__(self, channels: int, repeats: int) -> None:
        super().__init__()
        self.repeats = repeats
        self.wide = Conv[Conv.CONV, 2](channels, channels, 3, padding=1)
        self.narrow = Conv[Conv.CONV, 2](channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        for _ in range(self.repeats):
            x = torch.relu(self.wide(x)) + torch.relu(self.narrow(x))
        return x


class BottleneckUp(nn.Module):
    """1x1 convolution to a quarter of the channels, transposed convolution that doubles the grid, 1x1 convolution.

    Args:
        in_channels: channels of the input, at least 4.
        out_channels: channels of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        narrow = in_channels // 4
        self.body = nn.Sequential(
            conv_norm_relu(2, in_channels, narrow, kernel_size=1),
            Conv[Conv.CONVTRANS, 2](narrow, narrow, 3, stride=2, padding=1, output_padding=1, bias=False),
            Norm[Norm.BATCH, 2](narrow),
            nn.ReLU(inplace=True),
            conv_norm_relu(2, narrow, out_channels, kernel_size=1),
        )

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """``deep`` (B, in_channels, h, w), enlarged, plus ``skip`` (B, out_channels, H, W)."""
        up = self.body(deep)  # (B, out_channels, 2 h, 2 w)
        return up[:, :, : skip.shape[2], : skip.shape[3]] + skip  # type: ignore[no-any-return]
