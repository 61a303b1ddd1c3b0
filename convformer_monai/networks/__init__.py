"""ConvFormer blocks and the nets built from them."""

from convformer_monai.networks.blocks import (
    CFFN,
    CSA,
    ConvBlock,
    ConvFormerBlock,
    IdentityBlock,
    PatchEmbedding,
    PoolingStem,
    ViTBlock,
)
from convformer_monai.networks.encoder import Encoder
from convformer_monai.networks.nets import SETR, ConvFormerUNet
from convformer_monai.networks.registry import BLOCKS, NETS

__all__ = [
    "BLOCKS",
    "CFFN",
    "CSA",
    "ConvBlock",
    "ConvFormerBlock",
    "ConvFormerUNet",
    "Encoder",
    "IdentityBlock",
    "NETS",
    "PatchEmbedding",
    "PoolingStem",
    "SETR",
    "ViTBlock",
]
