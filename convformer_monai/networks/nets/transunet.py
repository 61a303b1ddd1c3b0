"""TransUNet: a ResNet whose last feature map passes a transformer, and a U-shaped decoder with the ResNet's skips.

Paper: Chen et al., "TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation", 2021 (arXiv
2102.04306), R50-ViT-B/16; with ConvFormer blocks as Lin et al., MICCAI 2023 (arXiv 2309.05674) place them: one 3x3
convolution instead of the linear embedding, no pooling, no final norm.

Deviations: the ResNet is MONAI's, untrained, with batch norm instead of weight standardisation and group norm (as many
parameters); images of any size, so features are enlarged exactly twice and cropped to the skip; the transformer is the
repository's (q, k and v without bias, ReLU).
Parameters (1 channel, 4 classes, 256 pixels): 105.3 million with ``vit`` and 281.3 with ``convformer``, as published
(105.3 and 281).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from convformer_monai.networks.blocks.pooling import conv_norm_relu
from convformer_monai.networks.checks import check_numbers, check_positive
from convformer_monai.networks.nets.parts.backbone import ResNetBackbone
from convformer_monai.networks.nets.parts.resize import enlarge
from convformer_monai.networks.nets.parts.transformer import Transformer
from convformer_monai.networks.registry import NETS


class UpBlock(nn.Module):
    """One decoder step: upsample, append the skip, two 3x3 convolutions.

    Args:
        in_channels: channels of the deeper features.
        skip_channels: channels of the skip.
        out_channels: channels of the result.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            conv_norm_relu(2, in_channels + skip_channels, out_channels),
            conv_norm_relu(2, out_channels, out_channels),
        )

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """``deep`` (B, in_channels, h, w) and ``skip`` (B, skip_channels, H, W) to (B, out_channels, H, W)."""
        return self.convs(torch.cat([enlarge(deep, 2, skip), skip], 1))  # type: ignore[no-any-return]


class TransUNet(nn.Module):
    """ResNet, transformer and U-shaped decoder, for 2-D images of any size.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        img_size: height and width, or both in one number, for which ``vit`` and its relatives learn positions (they
            are interpolated for other sizes); ConvFormer and the controls ignore it.
        hidden_size: channels of the transformer.
        num_layers: blocks.
        num_heads: attention heads of a block.
        head_dim: channels of a head.
        mlp_dim: hidden channels of a block's feed-forward network.
        dropout_rate: dropout in the transformer.
        block: name of the block, see :data:`convformer_monai.networks.registry.BLOCKS`.
        block_kwargs: further arguments of the block.
        resnet_layers: blocks of each of the three ResNet stages.
        resnet_widths: widths of these stages; they have four times as many channels.
        decoder_channels: channels after the transformer and of the four decoder steps.

    Raises:
        ValueError: an argument is out of its range, or no block has that name.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_size: int | Sequence[int] = 256,
        hidden_size: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        head_dim: int = 64,
        mlp_dim: int = 3072,
        dropout_rate: float = 0.1,
        block: str = "convformer",
        block_kwargs: dict[str, Any] | None = None,
        resnet_layers: Sequence[int] = (3, 4, 9),
        resnet_widths: Sequence[int] = (64, 128, 256),
        decoder_channels: Sequence[int] = (512, 256, 128, 64, 16),
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_channels=out_channels, hidden_size=hidden_size)
        check_numbers("resnet_layers", resnet_layers, 3)
        check_numbers("decoder_channels", decoder_channels, 5)
        self.backbone = ResNetBackbone(in_channels, "bottleneck", resnet_layers, resnet_widths)
        *skips, deep = self.backbone.channels
        size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        check_numbers("img_size", size, 2)
        self.transformer = Transformer(
            deep,
            hidden_size,
            1,
            [-(-pixels // 16) for pixels in size],
            num_layers,
            num_heads,
            head_dim,
            mlp_dim,
            dropout_rate,
            block,
            block_kwargs,
        )
        first, *steps, last = decoder_channels
        self.narrow = conv_norm_relu(2, hidden_size, first)
        self.decoder = nn.ModuleList(
            UpBlock(wide, skip, narrow)
            for wide, skip, narrow in zip(decoder_channels, reversed(skips), steps, strict=False)
        )
        self.last = nn.Sequential(conv_norm_relu(2, steps[-1], last), conv_norm_relu(2, last, last))
        self.head = Conv[Conv.CONV, 2](last, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to logits ``(B, out_channels, H, W)``."""
        skips = self.backbone(x)
        y = self.narrow(self.transformer(skips[-1]))
        for i, step in enumerate(self.decoder):
            y = step(y, skips[len(skips) - 2 - i])
        return self.head(self.last(enlarge(y, 2, x)))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> list[Tensor]:
        """The feature maps ``(B, hidden_size, H / 16, W / 16)`` of the embedding and of each layer."""
        return self.transformer.features(self.backbone(x)[-1])

    def attention(self, x: Tensor) -> list[Tensor]:
        """The attention maps of each layer, ``(B, heads, N, N)`` with N = H W / 256."""
        return self.transformer.attention(self.backbone(x)[-1])


NETS.add("TransUNet", "ResNet, then a transformer, and a U-shaped decoder", TransUNet)
