"""Segmentation nets; importing them fills :data:`convformer_monai.networks.registry.NETS`."""

from convformer_monai.networks.nets.convformer_unet import ConvFormerUNet
from convformer_monai.networks.nets.setr import SETR

__all__ = ["ConvFormerUNet", "SETR"]
