"""Random intensities for a batch of grey slices."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from convformer_monai.training.draws import chosen, normal, uniform

__all__ = ["GreyIntensity"]


class GreyIntensity:
    """Gamma, contrast and brightness, bias field, blur or low resolution, and noise, each for part of the batch.

    Args:
        probability: of each operation.
    """

    def __init__(self, probability: float = 0.25) -> None:
        self.probability = probability

    def __call__(self, image: Tensor, _label: Tensor) -> Tensor:
        """Change a batch of images (B, 1, X, Y) of about zero mean and unit variance."""
        size = image.shape[2:]
        batch, device, p = image.shape[0], image.device, self.probability
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        unit = (image - low) / (high - low).clamp(min=1e-6)
        gamma = uniform(math.log(0.6), math.log(1.6), batch, device).exp()
        inverted = chosen(0.25, batch, device)
        curved = torch.where(inverted, 1 - (1 - unit).clamp(min=1e-6) ** gamma, unit.clamp(min=1e-6) ** gamma)
        image = torch.where(chosen(p, batch, device), curved * (high - low) + low, image)

        mean = image.mean((1, 2, 3), keepdim=True)
        contrast = (image - mean) * uniform(0.7, 1.35, batch, device) + mean + uniform(-0.3, 0.3, batch, device)
        image = torch.where(chosen(p, batch, device), contrast, image)

        field = uniform(-0.35, 0.35, batch, device, 1, 3, 3)
        field = F.interpolate(field, size=size, mode="bicubic", align_corners=True).exp()
        floor = image.amin((1, 2, 3), keepdim=True)
        image = torch.where(chosen(p, batch, device), (image - floor) * field + floor, image)

        factor = float(torch.empty(1).uniform_(0.4, 0.9))
        small = F.interpolate(image, scale_factor=factor, mode="area")
        coarse = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
        image = torch.where(chosen(p / 2, batch, device), coarse, image)

        noise = normal(batch, device, *image.shape[1:]) * uniform(0.0, 0.2, batch, device)
        return image + noise * chosen(p, batch, device)
