"""A decoder that lets each pixel choose among the scales of an encoder: a mixture of experts.

Paper: Ou et al., "Patcher: Patch Transformers with Mixture of Experts for Precise Medical Image Segmentation", MICCAI
2022 (arXiv 2206.01741): the features of each scale are an expert; a gating network weighs them in each pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from convformer_monai.networks.blocks.pooling import conv_norm_relu
from convformer_monai.networks.nets.parts.resize import enlarge


def pixel_mlp(in_channels: int, channels: int) -> nn.Sequential:
    """Two 1x1 convolutions, each with ReLU."""
    conv = Conv[Conv.CONV, 2]
    return nn.Sequential(conv(in_channels, channels, 1), nn.ReLU(), conv(channels, channels, 1), nn.ReLU())


class ExpertDecoder(nn.Module):
    """Feature maps of several scales to logits on the finest of them.

    Args:
        in_channels: channels of each scale, the finest first; each next one has half the resolution.
        channels: channels of an expert.
        out_channels: classes.
        dropout_rate: probability of dropping whole channels before the logits.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, out_channels: int, dropout_rate: float) -> None:
        super().__init__()
        self.experts = nn.ModuleList(pixel_mlp(width, channels) for width in in_channels)
        number = len(in_channels)
        self.gate = nn.Sequential(conv_norm_relu(2, number * channels, channels), conv_norm_relu(2, channels, number))
        self.head = nn.Sequential(
            pixel_mlp(channels, channels),
            conv_norm_relu(2, channels, channels, kernel_size=1),
            nn.Dropout2d(dropout_rate),
            Conv[Conv.CONV, 2](channels, out_channels, 1),
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """``(B, in_channels[i], h, w)`` each, the finest first, to ``(B, out_channels, H, W)`` of the finest."""
        scaled: list[Tensor] = []
        for i, expert in enumerate(self.experts):
            y = expert(features[i])
            scaled.append(enlarge(y, 1 << i, features[0]) if i > 0 else y)
        weights = torch.softmax(self.gate(torch.cat(scaled, 1)), 1)  # (B, number, H, W)
        mixed = (torch.stack(scaled, 1) * weights.unsqueeze(2)).sum(1)  # (B, channels, H, W)
        return self.head(mixed)  # type: ignore[no-any-return]
