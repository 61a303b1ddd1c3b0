"""Re-attention: the heads' attention maps exchange information after the softmax.

Paper: Zhou et al., "DeepViT: Towards Deeper Vision Transformer", 2021 (arXiv 2103.11886), section 4.2, as the
ConvFormer authors (Lin et al., MICCAI 2023, arXiv 2309.05674) compare with it: A' = BatchNorm(Theta A), where the
learned heads x heads matrix Theta is a 1x1 convolution with bias over the heads' softmax maps, and batch norm acts on
each head; the rows of A' need not sum to 1. All else is the vanilla block.

Deviation: see :mod:`convformer_monai.networks.blocks.refined` for the memory; the result is the same.
"""

from __future__ import annotations

from monai.networks.layers.factories import Conv, Norm
from torch import Tensor

from convformer_monai.networks.blocks.attention import ViTBlock
from convformer_monai.networks.blocks.refined import RefinedAttention
from convformer_monai.networks.registry import BLOCKS


class ReAttention(RefinedAttention):
    """Self-attention with maps that are combined over the heads; arguments as of :class:`RefinedAttention`."""

    def __init__(
        self, in_channels: int, num_heads: int, head_dim: int, dropout_rate: float = 0.0, spatial_dims: int = 2
    ) -> None:
        super().__init__(in_channels, num_heads, head_dim, dropout_rate, spatial_dims)
        self.transform = Conv[Conv.CONV, spatial_dims](num_heads, num_heads, 1)
        self.norm = Norm[Norm.BATCH, spatial_dims](num_heads)

    def refine(self, maps: Tensor, start: int, stop: int) -> Tensor:
        return self.norm(self.transform(maps))  # type: ignore[no-any-return]


class ReAttentionBlock(ViTBlock):
    """The vanilla transformer layer with Re-attention."""

    attention_class = ReAttention


BLOCKS.add("reattention", "Re-attention (DeepViT): softmax maps combined over heads, then batch norm", ReAttentionBlock)
