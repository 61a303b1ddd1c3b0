"""Sizes of the nets by name, for configurations and comparisons: ``full`` as published, ``small`` for a laptop.

``small`` nets have at most 3 million parameters and train on a processor of a few cores at 128 to 256 pixels. They keep
the structure of the full ones, and the published 64 to 512 channels of ConvFormer's pooling stem, which is most of such
a net. ``medium`` is the smaller published size where there are two. ``original`` is the size of a net's own paper where
the ConvFormer paper (Lin et al., MICCAI 2023, arXiv 2309.05674) uses another.
"""

from __future__ import annotations

from typing import Any

from torch import nn

import convformer_monai.networks.nets  # noqa: F401 (fills the registry)
from convformer_monai.networks.registry import NETS, lookup

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "ConvFormerUNet": {
        "small": {"channels": (16, 32, 64, 96, 128), "num_layers": (0, 0, 0, 1, 1)},
        "full": {},
    },
    "SETR": {
        "small": {"hidden_size": 96, "num_layers": 4, "num_heads": 3, "head_dim": 32, "mlp_dim": 384},
        "full": {},
        "original": {
            "patch_size": 16,
            "hidden_size": 1024,
            "num_layers": 24,
            "num_heads": 16,
            "mlp_dim": 4096,
            "head": "pup",
            "deep_supervision": True,
        },
    },
    "TransUNet": {
        "small": {
            "hidden_size": 128,
            "num_layers": 2,
            "num_heads": 4,
            "head_dim": 32,
            "mlp_dim": 512,
            "resnet_layers": (1, 2, 2),
            "resnet_widths": (16, 32, 64),
            "decoder_channels": (128, 64, 32, 16, 16),
        },
        "full": {},
    },
    "TransFuse": {
        "small": {"size": "tiny"},
        "medium": {"size": "S"},
        "full": {"size": "L"},
    },
    "FATNet": {
        "small": {
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 2,
            "head_dim": 32,
            "mlp_dim": 256,
            "resnet_layers": (1, 1, 1, 1),
            "resnet_widths": (16, 32, 64, 128),
        },
        "full": {},
    },
    "Patcher": {
        "small": {
            "channels": (24, 48, 96, 128),
            "num_layers": (1, 1, 2, 1),
            "num_heads": (1, 2, 3, 4),
            "patch_size": 16,
            "context": 4,
            "decoder_channels": 32,
        },
        "full": {},
        "original": {"num_layers": (3, 6, 40, 3)},
    },
}


def make_net(
    name: str, in_channels: int, out_channels: int, block: str = "convformer", preset: str = "full", **arguments: Any
) -> nn.Module:
    """Builds a net by name.

    Args:
        name: in :data:`convformer_monai.networks.registry.NETS`.
        in_channels: channels of the image.
        out_channels: classes.
        block: in :data:`convformer_monai.networks.registry.BLOCKS`.
        preset: of :data:`PRESETS`; a net that is added to the registry and has none there takes ``full``, its
            defaults.
        arguments: of the net's constructor, before those of the preset.

    Returns:
        The net, untrained.

    Raises:
        ValueError: a name is unknown, or an argument is out of its range.
    """
    net = lookup(NETS, name)
    presets = PRESETS.get(name, {"full": {}})  # a net of one's own has its defaults
    if preset not in presets:
        raise ValueError(f"preset of {name} must be one of {', '.join(presets)}, got {preset!r}")
    return net(in_channels=in_channels, out_channels=out_channels, block=block, **{**presets[preset], **arguments})
