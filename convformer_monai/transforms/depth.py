"""Slices at fixed distances above and below a slice: depth for 2-D networks (2.5-D), in thin and thick series."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["averaged", "slice_positions", "with_neighbours"]

SAME_SLICE = 0.1  # of the distance between slices: nearer than this, a slice is taken as it is


def slice_positions(depth: int, spacing: float, distances: Sequence[float]) -> Tensor:
    """Where the neighbours of each slice lie.

    Args:
        depth: number of slices Z.
        spacing: distance between them, mm.
        distances: of the neighbours, mm; 0 is the slice itself, above it is positive.

    Returns:
        (Z, K) positions in slices; beyond the first and the last slice these are repeated. What is nearer than a tenth
        to a slice is that slice.
    """
    steps = torch.tensor([float(distance) for distance in distances]) / spacing
    places = (torch.arange(depth)[:, None] + steps).clamp(0, depth - 1)
    return torch.where((places - places.round()).abs() < SAME_SLICE, places.round(), places)


def with_neighbours(volume: Tensor, positions: Tensor) -> Tensor:
    """Takes slices and their neighbours out of a volume, interpolated linearly between slices.

    Args:
        volume: (X, Y, Z).
        positions: (N, K), see :func:`slice_positions`.

    Returns:
        (N, K, X, Y).
    """
    positions = positions.to(volume.device)
    low = positions.floor().long()
    part = (positions - low).to(volume.dtype)[..., None, None]
    slices = volume.permute(2, 0, 1)
    below = slices[low]  # (N, K, X, Y)
    if not bool((part > 0).any()):
        return below
    return torch.lerp(below, slices[(low + 1).clamp(max=len(slices) - 1)], part.expand_as(below))


def averaged(volume: Tensor, count: int) -> Tensor:
    """Averages each slice with its neighbours, so that thin slices have the noise and the blur of a thicker one.

    Args:
        volume: (X, Y, Z).
        count: slices to average; an even number is made odd, the first and last slice are repeated.

    Returns:
        (X, Y, Z).
    """
    reach = min(count, volume.shape[2]) // 2
    if reach < 1:
        return volume
    before, after = volume[..., :1].expand(-1, -1, reach), volume[..., -1:].expand(-1, -1, reach)
    padded = torch.cat([before, volume, after], dim=2)
    return torch.nn.functional.avg_pool1d(padded, 2 * reach + 1, stride=1)
