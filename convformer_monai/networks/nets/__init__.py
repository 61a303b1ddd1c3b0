"""Segmentation nets; importing them fills :data:`convformer_monai.networks.registry.NETS`."""

from convformer_monai.networks.nets.convformer_unet import ConvFormerUNet
from convformer_monai.networks.nets.fatnet import FATNet
from convformer_monai.networks.nets.patcher import Patcher
from convformer_monai.networks.nets.setr import SETR
from convformer_monai.networks.nets.transfuse import TransFuse
from convformer_monai.networks.nets.transunet import TransUNet
from convformer_monai.networks.nets.windowed import Windowed

__all__ = ["ConvFormerUNet", "FATNet", "Patcher", "SETR", "TransFuse", "TransUNet", "Windowed"]
