"""SETR as the ConvFormer authors use it: patches, a stack of transformer blocks, a light decoder.

Paper: Zheng et al., "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers",
CVPR 2021 (arXiv 2012.15840), in the variant of Lin et al., "ConvFormer", MICCAI 2023 (arXiv 2309.05674): patches of 8
pixels, 512 channels, 12 layers, and a decoder hidden - hidden/4 - hidden/4 - classes that doubles the grid three
times. The original is a ViT-L/16 with a larger decoder and auxiliary outputs.

For ``vit`` and its relatives patches and their places are embedded linearly; ConvFormer and the controls follow
ConvFormer's pooling stem, which needs no position embedding.

Deviations: images of any size (if it is no multiple of the patch size, the last grid points lie partly outside, and
what lies outside is cut from the output); ``dropout_rate`` acts in every block, ConvFormer's own has no dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from convformer_monai.networks.blocks.patches import PatchEmbedding
from convformer_monai.networks.blocks.pooling import PoolingStem, conv_norm_relu, stem_channels
from convformer_monai.networks.checks import check_positive
from convformer_monai.networks.encoder import Encoder
from convformer_monai.networks.registry import BLOCKS, NETS, lookup


class SETR(nn.Module):
    """Transformer encoder on patches and a light convolutional decoder, for 2-D images of any size.

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

    Raises:
        ValueError: an argument is out of its range, or no block has that name.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_size: int | Sequence[int],
        patch_size: int = 8,
        hidden_size: int = 512,
        num_layers: int = 12,
        num_heads: int = 8,
        head_dim: int = 64,
        mlp_dim: int = 2048,
        dropout_rate: float = 0.1,
        block: str = "convformer",
        block_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_channels=out_channels, num_layers=num_layers)
        if hidden_size < 4 or hidden_size % 4:
            raise ValueError(f"hidden_size must be a multiple of 4, got {hidden_size}")
        self.patch_size = patch_size
        self.stem: nn.Module
        if getattr(lookup(BLOCKS, block), "needs_position_embedding", False):
            size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
            if len(size) != 2 or min(size) < 1:
                raise ValueError(f"img_size must hold two numbers of at least 1, got {img_size}")
            grid = [-(-pixels // patch_size) for pixels in size]
            self.stem = PatchEmbedding(2, in_channels, hidden_size, patch_size, grid, dropout_rate)
        else:
            self.stem = PoolingStem(2, in_channels, stem_channels(patch_size, hidden_size))
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
        narrow = hidden_size // 4
        self.decoder = nn.Sequential(
            conv_norm_relu(2, hidden_size, narrow),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            conv_norm_relu(2, narrow, narrow),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            Conv[Conv.CONV, 2](narrow, out_channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to logits ``(B, out_channels, H, W)``."""
        height, width = x.shape[2], x.shape[3]
        x = self.encoder(self.stem(x))
        full = [x.shape[2] * self.patch_size, x.shape[3] * self.patch_size]
        x = F.interpolate(self.decoder(x), size=full, mode="bilinear", align_corners=True)
        return x[:, :, :height, :width]

    def features(self, x: Tensor) -> list[Tensor]:
        """The feature maps ``(B, hidden_size, H / patch_size, W / patch_size)`` of the stem and of each layer."""
        embedded = self.stem(x)
        return [embedded, *self.encoder.features(embedded)]

    def attention(self, x: Tensor) -> list[Tensor]:
        """The attention maps of each layer, ``(B, heads, N, N)`` with N = H W / patch_size^2."""
        return self.encoder.attention(self.stem(x))


NETS.add("SETR", "transformer on patches with a light decoder, as the ConvFormer authors use it", SETR)
