"""ConvFormer blocks and the nets built from them."""

from convformer_monai.networks.blocks import (
    CFFN,
    CSA,
    ConvBlock,
    ConvFormerBlock,
    IdentityBlock,
    LayerScaleBlock,
    PatchEmbedding,
    PoolingStem,
    ReAttentionBlock,
    RefinerBlock,
    ViTBlock,
)
from convformer_monai.networks.encoder import Encoder
from convformer_monai.networks.nets import SETR, ConvFormerUNet, FATNet, Patcher, TransFuse, TransUNet, Windowed
from convformer_monai.networks.presets import PRESETS, make_net
from convformer_monai.networks.registry import BLOCKS, NETS

__all__ = [
    "BLOCKS",
    "CFFN",
    "CSA",
    "ConvBlock",
    "ConvFormerBlock",
    "ConvFormerUNet",
    "Encoder",
    "FATNet",
    "IdentityBlock",
    "LayerScaleBlock",
    "NETS",
    "PRESETS",
    "PatchEmbedding",
    "Patcher",
    "PoolingStem",
    "ReAttentionBlock",
    "RefinerBlock",
    "SETR",
    "TransFuse",
    "TransUNet",
    "Windowed",
    "ViTBlock",
    "make_net",
]
