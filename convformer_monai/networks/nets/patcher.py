"""Patcher: transformers on large patches with context, at four scales, and a decoder that mixes these as experts.

Paper: Ou et al., "Patcher: Patch Transformers with Mixture of Experts for Precise Medical Image Segmentation", MICCAI
2022 (arXiv 2206.01741); sizes and ConvFormer's place as in Lin et al., MICCAI 2023 (arXiv 2309.05674): 3, 4, 6 and 3
layers (originally 3, 6, 40 and 3), and only the attention score changes, see
:mod:`convformer_monai.networks.nets.parts.window_layer`.

Deviations: images of any size, zero beyond their border; q, k and v without bias; no stochastic depth. The encoder's
initial weights are the published ones.
Parameters (1 channel, 4 classes): 24.7 million with ``vit`` as with ``convformer``, as published. The controls have no
reduced keys, and so 2.8 million fewer (``conv``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from convformer_monai.networks.checks import check_fraction, check_numbers, check_positive
from convformer_monai.networks.nets.parts.experts import ExpertDecoder
from convformer_monai.networks.nets.parts.resize import enlarge
from convformer_monai.networks.nets.parts.transformer import ChannelLayerNorm
from convformer_monai.networks.nets.parts.window_layer import initialise, window_layer
from convformer_monai.networks.nets.parts.windows import join_windows, split_windows
from convformer_monai.networks.registry import NETS


class PatcherStage(nn.Module):
    """Windows of a feature map, embedded at half the resolution, through transformer layers.

    Args:
        in_channels: channels of the input.
        channels: channels of the result.
        num_layers: transformer layers.
        patch_size: edge length of a window without its context, in grid points of the input; even.
        context: grid points of context on each side; even.
        layer_kwargs: arguments of :func:`~convformer_monai.networks.nets.parts.window_layer.window_layer`.
    """

    def __init__(
        self, in_channels: int, channels: int, num_layers: int, patch_size: int, context: int, **layer_kwargs: Any
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.context = context
        self.embed = Conv[Conv.CONV, 2](in_channels, channels, 2, stride=2)
        self.embed.apply(initialise)
        grid_size = (patch_size + 2 * context) // 2
        self.layers = nn.ModuleList(
            window_layer(channels, grid_size=grid_size, **layer_kwargs) for _ in range(num_layers)
        )
        self.norm = ChannelLayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to ``(B, channels, H / 2, W / 2)``, rounded up."""
        windows, rows, columns = split_windows(x, self.patch_size, self.context)
        windows = self.embed(windows)
        for layer in self.layers:
            windows = layer(windows)
        joined = join_windows(self.norm(windows), rows, columns, self.context // 2)
        return joined[:, :, : (x.shape[2] + 1) // 2, : (x.shape[3] + 1) // 2]

    def attention(self, x: Tensor) -> list[Tensor]:
        """The attention maps of each layer, ``(windows, heads, N, M)``, the windows of all images in a row."""
        windows = self.embed(split_windows(x, self.patch_size, self.context)[0])
        maps = []
        for layer in self.layers:
            maps.append(layer.attention(windows))  # type: ignore[operator]
            windows = layer(windows)
        return maps


class Patcher(nn.Module):
    """Window transformers at several scales and a mixture of experts, for 2-D images of any size.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        channels: channels of each stage; each halves the resolution.
        num_layers: layers of each stage.
        num_heads: attention heads of each stage.
        reductions: how many times coarser the grid of keys and values is, in each stage.
        mlp_ratio: hidden channels of the feed-forward networks, in multiples of the stage's channels.
        patch_size: edge length of a large patch, in grid points of the stage's input.
        context: grid points of context on each side of it.
        decoder_channels: channels of an expert.
        dropout_rate: dropout in the layers and before the logits (in the paper 0.1, before the logits only).
        block: name of the block, see :data:`convformer_monai.networks.registry.BLOCKS`.
        block_kwargs: further arguments of the block.

    Raises:
        ValueError: an argument is out of its range, or no block has that name.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (64, 128, 320, 512),
        num_layers: Sequence[int] = (3, 4, 6, 3),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (2, 2, 2, 1),
        mlp_ratio: int = 4,
        patch_size: int = 32,
        context: int = 8,
        decoder_channels: int = 256,
        dropout_rate: float = 0.0,
        block: str = "convformer",
        block_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_channels=out_channels, mlp_ratio=mlp_ratio)
        check_positive(decoder_channels=decoder_channels)
        check_fraction(dropout_rate=dropout_rate)
        stages = {"num_layers": num_layers, "num_heads": num_heads, "reductions": reductions}
        check_numbers("channels", channels)
        for name, values in stages.items():
            check_numbers(name, values, len(channels))
        check_positive(patch_size=patch_size)
        if patch_size < 2 or patch_size % 2 or context < 0 or context % 2:
            raise ValueError(f"patch_size and context must be even, at least 2 and 0, got {patch_size} and {context}")
        self.stages = nn.ModuleList(
            PatcherStage(
                channels[i - 1] if i else in_channels,
                channels[i],
                num_layers[i],
                patch_size,
                context,
                num_heads=num_heads[i],
                mlp_dim=mlp_ratio * channels[i],
                reduction=reductions[i],
                dropout_rate=dropout_rate,
                block=block,
                block_kwargs=block_kwargs,
            )
            for i in range(len(channels))
        )
        self.decoder = ExpertDecoder(channels, decoder_channels, out_channels, dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` to logits ``(B, out_channels, H, W)``."""
        features: list[Tensor] = []
        y = x
        for stage in self.stages:
            y = stage(y)
            features.append(y)
        return enlarge(self.decoder(features), 2, x)

    def features(self, x: Tensor) -> list[Tensor]:
        """The feature maps of each stage, ``(B, channels[i], H / 2^(i+1), W / 2^(i+1))``."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def attention(self, x: Tensor) -> list[Tensor]:
        """The attention maps of each layer of all stages: ``(windows, heads, N, M)``, N and M tokens of a window."""
        maps = []
        for stage in self.stages:
            maps.extend(stage.attention(x))  # type: ignore[operator]
            x = stage(x)
        return maps


NETS.add("Patcher", "transformers on large patches with context, mixed as experts", Patcher)
