"""ResNet as a backbone: the stages of MONAI's, as many as asked for.

Paper: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv 1512.03385); the blocks are MONAI's
(:class:`monai.networks.nets.resnet.ResNet`), untrained. Sizes that are odd are rounded up at each halving.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

from convformer_monai.networks.checks import check_numbers, check_positive

EXPANSION = {"basic": 1, "bottleneck": 4}  # channels of a stage's result, in multiples of its width


class ResNetBackbone(nn.Module):
    """The first stages of a 2-D ResNet.

    Args:
        in_channels: channels of the image.
        block: ``basic`` (ResNet-34) or ``bottleneck`` (ResNet-50).
        layers: blocks of each stage, 1 to 4 stages.
        widths: width of each stage; ``basic`` stages have as many channels, ``bottleneck`` ones four times as many.
        pool: max-pooling before the first stage, as in the paper; without it each stage has twice the resolution.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self, in_channels: int, block: str, layers: Sequence[int], widths: Sequence[int], pool: bool = True
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels)
        if block not in EXPANSION:
            raise ValueError(f"block must be one of {', '.join(EXPANSION)}, got {block!r}")
        check_numbers("layers", layers)
        if len(layers) > 4:
            raise ValueError(f"layers must hold up to 4 numbers, got {tuple(layers)}")
        check_numbers("widths", widths, len(layers))
        unwanted = [1] * (4 - len(layers))  # MONAI makes four stages
        net = ResNet(
            block,
            [*layers, *unwanted],
            [*widths, *unwanted],
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )
        self.stem = nn.Sequential(net.conv1, net.bn1, net.act)
        self.pool = net.maxpool if pool else nn.Identity()
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4][: len(layers)])
        self.channels = [widths[0], *(EXPANSION[block] * width for width in widths)]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Extract features.

        Args:
            x: ``(B, in_channels, H, W)``.

        Returns:
            Feature maps of the stem (half the resolution) and of each stage (with pooling 1/4, 1/8, ...; without it
            1/2, 1/4, ...), with ``channels`` channels.
        """
        x = self.stem(x)
        features = [x]
        x = self.pool(x)
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features
