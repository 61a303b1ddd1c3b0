"""A transformer as a branch of a net: the embedding that its block needs, the layers, and the norm that ends them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from convformer_monai.networks.blocks.patches import PatchEmbedding
from convformer_monai.networks.blocks.pooling import PoolingStem, stem_channels
from convformer_monai.networks.checks import check_numbers, check_positive
from convformer_monai.networks.encoder import Encoder
from convformer_monai.networks.registry import BLOCKS, lookup


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of a feature map, ``(B, C, *spatial)``."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.movedim(-1, 1)


def make_stem(
    in_channels: int, hidden_size: int, patch_size: int, img_size: int | Sequence[int], dropout_rate: float, block: str
) -> nn.Module:
    """What makes a grid of patches of an image: with position embeddings for blocks that need them, else by pooling.

    Args:
        in_channels: channels of the image.
        hidden_size: channels of the grid.
        patch_size: pixels along the edge of a patch.
        img_size: pixels of the image that position embeddings are made for.
        dropout_rate: on linearly embedded patches.
        block: name of the block.

    Raises:
        ValueError: an argument is out of its range, or no block has that name.
    """
    if not getattr(lookup(BLOCKS, block), "needs_position_embedding", False):
        return PoolingStem(2, in_channels, stem_channels(patch_size, hidden_size))
    size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    check_positive(patch_size=patch_size)
    check_numbers("img_size", size, 2)
    grid = [-(-pixels // patch_size) for pixels in size]
    return PatchEmbedding(2, in_channels, hidden_size, patch_size, grid, dropout_rate)


class Transformer(nn.Module):
    """Blocks on patches of an image or feature map, in two dimensions.

    ``vit`` and its relatives get patches embedded linearly, with a learned position; ConvFormer and the controls the
    pooling stem (for ``patch_size=1`` one 3x3 convolution, batch norm and ReLU) and no final norm.

    Args:
        in_channels: channels of the input.
        hidden_size: channels of the transformer, C.
        patch_size: pixels along an edge of a patch; for the pooling stem a power of two.
        img_size: height and width of the input, or both in one number, for which positions are learned (they are
            interpolated for other sizes).
        num_layers: blocks.
        num_heads: attention heads of a block.
        head_dim: channels of a head.
        mlp_dim: hidden channels of a block's feed-forward network.
        dropout_rate: dropout in the blocks and on linearly embedded patches.
        block: name of the block, see :data:`convformer_monai.networks.registry.BLOCKS`.
        block_kwargs: further arguments of the block.
        final_norm: end ``vit`` and its relatives in a layer norm.

    Raises:
        ValueError: an argument is out of its range, or no block has that name.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_size: int,
        patch_size: int,
        img_size: int | Sequence[int],
        num_layers: int,
        num_heads: int,
        head_dim: int,
        mlp_dim: int,
        dropout_rate: float = 0.0,
        block: str = "convformer",
        block_kwargs: dict[str, Any] | None = None,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        self.stem = make_stem(in_channels, hidden_size, patch_size, img_size, dropout_rate, block)
        norm = final_norm and isinstance(self.stem, PatchEmbedding)
        self.norm: nn.Module = ChannelLayerNorm(hidden_size) if norm else nn.Identity()
        extra = {"mlp_dim": mlp_dim, "dropout_rate": dropout_rate, **(block_kwargs or {})}
        self.encoder = Encoder(2, hidden_size, num_layers, num_heads, head_dim, block, **extra)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, C, H / patch_size, W / patch_size)``, rounded up."""
        return self.norm(self.encoder(self.stem(x)))  # type: ignore[no-any-return]

    def features(self, x: Tensor) -> list[Tensor]:
        """The feature maps ``(B, C, H / patch_size, W / patch_size)`` of the stem and of each layer."""
        embedded = self.stem(x)
        return [embedded, *self.encoder.features(embedded)]

    def attention(self, x: Tensor) -> list[Tensor]:
        """The attention maps of each layer, ``(B, heads, N, N)`` with N = H W / patch_size^2."""
        return self.encoder.attention(self.stem(x))
