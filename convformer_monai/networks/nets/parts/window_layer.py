"""A transformer layer of Patcher, on the feature map of a window, with the attention chosen by the block's name.

Paper: Xie et al., "SegFormer", NeurIPS 2021 (arXiv 2105.15203), whose layers Patcher (Ou et al., MICCAI 2022, arXiv
2206.01741) uses: keys and values are made of a grid that a strided convolution has reduced, and the feed-forward
network (Mix-FFN) holds a depth-wise 3x3 convolution, which tells the tokens their places.

With ``convformer``, as in Lin et al., MICCAI 2023 (arXiv 2309.05674), only the attention score changes: cosine times
Gaussian distance map instead of softmax. A key that stands for several grid points gets the sum of their weights.
The controls mix nothing (``identity``), or are two 3x3 convolutions with the parameters of attention without reduced
keys (``conv``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from convformer_monai.networks.blocks.attention import CONVFORMER_ONLY, SelfAttention
from convformer_monai.networks.blocks.controls import ConvMixer, IdentityMixer
from convformer_monai.networks.blocks.csa import initial_theta, sigma_of, similarities
from convformer_monai.networks.blocks.gaussian import axis_factors, distance_rows
from convformer_monai.networks.blocks.layerscale import LayerScale
from convformer_monai.networks.blocks.reattention import ReAttention
from convformer_monai.networks.blocks.refiner import RefinerAttention
from convformer_monai.networks.checks import check_known, check_positive
from convformer_monai.networks.registry import BLOCKS, lookup

ATTENTIONS = {
    "vit": SelfAttention,
    "layerscale": SelfAttention,
    "reattention": ReAttention,
    "refiner": RefinerAttention,
}
CONTROLS = {"identity": IdentityMixer, "conv": ConvMixer}


def window_layer(
    in_channels: int, num_heads: int, block: str, block_kwargs: dict[str, Any] | None, **own: Any
) -> nn.Module:
    """The layer that a block stands for in Patcher: :class:`WindowLayer`, or a block of one's own as it is.

    Args:
        in_channels: channels of input and output.
        num_heads: attention heads.
        block: name of the block.
        block_kwargs: further arguments of the block.
        own: further arguments of :class:`WindowLayer`, of which another block knows nothing.

    Raises:
        ValueError: no block has that name, or an argument is out of its range.
    """
    make = lookup(BLOCKS, block)
    if block == "convformer" or block in ATTENTIONS or block in CONTROLS:
        return WindowLayer(in_channels, num_heads, block=block, block_kwargs=block_kwargs, **own)
    return make(2, in_channels, num_heads, in_channels // num_heads, **(block_kwargs or {}))


def initialise(module: nn.Module) -> None:
    """Draws a layer's weights as the published encoder does; for ``Module.apply``.

    Linear maps: a normal distribution of standard deviation 0.02, cut off; convolutions: ``sqrt(2 / fan_out)``, fan_out
    the inputs that an output of the layer goes to; biases 0.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


class GaussianAttention(SelfAttention):
    """Attention with ConvFormer's score, on a square grid of fixed size.

    Args:
        in_channels: channels of input and output, C.
        num_heads: attention heads.
        head_dim: channels of a head.
        dropout_rate: dropout on the output.
        grid_size: grid points along an edge, n.
        reduction: how many times coarser the grid of the keys is.
        alpha: see :class:`CSA`.
        initial_sigma: see :class:`CSA`.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int,
        head_dim: int,
        dropout_rate: float,
        grid_size: int,
        reduction: int,
        alpha: float = 0.4,
        initial_sigma: Sequence[float] | None = None,
    ) -> None:
        super().__init__(in_channels, num_heads, head_dim, dropout_rate)
        self.grid_size = grid_size
        self.reduction = reduction
        self.alpha = alpha
        self.theta = nn.Parameter(initial_theta(num_heads, alpha, initial_sigma))

    def maps(self, q: Tensor, k: Tensor) -> Tensor:
        factor = axis_factors(sigma_of(self.theta, self.alpha), self.grid_size, self.grid_size)  # (heads, n, n)
        factor = factor.unflatten(-1, [-1, self.reduction]).sum(-1)  # (heads, n, n / reduction)
        grid = [self.grid_size, self.grid_size]
        return similarities(q, k) * distance_rows([factor, factor], grid, 0, q.shape[2])

    def map_rows(self, q: Tensor, k: Tensor, queries: Tensor) -> Tensor:
        return self.maps(q, k)[:, :, queries]

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.matmul(self.maps(q, k).to(v.dtype), v)


class ControlMixer(nn.Module):
    """One of the controls of :mod:`convformer_monai.networks.blocks.controls`, on the tokens of a square grid.

    Args:
        mixer: takes and returns feature maps.
        grid_size: grid points along an edge.
    """

    def __init__(self, mixer: nn.Module, grid_size: int) -> None:
        super().__init__()
        self.mixer = mixer
        self.grid_size = grid_size

    def _to_map(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).unflatten(2, [self.grid_size, self.grid_size])  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, context: Optional[Tensor] = None) -> Tensor:  # noqa: UP045
        """``(B, N, C)`` to ``(B, N, C)``; there is no use for a context."""
        return self.mixer(self._to_map(tokens)).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]

    def attention(self, tokens: Tensor, context: Tensor | None = None, queries: Tensor | None = None) -> Tensor:
        """Attention maps ``(B, heads, N, N)``, or some of their rows, if the control has any."""
        return self.mixer.attention(self._to_map(tokens), queries)  # type: ignore[no-any-return, operator]


class MixFFN(nn.Module):
    """Feed-forward network with a depth-wise 3x3 convolution on its hidden channels.

    Args:
        in_channels: channels of input and output, C.
        mlp_dim: hidden channels.
        dropout_rate: dropout after the activation and at the end.
    """

    def __init__(self, in_channels: int, mlp_dim: int, dropout_rate: float) -> None:
        super().__init__()
        self.expand = nn.Linear(in_channels, mlp_dim)
        self.depthwise = Conv[Conv.CONV, 2](mlp_dim, mlp_dim, 3, padding=1, groups=mlp_dim)
        self.project = nn.Linear(mlp_dim, in_channels)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, tokens: Tensor, grid: list[int]) -> Tensor:
        """``(B, N, C)`` to ``(B, N, C)``, N the product of ``grid``."""
        hidden = self.expand(tokens).transpose(1, 2).unflatten(2, grid)  # (B, mlp_dim, *grid)
        hidden = F.gelu(self.depthwise(hidden)).flatten(2).transpose(1, 2)
        return self.dropout(self.project(self.dropout(hidden)))  # type: ignore[no-any-return]


class WindowLayer(nn.Module):
    """Attention and Mix-FFN on the square feature map of a window, layer norm before each.

    Args:
        in_channels: channels of input and output, C.
        num_heads: attention heads, a divisor of C.
        mlp_dim: hidden channels of the Mix-FFN.
        reduction: how many times coarser the grid of keys and values is; a divisor of ``grid_size``.
        grid_size: grid points along the window's edge.
        dropout_rate: dropout at the end of both branches and inside the Mix-FFN.
        block: name of the block whose attention is used: ``convformer``, or one of ``ATTENTIONS`` and ``CONTROLS``.
        block_kwargs: ``alpha`` and ``initial_sigma`` of ``convformer``, ``initial_scale`` of ``layerscale``; further
            arguments of the ConvFormer block have no meaning here.

    Raises:
        ValueError: an argument is out of its range, or unknown.
        KeyError: the block is another.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int,
        mlp_dim: int,
        reduction: int,
        grid_size: int,
        dropout_rate: float = 0.0,
        block: str = "convformer",
        block_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        given = dict(block_kwargs or {})
        scales = [given.pop("initial_scale", 1e-4)] if block == "layerscale" else []
        check_known(given, CONVFORMER_ONLY)
        check_positive(in_channels=in_channels, num_heads=num_heads, reduction=reduction, grid_size=grid_size)
        if in_channels % num_heads:
            raise ValueError(f"num_heads must be a divisor of the {in_channels} channels, got {num_heads}")
        if grid_size % reduction:
            raise ValueError(f"reduction must be a divisor of the window's {grid_size} grid points, got {reduction}")
        sizes = (in_channels, num_heads, in_channels // num_heads)
        self.mixer: nn.Module
        if block == "convformer":
            gaussian = {name: given[name] for name in ("alpha", "initial_sigma") if name in given}
            self.mixer = GaussianAttention(*sizes, dropout_rate, grid_size, reduction, **gaussian)
        elif block in CONTROLS:
            self.mixer = ControlMixer(CONTROLS[block](2, *sizes, qkv_kernel_size=1, final_activation=False), grid_size)
            reduction = 1
        else:
            self.mixer = ATTENTIONS[block](*sizes, dropout_rate)
        self.reduced = reduction > 1
        self.norm1 = nn.LayerNorm(in_channels)
        self.reduce: nn.Module = nn.Identity()
        self.reduce_norm: nn.Module = nn.Identity()
        if self.reduced:
            self.reduce = Conv[Conv.CONV, 2](in_channels, in_channels, reduction, stride=reduction)
            self.reduce_norm = nn.LayerNorm(in_channels)
        self.norm2 = nn.LayerNorm(in_channels)
        self.mlp = MixFFN(in_channels, mlp_dim, dropout_rate)
        self.scale1 = LayerScale(in_channels, scales[0]) if scales else nn.Identity()
        self.scale2 = LayerScale(in_channels, scales[0]) if scales else nn.Identity()
        self.apply(initialise)

    def _tokens(self, x: Tensor) -> tuple[Tensor, Optional[Tensor]]:  # noqa: UP045
        """Normed tokens ``(B, N, C)`` of ``x``, and those that keys and values are made of, if they are others."""
        tokens = self.norm1(x.flatten(2).transpose(1, 2))
        if not self.reduced:
            return tokens, None
        coarse = self.reduce(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))
        return tokens, self.reduce_norm(coarse.flatten(2).transpose(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, n, n)`` to ``(B, C, n, n)``."""
        normed, context = self._tokens(x)
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, C)
        tokens = tokens + self.scale1(self.mixer(normed, context))
        tokens = tokens + self.scale2(self.mlp(self.norm2(tokens), x.shape[2:]))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])  # type: ignore[no-any-return]

    def attention(self, x: Tensor, queries: Tensor | None = None) -> Tensor:
        """The attention maps of ``x``: ``(B, heads, N, M)``, queries before keys; or some of their rows."""
        normed, context = self._tokens(x)
        return self.mixer.attention(normed, context, queries)  # type: ignore[no-any-return, operator]
