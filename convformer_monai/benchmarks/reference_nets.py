"""The nets that ours stand beside: nnU-Net's plain convolutional U-Net, and MONAI's UNet, SwinUNETR and UNETR.

They are of one size, whatever the preset of ours: MONAI's with the arguments of its own examples, or by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from monai.networks.nets import UNETR, SwinUNETR, UNet
from torch import Tensor, nn

__all__ = ["NNUNET", "REFERENCES", "PaddedNNUNet", "PaddedUNet", "plain_conv_unet"]

NNUNET = "nnU-Net PlainConvUNet"
LARGEST_WIDTH = 512
SMALLEST_EDGE = 4
DEEPEST = 32  # pixels of a point of the last of six stages


def plain_conv_unet(in_channels: int, out_channels: int, img_size: int) -> nn.Module:
    """nnU-Net's U-Net, as it is planned for 2-D images of one spacing (nnU-Net 2, default planner).

    Paper: Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
    Nature Methods 2021 (10.1038/s41592-020-01008-z). The grid is halved as long as 4 points remain along an edge; 32
    channels, doubled each time up to 512; two convolutions a stage. Deviation: an edge that cannot be halved ends this,
    where nnU-Net would enlarge the image.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        img_size: pixels along an edge.
    """
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    stages, edge = 1, img_size
    while edge >= 2 * SMALLEST_EDGE and edge % 2 == 0:
        stages, edge = stages + 1, edge // 2
    net: nn.Module = PlainConvUNet(
        input_channels=in_channels,
        n_stages=stages,
        features_per_stage=[min(32 * 2**stage, LARGEST_WIDTH) for stage in range(stages)],
        conv_op=nn.Conv2d,
        kernel_sizes=3,
        strides=[1] + [2] * (stages - 1),
        n_conv_per_stage=2,
        num_classes=out_channels,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    return net


class PaddedNNUNet(nn.Module):
    """nnU-Net's U-Net of six stages for images of any size: padded to multiples of 32, and cut back.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.network = plain_conv_unet(in_channels, out_channels, DEEPEST * SMALLEST_EDGE)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, X, Y) to logits (B, out_channels, X, Y)."""
        width, height = x.shape[2:]
        padded = nn.functional.pad(x, (0, -height % DEEPEST, 0, -width % DEEPEST), mode="replicate")
        scores: Tensor = self.network(padded)
        return scores[..., :width, :height]


class PaddedUNet(UNet):
    """MONAI's UNet for images of any size: padded to multiples of its strides' product, and cut back."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, X, Y) to logits (B, out_channels, X, Y)."""
        multiple = math.prod(self.strides)
        width, height = x.shape[2:]
        padded = nn.functional.pad(x, (0, -height % multiple, 0, -width % multiple), mode="replicate")
        scores: Tensor = super().forward(padded)
        return scores[..., :width, :height]


def _unet(in_channels: int, out_channels: int, img_size: int) -> nn.Module:
    return UNet(2, in_channels, out_channels, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2)


def _swin_unetr(in_channels: int, out_channels: int, img_size: int) -> nn.Module:
    return SwinUNETR(in_channels, out_channels, spatial_dims=2)


def _unetr(in_channels: int, out_channels: int, img_size: int) -> nn.Module:
    return UNETR(in_channels, out_channels, img_size, spatial_dims=2)


# Name: what builds it from channels of the image, classes, and pixels along an edge.
REFERENCES: dict[str, Callable[[int, int, int], nn.Module]] = {
    NNUNET: plain_conv_unet,
    "MONAI UNet": _unet,
    "MONAI SwinUNETR": _swin_unetr,
    "MONAI UNETR": _unetr,
}
