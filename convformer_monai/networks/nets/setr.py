"""SETR as the ConvFormer authors use it: patches, a stack of transformer blocks, a light decoder.

Paper: Zheng et al., "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers",
CVPR 2021 (arXiv 2012.15840), in the variant of Lin et al., "ConvFormer", MICCAI 2023 (arXiv 2309.05674): patches of 8
pixels, 512 channels, 12 layers, and a decoder hidden - hidden/4 - hidden/4 - classes that doubles the grid three
times. The original is a ViT-L/16 whose decoder ``head="pup"`` (progressive upsampling) starts with a layer norm and
doubles the grid after each of four convolutions, with auxiliary outputs of four layers in training:
``deep_supervision``.

For ``vit`` and its relatives patches and their places are embedded linearly; ConvFormer and the controls follow
ConvFormer's pooling stem, which needs no position embedding.

Deviations: images of any size (if it is not a multiple of the patch size, the last grid points lie partly outside, and
what lies outside is cut from the output); ``dropout_rate`` acts in every block, ConvFormer's own has no dropout.
Parameters (1 channel, 4 classes, 256 pixels): 39.1 million with ``vit`` and 115.6 with ``convformer``, as published.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from convformer_monai.networks.blocks.pooling import conv_norm_relu
from convformer_monai.networks.checks import check_positive
from convformer_monai.networks.encoder import Encoder
from convformer_monai.networks.nets.parts.transformer import ChannelLayerNorm, make_stem
from convformer_monai.networks.registry import NETS

HEADS = ("light", "pup")
PUP_CHANNELS = 256
AUXILIARY_DEPTHS = (10 / 24, 15 / 24, 20 / 24, 1.0)  # of the layers: 10, 15, 20 and 24 of ViT-L


def upsampling_head(
    in_channels: int, channels: int, out_channels: int, num_convs: int, norm: bool = True
) -> nn.Sequential:
    """Convolutions, the grid doubled after each, and logits.

    Args:
        in_channels: channels of the input.
        channels: channels of the convolutions.
        out_channels: classes.
        num_convs: 3x3 convolutions; the grid is doubled after each.
        norm: begin with a layer norm over the channels.

    Returns:
        Logits on a grid that is finer by ``2^num_convs``.
    """
    layers: list[nn.Module] = [ChannelLayerNorm(in_channels)] if norm else []
    for i in range(num_convs):
        layers.append(conv_norm_relu(2, channels if i else in_channels, channels))
        layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))
    return nn.Sequential(*layers, Conv[Conv.CONV, 2](channels, out_channels, 1))


class SETR(nn.Module):
    """Transformer encoder on patches and a convolutional decoder, for 2-D images of any size.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        img_size: height and width, or both in one number, for which ``vit`` learns its position embedding (it is
            interpolated for other sizes); ConvFormer and the controls ignore it.
        patch_size: pixels along an edge of a patch; for the pooling stem a power of two.
        hidden_size: channels of the transformer, a multiple of 4.
        num_layers: blocks.
        num_heads: attention heads of a block.
        head_dim: channels of a head.
        mlp_dim: hidden channels of a block's feed-forward network.
        dropout_rate: dropout in the blocks and on linearly embedded patches.
        block: name of the block, see :data:`convformer_monai.networks.registry.BLOCKS`.
        block_kwargs: further arguments of the block.
        head: ``light``, or ``pup`` as in the original: a convolution for each doubling of the grid.
        deep_supervision: in training mode, also return logits of auxiliary heads on up to four layers.

    Raises:
        ValueError: an argument is out of its range, or no block or head has that name.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_size: int | Sequence[int] = 256,
        patch_size: int = 8,
        hidden_size: int = 512,
        num_layers: int = 12,
        num_heads: int = 8,
        head_dim: int = 64,
        mlp_dim: int = 2048,
        dropout_rate: float = 0.1,
        block: str = "convformer",
        block_kwargs: dict[str, Any] | None = None,
        head: str = "light",
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {head!r}")
        check_positive(in_channels=in_channels, out_channels=out_channels, num_layers=num_layers)
        check_positive(patch_size=patch_size, hidden_size=hidden_size)
        if hidden_size < 4 or hidden_size % 4:
            raise ValueError(f"hidden_size must be a multiple of 4, got {hidden_size}")
        self.patch_size = patch_size
        self.stem = make_stem(in_channels, hidden_size, patch_size, img_size, dropout_rate, block)
        self.encoder = Encoder(
            2,
            hidden_size,
            num_layers,
            num_heads,
            head_dim,
            block,
            mlp_dim=mlp_dim,
            dropout_rate=dropout_rate,
            **(block_kwargs or {}),
        )
        channels = min(PUP_CHANNELS, hidden_size)
        if head == "light":  # it ends before the last doubling of the grid, which follows the logits
            self.decoder = upsampling_head(hidden_size, hidden_size // 4, out_channels, 2, norm=False)
        else:
            self.decoder = upsampling_head(
                hidden_size, channels, out_channels, max(1, math.ceil(math.log2(patch_size)))
            )
        self.deep_supervision = deep_supervision
        self.supervised = sorted({max(0, round(depth * num_layers) - 1) for depth in AUXILIARY_DEPTHS})
        self.auxiliary = nn.ModuleList(
            upsampling_head(hidden_size, channels, out_channels, 1)
            for _ in (self.supervised if deep_supervision else ())
        )

    def _to_image(self, logits: Tensor, grid: list[int], image: list[int]) -> Tensor:
        """Logits of the patches ``grid``, resized to their pixels; what lies outside the image is cut off."""
        full = [grid[0] * self.patch_size, grid[1] * self.patch_size]
        logits = F.interpolate(logits, size=full, mode="bilinear", align_corners=True)
        return logits[:, :, : image[0], : image[1]]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Segment ``x``.

        Args:
            x: ``(B, in_channels, H, W)``.

        Returns:
            Logits ``(B, out_channels, H, W)``; in training mode with deep supervision a list of these, the decoder's
            first, then the auxiliary heads', the deepest first.
        """
        image = list(x.shape[2:])
        x = self.stem(x)
        grid = list(x.shape[2:])
        if not (self.training and self.deep_supervision):
            return self._to_image(self.decoder(self.encoder(x)), grid, image)
        features = self.encoder.features(x)
        logits: list[Tensor] = []
        for i, head in enumerate(self.auxiliary):
            logits.insert(0, self._to_image(head(features[self.supervised[i]]), grid, image))
        logits.insert(0, self._to_image(self.decoder(features[-1]), grid, image))
        return logits

    def features(self, x: Tensor) -> list[Tensor]:
        """The feature maps ``(B, hidden_size, H / patch_size, W / patch_size)`` of the stem and of each layer."""
        embedded = self.stem(x)
        return [embedded, *self.encoder.features(embedded)]

    def attention(self, x: Tensor) -> list[Tensor]:
        """The attention maps of each layer, ``(B, heads, N, N)`` with N = H W / patch_size^2."""
        return self.encoder.attention(self.stem(x))


NETS.add("SETR", "transformer on patches with a light decoder, as the ConvFormer authors use it", SETR)
