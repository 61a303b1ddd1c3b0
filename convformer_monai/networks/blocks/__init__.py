"""Building blocks, one idea a file; importing them fills :data:`convformer_monai.networks.registry.BLOCKS`."""

from convformer_monai.networks.blocks.attention import ViTBlock
from convformer_monai.networks.blocks.cffn import CFFN
from convformer_monai.networks.blocks.controls import ConvBlock, IdentityBlock
from convformer_monai.networks.blocks.convformer import ConvFormerBlock
from convformer_monai.networks.blocks.csa import CSA
from convformer_monai.networks.blocks.layerscale import LayerScaleBlock
from convformer_monai.networks.blocks.patches import PatchEmbedding
from convformer_monai.networks.blocks.pooling import PoolingStem
from convformer_monai.networks.blocks.reattention import ReAttentionBlock
from convformer_monai.networks.blocks.refiner import RefinerBlock

__all__ = [
    "CFFN",
    "CSA",
    "ConvBlock",
    "ConvFormerBlock",
    "IdentityBlock",
    "LayerScaleBlock",
    "PatchEmbedding",
    "PoolingStem",
    "ReAttentionBlock",
    "RefinerBlock",
    "ViTBlock",
]
