"""The convolutional feed-forward network (CFFN) of ConvFormer.

Paper: Lin et al., "ConvFormer", MICCAI 2023 (arXiv 2309.05674), section 2.3: two 1x1 convolutions, each with batch
norm and ReLU, widening the channels by r = 4 in between. The published code ends in a ReLU, so the branch can only
add to the residual stream; ``final_activation=False`` leaves that ReLU out.
"""

from __future__ import annotations

from torch import Tensor, nn

from convformer_monai.networks.blocks.pooling import conv_norm_relu
from convformer_monai.networks.checks import check_fraction, check_positive


class CFFN(nn.Module):
    """Feed-forward by 1x1 convolutions.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of input and output, C.
        mlp_dim: channels in between; the paper's is 4 C.
        final_activation: end in a ReLU, as published.
        dropout_rate: dropout on the hidden channels (none in the paper).

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        mlp_dim: int,
        final_activation: bool = True,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(mlp_dim=mlp_dim)
        check_fraction(dropout_rate=dropout_rate)
        self.expand = conv_norm_relu(spatial_dims, in_channels, mlp_dim, kernel_size=1)
        self.dropout = nn.Dropout(dropout_rate)
        self.project = conv_norm_relu(spatial_dims, mlp_dim, in_channels, kernel_size=1, activation=final_activation)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *spatial)`` to ``(B, C, *spatial)``."""
        return self.project(self.dropout(self.expand(x)))  # type: ignore[no-any-return]
