"""Overlapping windows of a feature map, and the feature map again from their middles.

Paper: Ou et al., "Patcher: Patch Transformers with Mixture of Experts for Precise Medical Image Segmentation", MICCAI
2022 (arXiv 2206.01741): large patches, each with a margin of context that is dropped afterwards.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def split_windows(x: Tensor, size: int, context: int) -> tuple[Tensor, int, int]:
    """Cuts ``x`` into windows; what lies outside the map is zero.

    Args:
        x: ``(B, C, H, W)``.
        size: edge length of a window without its context.
        context: grid points added on each side.

    Returns:
        Windows ``(B * rows * columns, C, size + 2 * context, size + 2 * context)``, rows and columns of windows.
    """
    below, right = -x.shape[2] % size, -x.shape[3] % size
    x = F.pad(x, [context, context + right, context, context + below])
    edge = size + 2 * context
    windows = x.unfold(2, edge, size).unfold(3, edge, size)  # (B, C, rows, columns, edge, edge)
    rows, columns = windows.shape[2], windows.shape[3]
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2), rows, columns


def join_windows(windows: Tensor, rows: int, columns: int, context: int) -> Tensor:
    """The map of which :func:`split_windows` cut the windows, filled up to whole windows.

    Args:
        windows: ``(B * rows * columns, C, size + 2 * context, size + 2 * context)``.
        rows: rows of windows.
        columns: columns of windows.
        context: grid points to drop on each side.

    Returns:
        ``(B, C, rows * size, columns * size)``.
    """
    size = windows.shape[-1] - 2 * context
    middles = windows[:, :, context : context + size, context : context + size]
    middles = middles.unflatten(0, [-1, rows, columns]).permute(0, 3, 1, 4, 2, 5)  # (B, C, rows, size, columns, size)
    return middles.flatten(4, 5).flatten(2, 3)  # type: ignore[no-any-return]
