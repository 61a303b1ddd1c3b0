"""ConvFormerUNet: ConvFormer blocks at the deep levels of a small U-shaped net; ours, for practice on plain CPUs.

From the paper (Lin et al., MICCAI 2023, arXiv 2309.05674): the encoder is its pooling stem, the deep levels are its
blocks. Ours: the U shape, whose decoder adds each skip to the upsampled features (no concatenation, so that the
costly full-resolution levels stay narrow), deep supervision, and attention distances measured on a fixed reference
grid (``grid_size``), so that a net trained on crops sees whole images with unchanged receptive fields. What was
measured before these widths were chosen: docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from monai.networks.layers.factories import Conv, Pool
from torch import Tensor, nn

from convformer_monai.networks.blocks.pooling import conv_norm_relu
from convformer_monai.networks.checks import check_fraction, check_positive
from convformer_monai.networks.encoder import Encoder
from convformer_monai.networks.registry import BLOCKS, NETS, lookup


class Fuse(nn.Module):
    """One decoder step: narrow, upsample to the skip's size, add the skip, convolve.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the deeper features.
        out_channels: channels of the skip and of the result.
        num_convs: 3x3 convolutions after the addition.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, num_convs: int) -> None:
        super().__init__()
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"
        self.narrow = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, 1)
        self.convs = nn.Sequential(
            *(conv_norm_relu(spatial_dims, out_channels, out_channels) for _ in range(num_convs))
        )

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """``deep`` (B, in_channels, *small) and ``skip`` (B, out_channels, *large) to (B, out_channels, *large)."""
        # Exactly twice the size, then cropped: resizing to an odd size would shift the features against the skip.
        up = F.interpolate(self.narrow(deep), scale_factor=2.0, mode=self.mode, align_corners=False)
        for axis in range(2, skip.dim()):
            up = up.narrow(axis, 0, skip.shape[axis])
        return self.convs(skip + up)  # type: ignore[no-any-return]


class ConvFormerUNet(nn.Module):
    """U-shaped segmentation net with ConvFormer blocks at its deep levels, for images of any size.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: channels at each scale, full resolution first.
        num_convs: 3x3 convolutions a scale in encoder and decoder (at least 1).
        num_layers: blocks at each scale, full resolution first; 0 for none.
        head_dim: channels of an attention head; a scale has ``channels // head_dim`` heads.
        block: name of the block, see :data:`convformer_monai.networks.registry.BLOCKS`.
        block_kwargs: further arguments of the block.
        grid_sizes: for each scale the grid points an axis that count as distance 1 in the attention; None measures
            in fractions of the current grid, as published.
        dropout: probability of dropping whole channels before the output convolution.
        deep_supervision: in training mode, also return logits of the coarser decoder scales.

    Raises:
        ValueError: ``channels``, ``num_layers`` and ``grid_sizes`` differ in length, an argument is out of its range,
            or a name is unknown.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        channels: Sequence[int] = (16, 32, 64, 128, 192),
        num_convs: int = 1,
        num_layers: Sequence[int] = (0, 0, 0, 2, 2),
        head_dim: int = 32,
        block: str = "convformer",
        block_kwargs: dict[str, Any] | None = None,
        grid_sizes: Sequence[int] | None = None,
        dropout: float = 0.0,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"channels must name at least two scales, got {tuple(channels)}")
        for name, values in (("num_layers", num_layers), ("grid_sizes", grid_sizes)):
            if values is not None and len(values) != len(channels):
                raise ValueError(
                    f"{name} must hold one number for each of the {len(channels)} channels, got {tuple(values)}"
                )
        if min(num_layers) < 0:
            raise ValueError(f"num_layers must hold numbers of at least 0, got {tuple(num_layers)}")
        check_positive(out_channels=out_channels, num_convs=num_convs, head_dim=head_dim)
        check_fraction(dropout=dropout)
        lookup(BLOCKS, block)  # also where no scale has blocks
        self.deep_supervision = deep_supervision
        self.encoder = nn.ModuleList()
        for level, width in enumerate(channels):
            stage = [Pool[Pool.MAX, spatial_dims](2, ceil_mode=True)] if level else []
            previous = channels[level - 1] if level else in_channels
            stage.append(conv_norm_relu(spatial_dims, previous, width))
            if num_layers[level]:
                extra = dict(block_kwargs or {})
                if grid_sizes is not None:
                    extra["grid_size"] = grid_sizes[level]
                heads = max(1, width // head_dim)
                stage.append(Encoder(spatial_dims, width, num_layers[level], heads, head_dim, block, **extra))
            else:
                stage.extend(conv_norm_relu(spatial_dims, width, width) for _ in range(num_convs - 1))
            self.encoder.append(nn.Sequential(*stage))
        self.decoder = nn.ModuleList(
            Fuse(spatial_dims, deep, shallow, num_convs)
            for shallow, deep in reversed(list(zip(channels, channels[1:], strict=False)))
        )
        drop = nn.Dropout2d if spatial_dims == 2 else nn.Dropout3d
        # Logits of the decoder scales, coarse to fine; without deep supervision of the finest alone.
        widths = list(reversed(channels[:-1])) if deep_supervision else [channels[0]]
        self.heads = nn.ModuleList(
            nn.Sequential(drop(dropout), Conv[Conv.CONV, spatial_dims](width, out_channels, 1)) for width in widths
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Segment ``x``.

        Args:
            x: ``(B, in_channels, *spatial)``, any size.

        Returns:
            Logits ``(B, out_channels, *spatial)``; in training mode with deep supervision a list of these, finest
            first, each coarser one of half the size.
        """
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        decoded: list[Tensor] = []
        for i, fuse in enumerate(self.decoder):
            x = fuse(x, skips[len(skips) - 2 - i])
            decoded.append(x)
        if self.training and self.deep_supervision:
            logits: list[Tensor] = []
            for i, head in enumerate(self.heads):
                logits.insert(0, head(decoded[i]))
            return logits
        return self.heads[-1](x)  # type: ignore[no-any-return]


NETS.add("ConvFormerUNet", "U-shaped net with ConvFormer blocks at its deep levels", ConvFormerUNet)
