"""Controls: the ConvFormer block with its attention taken out, to see what attention adds.

Not from the paper. A ConvFormer layer holds about seven times the parameters of an ordinary attention layer, nearly
all in the 3x3 convolution that makes q, k and v, so its gain over a vanilla transformer is not parameter-matched:

* ``identity`` mixes nothing (Z = V): the same 3x3 and 1x1 convolutions, without q and k.
* ``conv`` spends the parameters of CSA on two plain 3x3 convolutions.

Both take the arguments of the ConvFormer block, so that a configuration changes the name alone; those that describe
the Gaussian are ignored.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convformer_monai.networks.blocks.convformer import ConvFormerBlock
from convformer_monai.networks.blocks.pooling import conv_norm_relu, same_size_conv
from convformer_monai.networks.checks import check_positive
from convformer_monai.networks.registry import BLOCKS


class IdentityMixer(nn.Module):
    """CSA with the attention map fixed to the identity: value convolution and projection.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of input and output, C.
        num_heads: heads (only their number times ``head_dim`` matters).
        head_dim: channels of a head.
        qkv_kernel_size: kernel of the value convolution.
        final_activation: end in a ReLU.
        _gaussian: arguments of CSA that have no meaning here.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_heads: int,
        head_dim: int = 64,
        qkv_kernel_size: int = 3,
        final_activation: bool = True,
        **_gaussian: Any,
    ) -> None:
        super().__init__()
        check_positive(num_heads=num_heads, head_dim=head_dim)
        self.num_heads = num_heads
        inner = num_heads * head_dim
        self.to_v = same_size_conv(spatial_dims, in_channels, inner, qkv_kernel_size)
        self.project = conv_norm_relu(spatial_dims, inner, in_channels, kernel_size=1, activation=final_activation)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *spatial)`` to ``(B, C, *spatial)``."""
        return self.project(self.to_v(x))  # type: ignore[no-any-return]

    def attention(self, x: Tensor, queries: Tensor | None = None) -> Tensor:
        """Identity maps, ``(B, heads, N, N)``, or some of their rows, ``(B, heads, Q, N)``."""
        tokens = x[0, 0].numel()
        if queries is None:
            queries = torch.arange(tokens, device=x.device)
        return F.one_hot(queries, tokens).to(x.dtype).expand(x.shape[0], self.num_heads, -1, -1)


class ConvMixer(nn.Module):
    """Two 3x3 convolutions with as many parameters as CSA.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of input and output, C.
        num_heads: heads of the CSA that is matched.
        head_dim: channels of a head of the CSA that is matched.
        qkv_kernel_size: kernel of the CSA that is matched.
        final_activation: end in a ReLU.
        _gaussian: arguments of CSA that have no meaning here.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_heads: int,
        head_dim: int = 64,
        qkv_kernel_size: int = 3,
        final_activation: bool = True,
        **_gaussian: Any,
    ) -> None:
        super().__init__()
        check_positive(num_heads=num_heads, head_dim=head_dim)
        inner = num_heads * head_dim
        attention_parameters = in_channels * inner * (3 * qkv_kernel_size**spatial_dims + 1) + num_heads
        hidden = max(1, round(attention_parameters / (2 * in_channels * 3**spatial_dims + 2)))
        self.body = nn.Sequential(
            conv_norm_relu(spatial_dims, in_channels, hidden),
            conv_norm_relu(spatial_dims, hidden, in_channels, activation=final_activation),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, *spatial)`` to ``(B, C, *spatial)``."""
        return self.body(x)  # type: ignore[no-any-return]

    def attention(self, x: Tensor, queries: Tensor | None = None) -> Tensor:
        """There is none.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("the 'conv' control has no attention maps")


class IdentityBlock(ConvFormerBlock):
    """The ConvFormer block with Z = V."""

    mixer_class = IdentityMixer


class ConvBlock(ConvFormerBlock):
    """The ConvFormer block with CSA replaced by two 3x3 convolutions of equally many parameters."""

    mixer_class = ConvMixer


BLOCKS.add("identity", "control: ConvFormer without mixing, Z = V", IdentityBlock)
BLOCKS.add("conv", "control: ConvFormer with CSA replaced by plain convolutions of equal size", ConvBlock)
