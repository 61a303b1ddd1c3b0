"""Fusion of a convolutional and a transformer branch: BiFusion, and the gated decoder step.

Paper: Zhang et al., "TransFuse: Fusing Transformers and CNNs for Medical Image Segmentation", MICCAI 2021 (arXiv
2102.08005), section 2. The channel attention is MONAI's squeeze-and-excitation, the gate MONAI's of Attention U-Net.
Convolutions before a batch norm have no bias here, as one would do nothing.
"""

from __future__ import annotations

import torch
from monai.networks.blocks import ChannelSELayer
from monai.networks.layers.factories import Conv, Norm
from monai.networks.nets.attentionunet import AttentionBlock
from torch import Tensor, nn

from convformer_monai.networks.blocks.pooling import conv_norm_relu
from convformer_monai.networks.nets.parts.resize import enlarge


class PreActivationBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution, batch norm and ReLU before each, added to a 1x1 convolution of the input.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result; half as many inside.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        narrow = max(1, out_channels // 2)
        conv, norm = Conv[Conv.CONV, 2], Norm[Norm.BATCH, 2]
        self.shortcut = conv(in_channels, out_channels, 1)
        self.body = nn.Sequential(
            norm(in_channels),
            nn.ReLU(),
            conv(in_channels, narrow, 1, bias=False),
            norm(narrow),
            nn.ReLU(inplace=True),
            conv(narrow, narrow, 3, padding=1, bias=False),
            norm(narrow),
            nn.ReLU(inplace=True),
            conv(narrow, out_channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        return self.shortcut(x) + self.body(x)  # type: ignore[no-any-return]


class SpatialAttention(nn.Module):
    """Each pixel times a weight, made from the largest and the mean of its channels by a 7x7 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = conv_norm_relu(2, 2, 1, kernel_size=7, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H, W)``."""
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)  # (B, 2, H, W)
        return x * torch.sigmoid(self.weigh(pooled))


class BiFusion(nn.Module):
    """Features of both branches: one with spatial, one with channel attention, and their product, made into one.

    Args:
        cnn_channels: channels of the convolutional branch, and of the result.
        transformer_channels: channels of the transformer branch.
        reduction: of the channel attention's hidden layer.
        dropout_rate: probability of dropping whole channels of the result.
    """

    def __init__(self, cnn_channels: int, transformer_channels: int, reduction: int, dropout_rate: float) -> None:
        super().__init__()
        self.spatial = SpatialAttention()
        self.channel = ChannelSELayer(2, transformer_channels, reduction)
        self.from_cnn = conv_norm_relu(2, cnn_channels, cnn_channels, kernel_size=1, activation=False)
        self.from_transformer = conv_norm_relu(2, transformer_channels, cnn_channels, kernel_size=1, activation=False)
        self.product = conv_norm_relu(2, cnn_channels, cnn_channels)
        self.residual = PreActivationBottleneck(2 * cnn_channels + transformer_channels, cnn_channels)
        self.dropout = nn.Dropout2d(dropout_rate)

    def forward(self, cnn: Tensor, transformer: Tensor) -> Tensor:
        """``(B, cnn_channels, H, W)`` and ``(B, transformer_channels, H, W)`` to ``(B, cnn_channels, H, W)``."""
        product = self.product(self.from_cnn(cnn) * self.from_transformer(transformer))
        fused = torch.cat([self.spatial(cnn), self.channel(transformer), product], 1)
        return self.dropout(self.residual(fused))  # type: ignore[no-any-return]


class ResidualConvs(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a 1x1 convolution with batch norm of the input, then ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm_relu(2, in_channels, out_channels),
            conv_norm_relu(2, out_channels, out_channels, activation=False),
        )
        self.shortcut = conv_norm_relu(2, in_channels, out_channels, kernel_size=1, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        return torch.relu(self.body(x) + self.shortcut(x))


class GatedUp(nn.Module):
    """One decoder step: upsample, append the skip that the upsampled features gate, convolve.

    Args:
        in_channels: channels of the deeper features.
        skip_channels: channels of the skip.
        out_channels: channels of the result.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.gate = AttentionBlock(2, f_int=out_channels, f_g=in_channels, f_l=skip_channels)
        self.convs = ResidualConvs(in_channels + skip_channels, out_channels)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """``deep`` (B, in_channels, h, w) and ``skip`` (B, skip_channels, H, W) to (B, out_channels, H, W)."""
        up = enlarge(deep, 2, skip)
        return self.convs(torch.cat([self.gate(up, skip), up], 1))  # type: ignore[no-any-return]
