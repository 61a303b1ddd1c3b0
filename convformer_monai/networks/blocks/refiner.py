"""Refiner: attention maps widened to more heads and convolved like pictures after the softmax.

Paper: Zhou et al., "Refiner: Refining Self-attention for Vision Transformers", 2021 (arXiv 2106.03714), as the
ConvFormer authors (Lin et al., MICCAI 2023, arXiv 2309.05674) compare with it. On the softmax maps A, ``heads``
channels of N x N pixels:

    W = ReLU6(BN(1x1 convolution to 3 heads)),  D = ReLU6(BN(3x3 depth-wise convolution of W)),
    A' = BN(BN(1x1 convolution of D to heads) + A)

with convolutions without bias. All else is the vanilla block. Costly: 3 heads N^2 numbers a layer.

Deviation: see :mod:`convformer_monai.networks.blocks.refined` for the memory; the result is the same.
"""

from __future__ import annotations

import torch.nn.functional as F
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor

from convformer_monai.networks.blocks.attention import ViTBlock
from convformer_monai.networks.blocks.refined import RefinedAttention
from convformer_monai.networks.registry import BLOCKS


class RefinerAttention(RefinedAttention):
    """Self-attention with maps that are refined by convolutions; arguments as of :class:`RefinedAttention`."""

    def __init__(
        self, in_channels: int, num_heads: int, head_dim: int, dropout_rate: float = 0.0, spatial_dims: int = 2
    ) -> None:
        super().__init__(in_channels, num_heads, head_dim, dropout_rate, spatial_dims)
        self.widening = 3
        self.halo = 1
        wide = self.widening * num_heads
        conv, norm = Conv[Conv.CONV, spatial_dims], Norm[Norm.BATCH, spatial_dims]
        kernel, padding = ((3, 3), (1, 1)) if spatial_dims == 2 else ((1, 3, 3), (0, 1, 1))
        self.expand = conv(num_heads, wide, 1, bias=False)
        self.expand_norm = norm(wide)
        self.depthwise = conv(wide, wide, kernel, padding=padding, groups=wide, bias=False)
        self.depthwise_norm = norm(wide)
        self.reduce = conv(wide, num_heads, 1, bias=False)
        self.reduce_norm = norm(num_heads)
        self.norm = norm(num_heads)

    def refine(self, maps: Tensor, start: int, stop: int) -> Tensor:
        wide = F.relu6(self.expand_norm(self.expand(maps)))
        # The convolution's zeros are right beyond the map's first and last row; other rows at the edge are cut away.
        wide = F.relu6(self.depthwise_norm(self.depthwise(wide)[..., start:stop, :]))
        refined = self.reduce_norm(self.reduce(wide)) + maps[..., start:stop, :]
        return self.norm(refined)  # type: ignore[no-any-return]


class RefinerBlock(ViTBlock):
    """The vanilla transformer layer with refined attention maps."""

    attention_class = RefinerAttention


BLOCKS.add("refiner", "Refiner: softmax maps widened to more heads and convolved", RefinerBlock)
