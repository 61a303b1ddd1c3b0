"""The ConvFormer block: CSA and CFFN, each added to its input.

Paper: Lin et al., "ConvFormer", MICCAI 2023 (arXiv 2309.05674), equations of section 2: x = x + CSA(x);
x = x + CFFN(x), no norm before either. Flags of ours, off by default: ``norm_first`` puts a batch norm before each
branch, ``final_activation=False`` leaves out the ReLU that ends each branch.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.layers.factories import Norm
from torch import Tensor, nn

from convformer_monai.networks.blocks.cffn import CFFN
from convformer_monai.networks.blocks.csa import CSA
from convformer_monai.networks.registry import BLOCKS


class ConvFormerBlock(nn.Module):
    """One ConvFormer layer on a feature map.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of input and output, C.
        num_heads: attention heads.
        head_dim: channels of a head.
        mlp_dim: hidden channels of the feed-forward; None means 4 C, as in the paper.
        alpha: upper bound of the Gaussian's standard deviation, as a fraction of the grid.
        initial_sigma: see :class:`CSA`.
        grid_size: see :class:`CSA`.
        qkv_kernel_size: see :class:`CSA`.
        norm_first: batch norm before each branch.
        final_activation: end each branch in a ReLU, as published.
        dropout_rate: dropout inside the feed-forward (none in the paper).

    Raises:
        ValueError: an argument is out of its range.
    """

    mixer_class: type[nn.Module] = CSA

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_heads: int,
        head_dim: int = 64,
        mlp_dim: int | None = None,
        alpha: float = 0.4,
        initial_sigma: Sequence[float] | None = None,
        grid_size: int | None = None,
        qkv_kernel_size: int = 3,
        norm_first: bool = False,
        final_activation: bool = True,
        dropout_rate: float = 0.0,
    ) -> None:
        super().__init__()

        def norm() -> nn.Module:
            return Norm[Norm.BATCH, spatial_dims](in_channels) if norm_first else nn.Identity()

        self.norm1 = norm()
        self.mixer = self.mixer_class(
            spatial_dims,
            in_channels,
            num_heads,
            head_dim,
            alpha=alpha,
            initial_sigma=initial_sigma,
            grid_size=grid_size,
            qkv_kernel_size=qkv_kernel_size,
            final_activation=final_activation,
        )
        self.norm2 = norm()
        hidden = 4 * in_channels if mlp_dim is None else mlp_dim
        self.cffn = CFFN(spatial_dims, in_channels, hidden, final_activation, dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *spatial)`` to ``(B, C, *spatial)``."""
        x = x + self.mixer(self.norm1(x))
        return x + self.cffn(self.norm2(x))  # type: ignore[no-any-return]

    def attention(self, x: Tensor, queries: Tensor | None = None) -> Tensor:
        """The signed attention maps of ``x``: ``(B, heads, N, N)``, or of some ``queries`` ``(B, heads, Q, N)``."""
        return self.mixer.attention(self.norm1(x), queries)  # type: ignore[no-any-return, operator]


BLOCKS.add("convformer", "ConvFormer: CNN-style self-attention and convolutional feed-forward", ConvFormerBlock)
