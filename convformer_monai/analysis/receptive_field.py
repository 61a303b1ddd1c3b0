"""How far each ConvFormer head sees: the Gaussian that it has learned, in tokens, pixels and millimetres.

The distance map of a head (Lin et al., ConvFormer, MICCAI 2023, arXiv 2309.05674, section 2.2) has one parameter, the
standard deviation in fractions of the grid. It bounds what the head can attend to; what it attends to within depends on
the image, and the features themselves see further, through convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convformer_monai.analysis.layers import Visit, visit
from convformer_monai.networks.blocks.csa import CSA, sigma_of
from convformer_monai.networks.blocks.gaussian import axis_factors
from convformer_monai.networks.nets.parts.window_layer import GaussianAttention

FWHM = 2 * math.sqrt(2 * math.log(2))  # full width at half maximum of a Gaussian, in standard deviations


@dataclass(frozen=True)
class HeadField:
    """The receptive field of one head.

    Lengths are given for each axis of the grid; in pixels of the network's input, and None where they are unknown.

    Attributes:
        layer: path of the attention module in the network.
        head: from 0.
        grid: tokens along each axis, of a window if there are windows.
        sigma: standard deviation as learned, in fractions of the grid, or of the reference grid that the layer has.
        sigma_tokens: standard deviation in tokens.
        sigma_pixels: in pixels.
        sigma_mm: in mm.
        fwhm_tokens: full width at half maximum in tokens.
        fwhm_pixels: in pixels.
        fwhm_mm: in mm.
        effective_tokens: exponential of the entropy of the distance map's row at the middle of the grid: 1 for a head
            that sees its own token alone, the number of tokens for one that weighs all alike.
    """

    layer: str
    head: int
    grid: tuple[int, ...]
    sigma: float
    sigma_tokens: tuple[float, ...]
    sigma_pixels: tuple[float, ...] | None
    sigma_mm: tuple[float, ...] | None
    fwhm_tokens: tuple[float, ...]
    fwhm_pixels: tuple[float, ...] | None
    fwhm_mm: tuple[float, ...] | None
    effective_tokens: float


def measure_receptive_fields(net: nn.Module, images: Tensor, spacing: Sequence[float] | None = None) -> list[HeadField]:
    """Measures every ConvFormer head of a network.

    Args:
        net: any network; those without ConvFormer attention have no heads to measure. It is left in its mode.
        images: ``(B, C, *spatial)``, on the network's device; their size matters, their content does not.
        spacing: mm that a pixel of them spans along each axis, if known.

    Returns:
        One for each head, layers in the order in which they run.

    Raises:
        ValueError: ``spacing`` has not one number an axis.
    """
    if spacing is not None and len(spacing) != images.dim() - 2:
        raise ValueError(f"spacing must hold one number for each of {images.dim() - 2} axes, got {tuple(spacing)}")
    fields: list[HeadField] = []

    def act(layer: Visit) -> None:
        module = layer.module
        if isinstance(module, CSA):
            grid = tuple(layer.x.shape[2:])
            units = tuple(module.grid_size or size for size in grid)
        elif isinstance(module, GaussianAttention):
            grid = units = (module.grid_size, module.grid_size)
        else:
            return
        sigmas = sigma_of(module.theta, module.alpha).detach().cpu()
        tokens = [effective_tokens(sigmas, size, unit) for size, unit in zip(grid, units, strict=True)]
        for head, sigma in enumerate(sigmas.tolist()):
            sigma_tokens = tuple(sigma * unit for unit in units)
            pixels = _scaled(sigma_tokens, layer.stride)
            mm = _scaled(pixels, spacing)
            fields.append(
                HeadField(
                    layer=layer.name,
                    head=head,
                    grid=grid,
                    sigma=sigma,
                    sigma_tokens=sigma_tokens,
                    sigma_pixels=pixels,
                    sigma_mm=mm,
                    fwhm_tokens=tuple(FWHM * one for one in sigma_tokens),
                    fwhm_pixels=_scaled(pixels, [FWHM] * len(grid)),
                    fwhm_mm=_scaled(mm, [FWHM] * len(grid)),
                    effective_tokens=math.prod(float(axis[head]) for axis in tokens),
                )
            )

    visit(net, images[:1], act, (CSA, GaussianAttention))
    return fields


def effective_tokens(sigma: Tensor, size: int, unit: int) -> Tensor:
    """Exponential of the entropy of the weights that the middle point of an axis gives to all of its points.

    Args:
        sigma: ``(heads,)``, see :func:`convformer_monai.networks.blocks.gaussian.axis_factors`.
        size: grid points along the axis.
        unit: grid points that count as distance 1.

    Returns:
        ``(heads,)``; of a grid the numbers of its axes are multiplied, as its weights are.
    """
    weights = axis_factors(sigma.double(), size, unit)[:, size // 2]
    return torch.special.entr(weights).sum(-1).exp()  # type: ignore[no-any-return]


def _scaled(lengths: Sequence[float] | None, factors: Sequence[float] | None) -> tuple[float, ...] | None:
    if lengths is None or factors is None:
        return None
    return tuple(length * factor for length, factor in zip(lengths, factors, strict=True))
