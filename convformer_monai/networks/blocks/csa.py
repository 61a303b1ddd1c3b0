"""CNN-style self-attention (CSA): cosine similarity times a learnable Gaussian distance map, exact and fast.

Paper: Lin et al., "ConvFormer", MICCAI 2023 (arXiv 2309.05674), section 2.2:

    A_ij = cos(q_i, k_j) * G_ij,  G_ij = exp(-d_ij^2 / (2 s^2)) / sum_j exp(-d_ij^2 / (2 s^2)),  Z = A V

with q, k, v from one 3x3 convolution, no softmax, d measured in fractions of the grid, and one learnable s per head,
s = 0.003 + (alpha - 0.003) * sigmoid(theta). Z passes a 1x1 convolution, batch norm and ReLU.

Deviations:

* The published code divides the N x N products of q and k by ``|q| |k| + 1e-4``; here q and k are scaled before
  (:func:`normalise`). Where lengths differ up to threefold about a mean L, the error stays below 1e-4 / L^2 of the
  largest entry; measured: 8e-6 at L = 3, 8e-5 at 1, 8e-4 at 0.3, 3e-2 at 0.03.
* In evaluation the distance map is kept between calls, and each head of a large grid takes the cheaper of the two
  ways of :mod:`convformer_monai.networks.blocks.mixing`: no change but rounding.
* On CUDA, Triton kernels do both (:mod:`convformer_monai.networks.blocks.csa_triton`), where they can.
* ``grid_size``, optional, measures d in fractions of a fixed reference grid instead of the current one, so that the
  receptive field keeps its size in pixels when a net trained on crops sees a whole image.
* ``initial_sigma``, ``qkv_kernel_size`` and ``final_activation``, optional, for ablations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convformer_monai.networks.blocks.csa_triton import csa, kernels_take
from convformer_monai.networks.blocks.gaussian import axis_factors, axis_roots, distance_rows_of
from convformer_monai.networks.blocks.mixing import TOLERANCE, mix_directly, mix_separably
from convformer_monai.networks.blocks.pooling import conv_norm_relu, same_size_conv
from convformer_monai.networks.checks import check_positive

SIGMA_MIN = 0.003
EPS = 1e-4


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()


def similarities(q: Tensor, k: Tensor, eps: float = EPS) -> Tensor:
    """The published similarities ``q_i . k_j / (a_i b_j + eps)``, a and b the lengths of q and k.

    Args:
        q: ``(..., N, d)``.
        k: ``(..., N, d)``.
        eps: of the published code, also in the lengths ``sqrt(|.|^2 + eps)``.

    Returns:
        ``(..., N, N)``.
    """
    q, k = at_least_float32(q), at_least_float32(k)
    a = torch.sqrt(q.square().sum(-1, keepdim=True) + eps)  # (..., N, 1)
    b = torch.sqrt(k.square().sum(-1, keepdim=True) + eps)
    lengths = a * b.transpose(-1, -2)
    return (q / a) @ (k / b).transpose(-1, -2) * (lengths / (lengths + eps))  # the product fits float16, for autocast


def normalise(q: Tensor, k: Tensor, eps: float = EPS) -> tuple[Tensor, Tensor]:
    """Scales queries and keys such that their products are the similarities.

    ``1 / (a_i b_j + eps)`` is nearly the product of a function of i and one of j. Let A and B be typical lengths,
    u = A / a_i, w = B / b_j and e = eps / (A B). Then it is ``1 / (a_i b_j)`` times

        1 - e u w  =  (1 - e (u - 1/2)) (1 - e (w - 1/2))  -  e (u - 1) (w - 1)  +  terms in e^2

    The first term is what is used here; leaving ``+ eps`` out would cost e u w, which matters for short vectors.

    Args:
        q: ``(..., N, d)``.
        k: ``(..., N, d)``.
        eps: see :func:`similarities`.

    Returns:
        q and k in the dtypes given, computed in float32 or better so that float16 cannot overflow.
    """
    wide_q, wide_k = at_least_float32(q), at_least_float32(k)
    square_q = wide_q.square().sum(-1, keepdim=True)  # (..., N, 1)
    square_k = wide_k.square().sum(-1, keepdim=True)
    inverse_q = torch.rsqrt(square_q + eps)  # 1 / a
    inverse_k = torch.rsqrt(square_k + eps)
    typical_q = torch.rsqrt(square_q.detach().mean(-2, keepdim=True) + eps)  # 1 / A
    typical_k = torch.rsqrt(square_k.detach().mean(-2, keepdim=True) + eps)
    scale_q = inverse_q * (1 - eps * typical_k * (inverse_q - typical_q / 2))
    scale_k = inverse_k * (1 - eps * typical_q * (inverse_k - typical_k / 2))
    return (wide_q * scale_q).to(q.dtype), (wide_k * scale_k).to(k.dtype)


def initial_theta(num_heads: int, alpha: float, initial_sigma: Sequence[float] | None) -> Tensor:
    """What the learnable parameter of each head's standard deviation starts from: ``(heads,)``.

    Args:
        num_heads: attention heads.
        alpha: see :class:`CSA`.
        initial_sigma: see :class:`CSA`.

    Raises:
        ValueError: ``alpha`` or ``initial_sigma`` is out of its range.
    """
    if alpha <= SIGMA_MIN:
        raise ValueError(f"alpha must be above {SIGMA_MIN}, got {alpha}")
    if initial_sigma is None:
        return torch.randn(num_heads)
    if not initial_sigma or not all(SIGMA_MIN < sigma < alpha for sigma in initial_sigma):
        raise ValueError(f"initial_sigma must lie within ({SIGMA_MIN}, alpha={alpha}), got {initial_sigma}")
    low, high = math.log10(min(initial_sigma)), math.log10(max(initial_sigma))
    sigma = torch.logspace(low, high, num_heads)
    return torch.logit((sigma - SIGMA_MIN) / (alpha - SIGMA_MIN))


def sigma_of(theta: Tensor, alpha: float, sigma_min: float = SIGMA_MIN) -> Tensor:
    """Standard deviation of each head's Gaussian, ``(heads,)`` in fractions of the grid, between the two bounds."""
    return sigma_min + (alpha - sigma_min) * torch.sigmoid(at_least_float32(theta))


class _DistanceMap(NamedTuple):
    """The distance map of a grid as evaluation keeps it, with the parameters that it was made from."""

    theta: Tensor
    grid: list[int]
    factors: list[Tensor]  # for each axis (heads, n, n)
    roots: list[tuple[Tensor, Tensor] | None]  # for each head those of the last axis; None: go the direct way
    reach: int  # along the first axis, of the heads that go the direct way


class CSA(nn.Module):
    """CNN-style self-attention on a feature map.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of input and output, C.
        num_heads: attention heads.
        head_dim: channels of a head, d.
        alpha: upper bound of the Gaussian's standard deviation, as a fraction of the grid (paper: 0.4).
        initial_sigma: where the standard deviations start: spread log-evenly over the heads, from the smallest to
            the largest value given; None draws theta from a standard normal distribution as published.
        grid_size: grid points an axis that count as distance 1; None takes the current grid, as published.
        qkv_kernel_size: odd kernel of the convolution that makes q, k and v (paper: 3).
        final_activation: end in a ReLU, as published.

    Raises:
        ValueError: an argument is out of its range.
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
        check_positive(num_heads=num_heads, head_dim=head_dim, grid_size=1 if grid_size is None else grid_size)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.alpha = alpha
        self.grid_size = grid_size
        inner = num_heads * head_dim
        self.to_qkv = same_size_conv(spatial_dims, in_channels, 3 * inner, qkv_kernel_size)
        self.theta = nn.Parameter(initial_theta(num_heads, alpha, initial_sigma))
        self.project = conv_norm_relu(spatial_dims, inner, in_channels, kernel_size=1, activation=final_activation)
        self._cache: _DistanceMap | None = None

    def sigma(self) -> Tensor:
        """Standard deviation of each head's Gaussian, ``(heads,)`` in fractions of the grid."""
        return sigma_of(self.theta, self.alpha)

    def factors(self, grid: list[int]) -> list[Tensor]:
        """The distance map of a grid: for each axis ``(heads, n, n)``, rows summing to 1."""
        sigma = self.sigma()
        unit = self.grid_size
        return [axis_factors(sigma, size, size if unit is None else unit) for size in grid]

    @torch.jit.unused
    def _distance_map(self, grid: list[int], like: Tensor) -> _DistanceMap:
        """The distance map of ``grid`` for tensors like ``like``, kept until one of these or theta's values change."""
        kept = self._cache
        if (
            kept is None
            or kept.grid != grid
            or kept.factors[0].dtype != like.dtype
            or kept.theta.device != self.theta.device
            or not torch.equal(kept.theta, self.theta)
        ):
            kept = self._cache = self._new_distance_map(grid, like)
        return kept

    @torch.jit.unused
    def _new_distance_map(self, grid: list[int], like: Tensor) -> _DistanceMap:
        """The distance map of ``grid``, with the cheaper way of each head chosen by its number of multiplications."""
        tokens = math.prod(grid)
        lines = tokens // grid[-1]
        units = [self.grid_size or size for size in grid]
        sigma = self.sigma().detach()
        roots: list[tuple[Tensor, Tensor] | None] = []
        reach = 0
        for head, (left, right) in enumerate(axis_roots(sigma, grid[-1], units[-1], TOLERANCE)):
            rows = math.ceil(float(sigma[head]) * units[0] * math.sqrt(-2 * math.log(TOLERANCE)))
            direct = 2 * tokens * self.head_dim * min(grid[0], 2 * rows + 1) * (tokens // grid[0])
            separable = len(right) * self.head_dim**2 * (2 * tokens + lines * sum(grid[:-1]))
            if separable < direct:
                roots.append((left.to(like), right.to(like)))
            else:
                roots.append(None)
                reach = max(reach, rows)
        factors = [factor.to(like) for factor in self.factors(grid)]
        return _DistanceMap(self.theta.detach().clone(), grid, factors, roots, reach)

    @torch.jit.unused
    def _mix_in_evaluation(self, q: Tensor, k: Tensor, v: Tensor, grid: list[int]) -> Tensor:
        """A V, each head by the cheaper way: ``(B, heads, N, d)``."""
        _, _, factors, roots, reach = self._distance_map(grid, q)
        direct = [head for head, root in enumerate(roots) if root is None]
        if len(direct) == self.num_heads:
            return mix_directly(q, k, v, factors, grid, reach)
        z = torch.empty_like(v)
        if direct:
            few = [factor[direct] for factor in factors]
            z[:, direct] = mix_directly(q[:, direct], k[:, direct], v[:, direct], few, grid, reach)
        for head, root in enumerate(roots):
            if root is not None:
                others = [factor[head] for factor in factors[:-1]]
                z[:, head] = mix_separably(q[:, head], k[:, head], v[:, head], others, root, grid)
        return z

    def mix(self, q: Tensor, k: Tensor, v: Tensor, grid: list[int]) -> Tensor:
        """The attention itself, A V.

        Args:
            q: queries, ``(B, heads, N, d)``.
            k: keys, ``(B, heads, N, d)``.
            v: values, ``(B, heads, N, d)``.
            grid: grid points along each axis, N in all.

        Returns:
            ``(B, heads, N, d)``.
        """
        if not torch.jit.is_scripting():
            if kernels_take(q, k, v, grid):
                return csa(q, k, v, self.theta, (SIGMA_MIN, self.alpha), EPS, grid, self.grid_size)
        q, k = normalise(q, k)
        if not torch.jit.is_scripting():
            if not (torch.is_grad_enabled() or torch.jit.is_tracing() or torch.compiler.is_compiling()):
                return self._mix_in_evaluation(q, k, v, grid)
        factors = [factor.to(q.dtype) for factor in self.factors(grid)]
        return mix_directly(q, k, v, factors, grid, grid[0])

    def _qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values: ``(B, heads, N, d)`` each, contiguous."""
        qkv = self.to_qkv(x).flatten(2)  # (B, 3 * heads * d, N)
        qkv = qkv.unflatten(1, (3, self.num_heads, self.head_dim)).permute(1, 0, 2, 4, 3).contiguous()
        q, k, v = qkv.unbind(0)  # not by index: their gradients become one tensor in one step
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *spatial)`` to ``(B, C, *spatial)``."""
        q, k, v = self._qkv(x)
        z = self.mix(q, k, v, list(x.shape[2:]))
        z = z.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:])  # (B, heads * d, *spatial)
        return self.project(z)  # type: ignore[no-any-return]

    def attention(self, x: Tensor, queries: Tensor | None = None) -> Tensor:
        """The signed attention maps A of ``x``, by their definition.

        Args:
            x: ``(B, C, *spatial)``.
            queries: ``(Q,)`` tokens, in row-major order, whose rows to return; None for all N.

        Returns:
            ``(B, heads, Q, N)``, queries before keys.
        """
        q, k, _ = self._qkv(x)
        grid = list(x.shape[2:])
        if queries is None:
            queries = torch.arange(q.shape[2], device=x.device)
        return similarities(q[:, :, queries], k) * distance_rows_of(self.factors(grid), grid, queries)

    def __getstate__(self) -> dict[str, object]:
        """Leave the distance map kept out of copies and pickles."""
        return {**self.__dict__, "_cache": None}
