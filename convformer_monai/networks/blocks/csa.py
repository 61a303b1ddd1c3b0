"""CNN-style self-attention (CSA): cosine similarity times a learnable Gaussian distance map, exact and fast.

Paper: Lin et al., "ConvFormer", MICCAI 2023 (arXiv 2309.05674), section 2.2:

    A_ij = cos(q_i, k_j) * G_ij,  G_ij = exp(-d_ij^2 / (2 s^2)) / sum_j exp(-d_ij^2 / (2 s^2)),  Z = A V

with q, k, v from one 3x3 convolution, no softmax, d measured in fractions of the grid, and one learnable s per head,
s = 0.003 + (alpha - 0.003) * sigmoid(theta).

How it is computed here:

* q and k are divided by ``sqrt(|.|^2 + 1e-4)`` before their product. The published code divides the N x N product
  and adds another 1e-4 to the product of the norms; the difference is the only deviation, about 1e-6 relative.
* d^2 is a sum over axes, so G is an outer product of one small row-normalised matrix an axis: it is never stored.
* Queries are processed in chunks whose N_chunk x N scores stay in the processor's cache: peak memory does not grow
  with N^2. When gradients of a large grid are wanted, chunks are recomputed in the backward pass.
* ``grid_size`` (ours) measures d in fractions of a fixed reference grid instead of the current one, so that the
  receptive field keeps its size in pixels when a net trained on crops sees a whole image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convformer_monai.networks.blocks.pooling import conv_norm_relu

SIGMA_MIN = 0.003
EPS = 1e-4
SCORES_PER_CHUNK = 2**19  # scores of all heads of one image held at a time: 2 MiB in float32
RECOMPUTE_ABOVE = 2**24  # scores of all heads of one image above which the backward pass recomputes them


def gaussian_factor(sigma: Tensor, size: int, unit: int) -> Tensor:
    """One axis of the Gaussian distance map.

    Args:
        sigma: ``(heads,)`` standard deviations, in fractions of ``unit`` grid points.
        size: grid points along the axis, n.
        unit: grid points that count as distance 1.

    Returns:
        ``(heads, n, n)``; each row sums to 1. The outer product of the factors of all axes is the map of the paper.
    """
    position = torch.arange(size, device=sigma.device, dtype=sigma.dtype) / unit
    squared = (position[:, None] - position[None, :]) ** 2  # (n, n)
    return torch.softmax(-squared[None] / (2 * sigma[:, None, None] ** 2), dim=-1)


def _rows(factors: list[Tensor], start: int, stop: int, grid: list[int]) -> Tensor:
    """Rows ``start:stop`` of the distance map over all tokens: ``(heads, stop - start, N)``."""
    query = torch.arange(start, stop, device=factors[0].device)
    below = 1
    for size in grid:
        below = below * size
    rows = torch.ones(1, stop - start, 1, device=factors[0].device, dtype=factors[0].dtype)
    for factor, size in zip(factors, grid):  # noqa: B905 (TorchScript knows no strict)
        below = below // size
        axis = factor[:, (query // below) % size]  # (heads, chunk, n)
        rows = (rows[..., None] * axis[:, :, None]).flatten(2)  # (heads, chunk, n_1 * ... * n)
    return rows


def _attend(q: Tensor, k: Tensor, v: Tensor, factors: list[Tensor], start: int, stop: int, grid: list[int]) -> Tensor:
    """Output of queries ``start:stop``; q, k unit length, all ``(B, heads, N, d)``. Returns (B, heads, chunk, d)."""
    scores = torch.matmul(q[:, :, start:stop], k.transpose(-1, -2))  # (B, heads, chunk, N)
    weights = _rows(factors, start, stop, grid).to(scores.dtype)
    if scores.requires_grad or weights.requires_grad:
        scores = scores * weights
    else:
        scores = scores.mul_(weights)
    return torch.matmul(scores, v)


def _unit_length(x: Tensor, eps: float = EPS) -> Tensor:
    """Divide ``(..., d)`` by its length, computed in float32 so that float16 cannot overflow."""
    squared = (x.float() * x.float()).sum(-1, keepdim=True)
    return x * torch.rsqrt(squared + eps).to(x.dtype)


class CSA(nn.Module):
    """CNN-style self-attention on a feature map.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of input and output, C.
        num_heads: attention heads.
        head_dim: channels of a head, d.
        alpha: upper bound of the Gaussian's standard deviation, as a fraction of the grid (paper: 0.4).
        initial_sigma: where the standard deviations start, spread log-evenly over the heads between the two bounds;
            None draws theta from a standard normal distribution as published.
        grid_size: grid points an axis that count as distance 1; None takes the current grid, as published.
        qkv_kernel_size: kernel of the convolution that makes q, k and v (paper: 3).
        final_activation: end in a ReLU, as published.

    Raises:
        ValueError: ``alpha`` is not above 0.003, or ``initial_sigma`` is not within (0.003, alpha).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_heads: int,
        head_dim: int = 64,
        alpha: float = 0.4,
        initial_sigma: Sequence[float] | None = None,
        grid_size: int | None = None,
        qkv_kernel_size: int = 3,
        final_activation: bool = True,
    ) -> None:
        super().__init__()
        if alpha <= SIGMA_MIN:
            raise ValueError(f"alpha must be above {SIGMA_MIN}, got {alpha}")
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.alpha = alpha
        self.sigma_min = SIGMA_MIN
        self.scores_per_chunk = SCORES_PER_CHUNK
        self.grid_size = grid_size
        inner = num_heads * head_dim
        self.to_qkv = Conv[Conv.CONV, spatial_dims](
            in_channels, 3 * inner, qkv_kernel_size, padding=qkv_kernel_size // 2, bias=False
        )
        self.theta = nn.Parameter(self._initial_theta(initial_sigma))
        self.project = conv_norm_relu(spatial_dims, inner, in_channels, kernel_size=1)
        if not final_activation:
            self.project = self.project[:-1]
        self._cache: tuple[Tensor, tuple[object, ...], list[Tensor]] | None = None

    def _initial_theta(self, initial_sigma: Sequence[float] | None) -> Tensor:
        if initial_sigma is None:
            return torch.randn(self.num_heads)
        low, high = min(initial_sigma), max(initial_sigma)
        if not SIGMA_MIN < low <= high < self.alpha:
            raise ValueError(f"initial_sigma must lie within ({SIGMA_MIN}, alpha={self.alpha}), got {initial_sigma}")
        sigma = torch.logspace(math.log10(low), math.log10(high), self.num_heads)
        return torch.logit((sigma - SIGMA_MIN) / (self.alpha - SIGMA_MIN))

    def sigma(self) -> Tensor:
        """Standard deviation of each head's Gaussian, ``(heads,)`` in fractions of the grid."""
        return self.sigma_min + (self.alpha - self.sigma_min) * torch.sigmoid(self.theta.float())

    def _new_factors(self, grid: list[int]) -> list[Tensor]:
        sigma = self.sigma()
        unit = self.grid_size
        return [gaussian_factor(sigma, size, size if unit is None else unit) for size in grid]

    @torch.jit.unused
    def _cached_factors(self, grid: list[int], dtype: torch.dtype) -> list[Tensor]:
        """Factors of ``grid``, kept until theta's values, the grid, the device or the dtype change."""
        key = (tuple(grid), self.theta.device, dtype)
        if self._cache is None or self._cache[1] != key or not torch.equal(self._cache[0], self.theta):
            factors = [factor.to(dtype) for factor in self._new_factors(grid)]
            self._cache = (self.theta.detach().clone(), key, factors)
        return self._cache[2]

    def _factors(self, grid: list[int], dtype: torch.dtype) -> list[Tensor]:
        if not torch.jit.is_scripting():
            if not (self.training or torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling()):
                return self._cached_factors(grid, dtype)
        return [factor.to(dtype) for factor in self._new_factors(grid)]

    def train(self, mode: bool = True) -> CSA:
        """Set the mode; the cached factors are dropped."""
        self._cache = None
        super().train(mode)
        return self

    def __getstate__(self) -> dict[str, object]:
        """Leave the cache out of copies and pickles."""
        return {**self.__dict__, "_cache": None}

    def _qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit-length q and k, and v: ``(B, heads, N, d)`` each."""
        qkv = self.to_qkv(x).flatten(2)  # (B, 3 * heads * d, N)
        qkv = qkv.unflatten(1, (3, self.num_heads, self.head_dim)).permute(1, 0, 2, 4, 3)  # (3, B, heads, N, d)
        return _unit_length(qkv[0]), _unit_length(qkv[1]), qkv[2]

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, grid: list[int]) -> Tensor:
        """A V for all queries: ``(B, heads, N, d)``."""
        factors = self._factors(grid, q.dtype)
        tokens = q.shape[2]
        chunk = max(1, self.scores_per_chunk // (self.num_heads * tokens))
        if chunk >= tokens:
            return _attend(q, k, v, factors, 0, tokens, grid)
        parts: list[Tensor] = []
        for start in range(0, tokens, chunk):
            stop = min(start + chunk, tokens)
            if torch.jit.is_scripting():
                parts.append(_attend(q, k, v, factors, start, stop, grid))
            elif torch.is_grad_enabled() and self.num_heads * tokens * tokens > RECOMPUTE_ABOVE:
                parts.append(checkpoint(_attend, q, k, v, factors, start, stop, grid, use_reentrant=False))
            else:
                parts.append(_attend(q, k, v, factors, start, stop, grid))
        return torch.cat(parts, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *spatial)`` to ``(B, C, *spatial)``."""
        q, k, v = self._qkv(x)
        z = self._mix(q, k, v, list(x.shape[2:]))
        z = z.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:])  # (B, heads * d, *spatial)
        return self.project(z)  # type: ignore[no-any-return]

    def attention(self, x: Tensor) -> Tensor:
        """The signed attention maps A of ``x``: ``(B, heads, N, N)``, queries before keys."""
        q, k, _ = self._qkv(x)
        grid = x.shape[2:]
        return q @ k.transpose(-1, -2) * _rows(self._factors(list(grid), q.dtype), 0, q.shape[2], list(grid))
