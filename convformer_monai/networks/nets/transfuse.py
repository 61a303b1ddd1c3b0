"""TransFuse: a convolutional and a transformer branch side by side, fused at three resolutions.

Paper: Zhang et al., "TransFuse: Fusing Transformers and CNNs for Medical Image Segmentation", MICCAI 2021 (arXiv
2102.08005), sizes S (ResNet-34, 8 layers of DeiT-S) and L (ResNet-50, 12 layers of DeiT-B); with ConvFormer as in Lin
et al., MICCAI 2023 (arXiv 2309.05674): the whole transformer branch replaced.

Three outputs are trained together, of the fused decoder, of the transformer branch and of the fusion at 1/16; their
losses weigh 0.5, 0.3 and 0.2 (:data:`LOSS_WEIGHTS`). The prediction is the fused decoder's. (The ConvFormer authors'
copy predicts from the fusion at 1/16, and leaves the decoder of 29.6 million parameters without gradient.)

Deviations: MONAI's ResNet, gates and squeeze-and-excitation, all untrained; torch's initial weights instead of
Kaiming's normal ones in fusion, decoder and heads; images of any size, so features are enlarged exactly and cropped;
the transformer is the repository's (q, k and v without bias, ReLU).
Parameters (1 channel, 4 classes, 256 pixels): L 143.2 million with ``vit`` and 317.8 with ``convformer``, as published
(143 and 318); S 26.1 and 57.5 million.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from convformer_monai.networks.blocks.pooling import conv_norm_relu
from convformer_monai.networks.checks import check_fraction, check_positive
from convformer_monai.networks.nets.parts.backbone import ResNetBackbone
from convformer_monai.networks.nets.parts.fusion import BiFusion, GatedUp, ResidualConvs
from convformer_monai.networks.nets.parts.resize import enlarge
from convformer_monai.networks.nets.parts.transformer import Transformer
from convformer_monai.networks.registry import NETS

LOSS_WEIGHTS = (0.5, 0.3, 0.2)  # of the outputs in training mode, for ``DeepSupervisionLoss(weights=...)``


class Size(NamedTuple):
    """One size of the net: its ResNet and its transformer."""

    resnet_block: str
    resnet_layers: tuple[int, ...]
    resnet_widths: tuple[int, ...]
    hidden_size: int
    num_layers: int
    num_heads: int
    head_dim: int = 64


SIZES = {
    "tiny": Size("basic", (1, 1, 1), (16, 32, 64), 64, 2, 2, 32),  # ours, for small machines
    "S": Size("basic", (3, 4, 6), (64, 128, 256), 384, 8, 6),
    "L": Size("bottleneck", (3, 4, 6), (64, 128, 256), 768, 12, 12),
}


def _head(in_channels: int, channels: int, out_channels: int, *, narrow: bool = False) -> nn.Sequential:
    """Convolutions to logits: 3x3 to ``channels``, before it 1x1 if it has to ``narrow``, and 3x3 to the classes."""
    first = [conv_norm_relu(2, in_channels, channels, kernel_size=1)] if narrow else []
    last = Conv[Conv.CONV, 2](channels, out_channels, 3, padding=1)
    return nn.Sequential(*first, conv_norm_relu(2, channels if narrow else in_channels, channels), last)


class TransFuse(nn.Module):
    """Parallel ResNet and transformer with BiFusion, for 2-D images of any size.

    Args:
        in_channels: channels of the image.
        out_channels: classes.
        img_size: height and width, or both in one number, for which ``vit`` and its relatives learn positions (they
            are interpolated for other sizes); ConvFormer and the controls ignore it.
        size: ``S`` or ``L`` of the paper, or ``tiny``, see :data:`SIZES`.
        dropout_rate: probability of dropping whole channels of either branch; half of it after a fusion.
        block: name of the block, see :data:`convformer_monai.networks.registry.BLOCKS`.
        block_kwargs: further arguments of the block.
        deep_supervision: in training mode, return all three outputs; without it there is the fused decoder's only.

    Raises:
        ValueError: an argument is out of its range, or no size or block has that name.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_size: int | Sequence[int] = 256,
        size: str = "L",
        dropout_rate: float = 0.2,
        block: str = "convformer",
        block_kwargs: dict[str, Any] | None = None,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, out_channels=out_channels)
        check_fraction(dropout_rate=dropout_rate)
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
        sizes = SIZES[size]
        self.deep_supervision = deep_supervision
        self.backbone = ResNetBackbone(in_channels, sizes.resnet_block, sizes.resnet_layers, sizes.resnet_widths)
        self.transformer = Transformer(
            in_channels,
            sizes.hidden_size,
            16,
            img_size,
            sizes.num_layers,
            sizes.num_heads,
            sizes.head_dim,
            4 * sizes.hidden_size,
            block=block,
            block_kwargs=block_kwargs,
        )
        _, fine, middle, coarse = self.backbone.channels  # at 1/4, 1/8 and 1/16
        self.to_middle = ResidualConvs(sizes.hidden_size, middle)
        self.to_fine = ResidualConvs(middle, fine)
        self.fuse_coarse = BiFusion(coarse, sizes.hidden_size, 4, dropout_rate / 2)
        self.fuse_middle = BiFusion(middle, middle, 2, dropout_rate / 2)
        self.fuse_fine = BiFusion(fine, fine, 1, dropout_rate / 2)
        self.up_to_middle = GatedUp(coarse, middle, middle)
        self.up_to_fine = GatedUp(middle, fine, fine)
        self.dropout = nn.Dropout2d(dropout_rate)
        self.head = _head(fine, fine, out_channels)
        self.auxiliary = nn.ModuleList()
        if deep_supervision:
            self.auxiliary.append(_head(fine, fine, out_channels))
            self.auxiliary.append(_head(coarse, fine, out_channels, narrow=True))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Segment ``x``.

        Args:
            x: ``(B, in_channels, H, W)``.

        Returns:
            Logits ``(B, out_channels, H, W)``; in training mode with deep supervision a list of three of these: of
            the fused decoder, of the transformer branch, of the fusion at 1/16.
        """
        cnn = self.backbone(x)
        fine, middle, coarse = self.dropout(cnn[1]), self.dropout(cnn[2]), self.dropout(cnn[3])
        tokens = self.dropout(self.transformer(x))
        tokens_middle = self.dropout(self.to_middle(enlarge(tokens, 2, middle)))
        tokens_fine = self.dropout(self.to_fine(enlarge(tokens_middle, 2, fine)))
        fused_coarse = self.fuse_coarse(coarse, tokens)
        fused = self.up_to_middle(fused_coarse, self.fuse_middle(middle, tokens_middle))
        fused = self.up_to_fine(fused, self.fuse_fine(fine, tokens_fine))
        logits = [enlarge(self.head(fused), 4, x)]
        if not (self.training and self.deep_supervision):
            return logits[0]
        for i, head in enumerate(self.auxiliary):
            if i == 0:
                logits.append(enlarge(head(tokens_fine), 4, x))
            else:
                logits.append(enlarge(head(fused_coarse), 16, x))
        return logits

    def features(self, x: Tensor) -> list[Tensor]:
        """The feature maps ``(B, hidden_size, H / 16, W / 16)`` of the embedding and of each transformer layer."""
        return self.transformer.features(x)

    def attention(self, x: Tensor) -> list[Tensor]:
        """The attention maps of each transformer layer, ``(B, heads, N, N)`` with N = H W / 256."""
        return self.transformer.attention(x)


NETS.add("TransFuse", "ResNet and transformer side by side, fused at three resolutions", TransFuse)
