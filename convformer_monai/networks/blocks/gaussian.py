"""The Gaussian distance map of CSA, kept as one small matrix an axis.

Paper: Lin et al., "ConvFormer", MICCAI 2023 (arXiv 2309.05674), section 2.2. For tokens i and j of a grid, whose
distance d_ij is measured in fractions of the grid,

    G_ij = exp(-d_ij^2 / (2 s^2)) / sum_j exp(-d_ij^2 / (2 s^2))

d^2 is a sum over axes, so G is the outer product of one row-normalised matrix an axis (:func:`axis_factors`), and is
never stored: :func:`distance_rows` makes the rows that are needed. Before its rows are normalised, such a matrix is
symmetric, positive definite and, unless s is small, of low rank: :func:`axis_roots` factors it.

Deviation, optional: distances can be measured in units of a fixed number of grid points (``unit``).
"""

from __future__ import annotations

import torch
from torch import Tensor


def axis_factors(sigma: Tensor, size: int, unit: int) -> Tensor:
    """One axis of the distance map.

    Args:
        sigma: ``(heads,)`` standard deviations s, in fractions of ``unit`` grid points.
        size: grid points along the axis, n.
        unit: grid points that count as distance 1; as published the axis's own number.

    Returns:
        ``(heads, n, n)``, queries before keys; each row sums to 1.
    """
    position = torch.arange(size, device=sigma.device, dtype=sigma.dtype) / unit
    squared = (position[:, None] - position[None, :]) ** 2  # (n, n)
    return torch.softmax(-squared[None] / (2 * sigma[:, None, None] ** 2), dim=-1)


def distance_rows(factors: list[Tensor], grid: list[int], start: int, stop: int) -> Tensor:
    """Rows ``start`` to ``stop`` of the distance map.

    Args:
        factors: for each axis the factors ``(heads, n, n)``.
        grid: grid points along each axis, N in all.
        start: first query token, in row-major order.
        stop: the one after the last.

    Returns:
        ``(heads, stop - start, N)``; each row sums to 1.
    """
    return distance_rows_of(factors, grid, torch.arange(start, stop, device=factors[0].device))


def distance_rows_of(factors: list[Tensor], grid: list[int], queries: Tensor) -> Tensor:
    """The rows of chosen queries of the distance map.

    Args:
        factors: see :func:`distance_rows`.
        grid: see :func:`distance_rows`.
        queries: ``(Q,)`` query tokens, in row-major order.

    Returns:
        ``(heads, Q, N)``; each row sums to 1.
    """
    below = 1
    for size in grid:
        below = below * size
    rows = torch.ones(1, len(queries), 1, device=factors[0].device, dtype=factors[0].dtype)
    for factor, size in zip(factors, grid):  # noqa: B905 (TorchScript knows no strict)
        below = below // size
        axis = factor[:, (queries // below) % size]  # (heads, Q, n)
        rows = (rows[..., None] * axis[:, :, None]).flatten(2)  # (heads, Q, n_1 * ... * n)
    return rows


def axis_roots(sigma: Tensor, size: int, unit: int, tolerance: float) -> list[tuple[Tensor, Tensor]]:
    """Factors of one axis as products of two thin matrices: ``axis_factors(...)[head] = left @ right``.

    The eigenvectors of the map before normalisation whose eigenvalues exceed ``tolerance``. What is left out is
    positive semi-definite, so none of its entries exceeds the largest eigenvalue left out: an entry of the product is
    off by at most ``tolerance`` times its row's largest entry.

    Args:
        sigma: see :func:`axis_factors`.
        size: see :func:`axis_factors`.
        unit: see :func:`axis_factors`.
        tolerance: largest eigenvalue left out; the map's largest entry is 1.

    Returns:
        For each head ``left (n, rank)`` and ``right (rank, n)``, in float64 on the CPU.
    """
    position = torch.arange(size, dtype=torch.float64) / unit
    squared = (position[:, None] - position[None, :]) ** 2
    gaussian = torch.exp(-squared / (2 * sigma.cpu().double()[:, None, None] ** 2))  # (heads, n, n)
    values, vectors = torch.linalg.eigh(gaussian)
    roots = []
    for head in range(len(sigma)):
        kept = values[head] > tolerance
        root = vectors[head][:, kept] * values[head][kept].sqrt()  # (n, rank), entries at most 1
        # The size goes from right to left, so that sums over keys with the weights `right` stay small in float16.
        roots.append((root * size / gaussian[head].sum(-1, keepdim=True), root.T / size))
    return roots
