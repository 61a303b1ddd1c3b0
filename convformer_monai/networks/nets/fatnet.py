"""FAT-Net: a ResNet and a tiny transformer side by side, joined by channel attention, skips adapted and added.

Paper: Wu et al., "FAT-Net: Feature adaptive transformers for automated skin lesion segmentation", Medical Image
Analysis 2022 (10.1016/j.media.2021.102327): ResNet-34 without pooling, 12 layers of DeiT-tiny; with ConvFormer as in
Lin et al., MICCAI 2023 (arXiv 2309.05674): the transformer branch replaced, with 12 heads of 64 channels, which is
what their number of parameters takes, where DeiT-tiny has 3.

Deviations: MONAI's ResNet and squeeze-and-excitation, all untrained; the transformer is the repository's (q, k and v
without bias, ReLU) with a position embedding, which the published code leaves out; the last step of the published
decoder, which leads nowhere, is left out; images of any size, so enlarged features are cropped to the skip; the last
convolutions keep the published 32 channels in every size of the net, and have batch norm, since nothing is pretrained
(a small net with 8 of them and without it learned nothing from hearts).
Parameters (1 channel, 4 classes, 256 pixels): 28.7 million with ``vit`` and 78.8 with ``convformer``, as published
(28.8 and 78.8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import ChannelSELayer
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

from convformer_monai.networks.blocks.pooling import conv_norm_relu
from convformer_monai.networks.checks import check_numbers, check_positive
from convformer_monai.networks.nets.parts.adaptation import BottleneckUp, FeatureAdaptation
from convformer_monai.networks.nets.parts.backbone import ResNetBackbone
from convformer_monai.networks.nets.parts.transformer import Transformer
from convformer_monai.networks.registry import BLOCKS, NETS, lookup

ADAPTATIONS = (6, 4, 2)  # repeats at 1/2, 1/4 and 1/8
HEAD_CHANNELS = 32


class FATNet(nn.Module):
    """Parallel ResNet and transformer with feature adaptation, for 2-D images of any size.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        img_size: height and width, or both in one number, for which ``vit`` and its relatives learn positions (they
            are interpolated for other sizes); ConvFormer and the controls ignore it.
        hidden_size: channels of the transformer.
        num_layers: blocks of the transformer.
        num_heads: attention heads of a block; None takes the published 3 of ``vit`` and its relatives and 12 of
            ConvFormer and the controls.
        head_dim: channels of a head.
        mlp_dim: hidden channels of a block's feed-forward network.
        dropout_rate: dropout in the transformer (none in the paper).
        block: name of the block, see :data:`convformer_monai.networks.registry.BLOCKS`.
        block_kwargs: further arguments of the block.
        resnet_layers: blocks of each of the four ResNet stages.
        resnet_widths: channels of these stages, at least 4.

    Raises:
        ValueError: an argument is out of its range, or no block has that name.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_size: int | Sequence[int] = 256,
        hidden_size: int = 192,
        num_layers: int = 12,
        num_heads: int | None = None,
        head_dim: int = 64,
        mlp_dim: int = 768,
        dropout_rate: float = 0.0,
        block: str = "convformer",
        block_kwargs: dict[str, Any] | None = None,
        resnet_layers: Sequence[int] = (3, 4, 6, 3),
        resnet_widths: Sequence[int] = (64, 128, 256, 512),
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_channels=out_channels, hidden_size=hidden_size)
        check_numbers("resnet_widths", resnet_widths, 4, minimum=4)
        if num_heads is None:
            num_heads = 3 if getattr(lookup(BLOCKS, block), "needs_position_embedding", False) else 12
        self.backbone = ResNetBackbone(in_channels, "basic", resnet_layers, resnet_widths, pool=False)
        self.transformer = Transformer(
            in_channels,
            hidden_size,
            16,
            img_size,
            num_layers,
            num_heads,
            head_dim,
            mlp_dim,
            dropout_rate,
            block,
            block_kwargs,
            final_norm=False,
        )
        deep = resnet_widths[-1]
        self.widen = Conv[Conv.CONV, 2](hidden_size, deep, 1)
        self.squeeze = ChannelSELayer(2, 2 * deep, r=min(16, 2 * deep))
        self.join = Conv[Conv.CONV, 2](2 * deep, deep, 1)
        self.adapt = nn.ModuleList(
            FeatureAdaptation(width, repeats) for width, repeats in zip(resnet_widths, ADAPTATIONS, strict=False)
        )
        self.decoder = nn.ModuleList(
            BottleneckUp(wide, narrow)
            for narrow, wide in reversed(list(zip(resnet_widths, resnet_widths[1:], strict=False)))
        )
        self.head = nn.Sequential(
            Conv[Conv.CONVTRANS, 2](resnet_widths[0], HEAD_CHANNELS, 4, stride=2, padding=1, bias=False),
            Norm[Norm.BATCH, 2](HEAD_CHANNELS),
            nn.ReLU(inplace=True),
            conv_norm_relu(2, HEAD_CHANNELS, HEAD_CHANNELS),
            Conv[Conv.CONV, 2](HEAD_CHANNELS, out_channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to logits ``(B, out_channels, H, W)``."""
        features = self.backbone(x)
        skips: list[Tensor] = []  # at 1/2, 1/4 and 1/8
        for i, adapt in enumerate(self.adapt):
            skips.append(adapt(features[i + 1]))
        y = self.squeeze(torch.cat([features[-1], self.widen(self.transformer(x))], 1))
        y = self.join(y)
        for i, step in enumerate(self.decoder):
            y = step(y, skips[len(skips) - 1 - i])
        return self.head(y)[:, :, : x.shape[2], : x.shape[3]]  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> list[Tensor]:
        """The feature maps ``(B, hidden_size, H / 16, W / 16)`` of the embedding and of each transformer layer."""
        return self.transformer.features(x)

    def attention(self, x: Tensor) -> list[Tensor]:
        """The attention maps of each transformer layer, ``(B, heads, N, N)`` with N = H W / 256."""
        return self.transformer.attention(x)


NETS.add("FATNet", "ResNet and a tiny transformer side by side, with adapted skips", FATNet)
