"""The vanilla transformer block, on feature maps: what ConvFormer replaces.

Paper: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021 (arXiv 2010.11929), as the ConvFormer authors
(Lin et al., MICCAI 2023, arXiv 2309.05674) use it: layer norm before each branch, softmax attention with scale
d^-1/2, q, k and v without bias, a feed-forward network with ReLU (not GELU), and dropout at the end of each branch and
inside the feed-forward network, not on the attention maps.

Deviation: tokens travel as feature maps ``(B, C, *spatial)``, so that blocks are exchangeable. Blocks that change the
maps after the softmax (Re-attention, Refiner) are this block with another ``attention_class``, one that overrides
:meth:`SelfAttention.maps` and :meth:`SelfAttention.mix`; LayerScale fills in the places ``scale1`` and ``scale2``.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convformer_monai.networks.checks import check_fraction, check_known, check_positive, check_spatial_dims
from convformer_monai.networks.registry import BLOCKS

# Arguments of the ConvFormer block without meaning here: a configuration may change the block's name alone.
CONVFORMER_ONLY = ("alpha", "initial_sigma", "grid_size", "qkv_kernel_size", "norm_first", "final_activation")


def softmax_maps(q: Tensor, k: Tensor) -> Tensor:
    """Softmax attention maps ``(B, heads, N, M)`` of queries ``(B, heads, N, d)`` and keys ``(B, heads, M, d)``."""
    return torch.softmax(torch.matmul(q, k.transpose(-1, -2)) * q.shape[-1] ** -0.5, dim=-1)


class SelfAttention(nn.Module):
    """Multi-head softmax self-attention of tokens, optionally to fewer tokens that stand for them.

    Args:
        in_channels: channels of input and output, C.
        num_heads: attention heads.
        head_dim: channels of a head, d.
        dropout_rate: dropout on the output.
        spatial_dims: of the feature map that the tokens are of, 2 or 3; without meaning where there are only tokens.
    """

    def __init__(
        self, in_channels: int, num_heads: int, head_dim: int, dropout_rate: float = 0.0, spatial_dims: int = 2
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.to_qkv = nn.Linear(in_channels, 3 * num_heads * head_dim, bias=False)
        self.project = nn.Linear(num_heads * head_dim, in_channels)
        self.dropout = nn.Dropout(dropout_rate)

    def _qkv(self, tokens: Tensor, context: Optional[Tensor] = None) -> tuple[Tensor, Tensor, Tensor]:  # noqa: UP045
        """Queries ``(B, heads, N, d)``, keys and values ``(B, heads, M, d)``."""
        if context is None:
            qkv = self.to_qkv(tokens).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
            return qkv[0], qkv[1], qkv[2]
        inner = self.num_heads * self.head_dim
        q = F.linear(tokens, self.to_qkv.weight[:inner]).unflatten(-1, (self.num_heads, self.head_dim))
        kv = F.linear(context, self.to_qkv.weight[inner:]).unflatten(-1, (2, self.num_heads, self.head_dim))
        kv = kv.permute(2, 0, 3, 1, 4)
        return q.transpose(1, 2), kv[0], kv[1]

    def maps(self, q: Tensor, k: Tensor) -> Tensor:
        """Attention maps ``(B, heads, N, M)`` of queries ``(B, heads, N, d)`` and keys ``(B, heads, M, d)``."""
        return softmax_maps(q, k)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The maps times the values, ``(B, heads, N, d)``; here without making the maps."""
        return F.scaled_dot_product_attention(q, k, v)

    def map_rows(self, q: Tensor, k: Tensor, queries: Tensor) -> Tensor:
        """The rows ``(B, heads, Q, M)`` of some queries ``(Q,)`` of the attention maps."""
        return self.maps(q[:, :, queries], k)

    def attention(self, tokens: Tensor, context: Tensor | None = None, queries: Tensor | None = None) -> Tensor:
        """Attention maps ``(B, heads, N, M)``; arguments as in :meth:`forward`, or of some ``queries`` only."""
        q, k, _ = self._qkv(tokens, context)
        return self.maps(q, k) if queries is None else self.map_rows(q, k, queries)

    def forward(self, tokens: Tensor, context: Optional[Tensor] = None) -> Tensor:  # noqa: UP045
        """Attend.

        Args:
            tokens: ``(B, N, C)``.
            context: ``(B, M, C)``, tokens that keys and values are made of; None for ``tokens`` themselves.

        Returns:
            ``(B, N, C)``.
        """
        q, k, v = self._qkv(tokens, context)
        z = self.mix(q, k, v).transpose(1, 2).flatten(2)  # (B, N, heads * d)
        return self.dropout(self.project(z))  # type: ignore[no-any-return]


class ViTBlock(nn.Module):
    """One vanilla transformer layer on a feature map.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of input and output, C.
        num_heads: attention heads.
        head_dim: channels of a head.
        mlp_dim: hidden channels of the feed-forward network; None means 4 C.
        dropout_rate: dropout at the end of both branches and inside the feed-forward network.
        convformer_only: arguments of :class:`ConvFormerBlock` that have no meaning here.

    Raises:
        ValueError: an argument is out of its range, or unknown.
    """

    attention_class: type[SelfAttention] = SelfAttention
    needs_position_embedding = True  # tokens mix regardless of place

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_heads: int,
        head_dim: int = 64,
        mlp_dim: int | None = None,
        dropout_rate: float = 0.0,
        **convformer_only: Any,
    ) -> None:
        super().__init__()
        hidden = 4 * in_channels if mlp_dim is None else mlp_dim
        check_spatial_dims(spatial_dims)
        check_positive(in_channels=in_channels, num_heads=num_heads, head_dim=head_dim, mlp_dim=hidden)
        check_fraction(dropout_rate=dropout_rate)
        check_known(convformer_only, CONVFORMER_ONLY)
        self.norm1 = nn.LayerNorm(in_channels)
        self.mixer = self.attention_class(in_channels, num_heads, head_dim, dropout_rate, spatial_dims)
        self.scale1: nn.Module = nn.Identity()
        self.norm2 = nn.LayerNorm(in_channels)
        self.mlp = nn.Sequential(
            nn.Linear(in_channels, hidden),
            nn.ReLU(),
            nn.Dropout(dropout_rate),
            nn.Linear(hidden, in_channels),
            nn.Dropout(dropout_rate),
        )
        self.scale2: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *spatial)`` to ``(B, C, *spatial)``."""
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, C)
        tokens = tokens + self.scale1(self.mixer(self.norm1(tokens)))
        tokens = tokens + self.scale2(self.mlp(self.norm2(tokens)))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])  # type: ignore[no-any-return]

    def attention(self, x: Tensor, queries: Tensor | None = None) -> Tensor:
        """The attention maps of ``x``, queries before keys; rows of plain ones sum to 1.

        Args:
            x: ``(B, C, *spatial)``.
            queries: ``(Q,)`` tokens, in row-major order, whose rows to return; None for all N.

        Returns:
            ``(B, heads, Q, N)``.
        """
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, C)
        return self.mixer.attention(self.norm1(tokens), queries=queries)


BLOCKS.add("vit", "vanilla transformer: softmax self-attention and feed-forward, layer norm before each", ViTBlock)
