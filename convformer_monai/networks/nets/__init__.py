"""Segmentation nets; importing them fills :data:`convformer_monai.networks.registry.NETS`."""

from convformer_monai.networks.nets.convformer_unet import ConvFormerUNet

__all__ = ["ConvFormerUNet"]
