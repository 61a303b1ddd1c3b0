"""Two ways to the output A V of CNN-style self-attention, neither of which stores the N x N map A.

Paper: Lin et al., "ConvFormer", MICCAI 2023 (arXiv 2309.05674), section 2.2: A = S * G, the cosine similarities times
the Gaussian distance map of :mod:`convformer_monai.networks.blocks.gaussian`. The paper computes A as it stands. Here:

* :func:`mix_directly` takes some queries at a time, so that their scores stay in the processor's cache and the peak
  memory does not grow with N^2. When gradients of a large grid are needed, the scores are recomputed in the backward
  pass. Keys too far away to matter can be left out (``reach``).
* :func:`mix_separably` makes no scores. There is no softmax, so the output is linear in the products k v^T, and G is
  separable and along one axis a product of two thin matrices of rank r (10 to 20 for most heads): 2 N r d^2
  multiplications and a little more, instead of 2 N^2 d.

Both equal the definition up to rounding and :data:`TOLERANCE`.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from convformer_monai.networks.blocks.gaussian import distance_rows

TOLERANCE = 1e-6  # what may be neglected of an entry of G, relative to the largest entry of its row
CHUNK_ON_CPU = 2**21  # numbers held at a time: 8 MiB in float32, about a processor's last-level cache
CHUNK = 2**24  # the same on an accelerator, and in exported graphs, in which each chunk is spelled out
RECOMPUTE_ABOVE = 2**26  # scores of a batch above which the backward pass recomputes them


def _mix_chunk(
    q: Tensor, k: Tensor, v: Tensor, factors: list[Tensor], grid: list[int], reach: int, start: int, stop: int
) -> Tensor:
    """The output of the queries ``start`` to ``stop``: ``(B, heads, stop - start, d)``."""
    row = k.shape[2] // grid[0]  # tokens in a row, of all axes but the first
    first = max(0, start // row - reach)
    last = min(grid[0], (stop - 1) // row + reach + 1)
    keys = k[:, :, first * row : last * row].transpose(-1, -2)  # (B, heads, d, M)
    scores = torch.matmul(q[:, :, start:stop], keys)  # (B, heads, chunk, M)
    near = [factors[0][:, :, first:last]] + factors[1:]
    weights = distance_rows(near, grid, start, stop).to(scores.dtype)  # (heads, chunk, M)
    if scores.requires_grad or weights.requires_grad:
        scores = scores * weights
    else:
        scores = scores.mul_(weights)
    return torch.matmul(scores, v[:, :, first * row : last * row])


def mix_directly(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    factors: list[Tensor],
    grid: list[int],
    reach: int,
    budget: int = CHUNK_ON_CPU,
) -> Tensor:
    """A V by way of its definition, some queries at a time.

    Args:
        q: queries of unit length, ``(B, heads, N, d)``.
        k: keys of unit length, ``(B, heads, N, d)``.
        v: values, ``(B, heads, N, d)``.
        factors: for each axis the factors ``(heads, n, n)`` of the distance map.
        grid: grid points along each axis, N in all.
        reach: keys further away than this along the first axis are left out.
        budget: scores held at a time on a CPU.

    Returns:
        ``(B, heads, N, d)``.
    """
    heads, tokens = q.shape[1], q.shape[2]
    recompute = False
    if not torch.jit.is_scripting():
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            budget = CHUNK  # the batch may be dynamic, so it is left out of account
        else:
            recompute = torch.is_grad_enabled() and q.shape[0] * heads * tokens * tokens > RECOMPUTE_ABOVE
            budget = (budget if q.is_cpu else CHUNK) // q.shape[0]
    chunk = max(1, budget // (heads * tokens))
    parts: list[Tensor] = []
    for start in range(0, tokens, chunk):
        stop = min(start + chunk, tokens)
        if torch.jit.is_scripting():
            parts.append(_mix_chunk(q, k, v, factors, grid, reach, start, stop))
        elif recompute:
            parts.append(checkpoint(_mix_chunk, q, k, v, factors, grid, reach, start, stop, use_reentrant=False))
        else:
            parts.append(_mix_chunk(q, k, v, factors, grid, reach, start, stop))
    return torch.cat(parts, dim=2)


def mix_separably(
    q: Tensor, k: Tensor, v: Tensor, factors: list[Tensor], root: tuple[Tensor, Tensor], grid: list[int]
) -> Tensor:
    """A V of one head, without A.

    In two dimensions, with F the factor of the first axis and left @ right that of the last, the output of the query
    at row y and column x is

        sum_r left[x, r] * q[y, x] @ (sum_y' F[y, y'] * (sum_x' right[r, x'] * k[y', x']^T v[y', x']))

    Args:
        q: queries of unit length, ``(B, N, d)``.
        k: keys of unit length, ``(B, N, d)``.
        v: values, ``(B, N, d)``.
        factors: for each axis but the last the factor ``(n, n)`` of the distance map.
        root: ``left (n, rank)`` and ``right (rank, n)`` of the last axis.
        grid: grid points along each axis, N in all.

    Returns:
        ``(B, N, d)``.
    """
    left, right = root
    step = max(1, (CHUNK_ON_CPU if q.is_cpu else CHUNK) // q.numel())  # of the rank, R below
    q, k, v = (x.unflatten(1, grid) for x in (q, k, v))  # (B, ..., n, d)
    z = torch.zeros_like(q)
    for start in range(0, len(right), step):
        weighted = k[..., None, :] * right.T[:, start : start + step, None]  # (B, ..., n, R, d)
        summary = rearrange(weighted, "... n r d -> ... (r d) n") @ v  # (B, ..., R * d, d)
        for axis, factor in enumerate(factors):
            summary = torch.matmul(factor, summary.flatten(axis + 2)).view_as(summary)
        weighted = q[..., None, :] * left[:, start : start + step, None]  # (B, ..., n, R, d)
        z += weighted.flatten(-2) @ summary  # (B, ..., n, d)
    return z.flatten(1, -2)
