"""LayerScale: a learned scale a channel on both branches of a transformer layer, tiny at first.

Paper: Touvron et al., "Going deeper with Image Transformers" (CaiT), ICCV 2021 (arXiv 2103.17239), section 2: x = x +
scale1 * attention(norm(x)); x = x + scale2 * MLP(norm(x)). All else is the vanilla block.

The ConvFormer authors (Lin et al., MICCAI 2023, arXiv 2309.05674) share one pair of scales over all layers. Here, as
in CaiT, each layer has its own; :mod:`convformer_monai.networks.checkpoints` loads the shared pair into all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convformer_monai.networks.blocks.attention import ViTBlock
from convformer_monai.networks.registry import BLOCKS


class LayerScale(nn.Module):
    """Each channel times a learned number.

    Args:
        channels: channels of the tokens, C.
        initial_scale: value at first, above 0.

    Raises:
        ValueError: ``initial_scale`` is out of its range.
    """

    def __init__(self, channels: int, initial_scale: float) -> None:
        super().__init__()
        if not initial_scale > 0:
            raise ValueError(f"initial_scale must be above 0, got {initial_scale}")
        self.weight = nn.Parameter(torch.full((channels,), initial_scale))

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, N, C)``."""
        return tokens * self.weight


class LayerScaleBlock(ViTBlock):
    """The vanilla transformer layer with scaled branches.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of input and output, C.
        num_heads: attention heads.
        head_dim: channels of a head.
        mlp_dim: see :class:`ViTBlock`.
        dropout_rate: see :class:`ViTBlock`.
        initial_scale: the scales at first, above 0.
        convformer_only: see :class:`ViTBlock`.

    Raises:
        ValueError: an argument is out of its range, or unknown.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_heads: int,
        head_dim: int = 64,
        mlp_dim: int | None = None,
        dropout_rate: float = 0.0,
        initial_scale: float = 1e-4,
        **convformer_only: Any,
    ) -> None:
        super().__init__(spatial_dims, in_channels, num_heads, head_dim, mlp_dim, dropout_rate, **convformer_only)
        self.scale1 = LayerScale(in_channels, initial_scale)
        self.scale2 = LayerScale(in_channels, initial_scale)


BLOCKS.add("layerscale", "LayerScale (CaiT): vanilla transformer with a learned scale on each branch", LayerScaleBlock)
