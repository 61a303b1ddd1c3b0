"""Patch embedding with a position embedding that fits any grid.

Paper: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021 (arXiv 2010.11929): each patch is mapped
linearly to a token, and a learned vector is added that depends on the token's place.

Deviation: for a grid other than the one it was learned on, the position embedding is interpolated (bicubic in 2-D,
trilinear in 3-D); an image that is not a multiple of the patch size is filled up at its end with its border's values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from convformer_monai.networks.checks import check_fraction, check_numbers, check_positive, check_spatial_dims


class PatchEmbedding(nn.Module):
    """Image to feature map, each grid point from one patch.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        hidden_size: channels of the feature map, C.
        patch_size: edge length of a patch in pixels.
        grid: grid points along each axis for which the position embedding is learned.
        dropout_rate: dropout on the result.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        hidden_size: int,
        patch_size: int,
        grid: Sequence[int],
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_positive(in_channels=in_channels, hidden_size=hidden_size, patch_size=patch_size)
        check_fraction(dropout_rate=dropout_rate)
        check_numbers("grid", grid, spatial_dims)
        self.patch_size = patch_size
        self.mode = "bicubic" if spatial_dims == 2 else "trilinear"
        self.project = Conv[Conv.CONV, spatial_dims](in_channels, hidden_size, patch_size, stride=patch_size)
        self.position = nn.Parameter(torch.randn(1, hidden_size, *grid) * 0.02)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``x``.

        Args:
            x: ``(B, in_channels, *spatial)``.

        Returns:
            ``(B, C, *spatial / patch_size)``, rounded up.
        """
        missing: list[int] = []
        for size in x.shape[2:]:
            missing = [0, -size % self.patch_size] + missing  # F.pad starts at the last axis
        if sum(missing) > 0:
            x = F.pad(x, missing, mode="replicate")
        x = self.project(x)
        position: Tensor = self.position
        if x.shape[2:] != position.shape[2:]:
            position = F.interpolate(position, size=x.shape[2:], mode=self.mode, align_corners=False)
        return self.dropout(x + position)  # type: ignore[no-any-return]
