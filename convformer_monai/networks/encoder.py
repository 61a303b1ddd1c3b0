"""A stack of equal blocks on a feature map, the blocks chosen by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from convformer_monai.networks.checks import check_positive
from convformer_monai.networks.registry import BLOCKS, lookup


class Encoder(nn.Module):
    """``num_layers`` blocks in a row.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of input and output, C.
        num_layers: number of blocks.
        num_heads: attention heads of a block.
        head_dim: channels of a head.
        block: a name in :data:`convformer_monai.networks.registry.BLOCKS`.
        block_kwargs: further arguments of the block's constructor.

    Raises:
        ValueError: no block has that name, or an argument is out of its range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_layers: int,
        num_heads: int,
        head_dim: int = 64,
        block: str = "convformer",
        **block_kwargs: Any,
    ) -> None:
        super().__init__()
        check_positive(num_layers=num_layers)
        make = lookup(BLOCKS, block)
        self.layers = nn.ModuleList(
            make(spatial_dims, in_channels, num_heads, head_dim, **block_kwargs) for _ in range(num_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *spatial)`` to ``(B, C, *spatial)``."""
        for layer in self.layers:
            x = layer(x)
        return x

    def attention(self, x: Tensor) -> list[Tensor]:
        """The attention maps of each layer, first layer first: ``(B, heads, N, N)`` each."""
        maps = []
        for layer in self.layers:
            maps.append(layer.attention(x))  # type: ignore[operator]
            x = layer(x)
        return maps

    def features(self, x: Tensor) -> list[Tensor]:
        """The feature map after each layer, first layer first: ``(B, C, *spatial)`` each."""
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps
