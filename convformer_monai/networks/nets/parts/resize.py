"""Enlarging feature maps of images of any size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def enlarge(x: Tensor, factor: int, like: Tensor) -> Tensor:
    """``x`` enlarged exactly ``factor`` times, then cropped at its end to the size of ``like``.

    A grid that was made by halving with rounding up has its last points partly outside the image. Resizing it to the
    target size would shift it against the image; cropping does not.

    Args:
        x: ``(B, C, h, w)``.
        factor: how many times finer the grid becomes.
        like: ``(B, any, H, W)`` with ``H <= factor * h`` and ``W <= factor * w``.

    Returns:
        ``(B, C, H, W)``.
    """
    x = F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
    return x[:, :, : like.shape[2], : like.shape[3]]
