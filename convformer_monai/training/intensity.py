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
        strength: multiplies the widths of all ranges; more than 1 is for images of other scanners (BigAug, Zhang et
            al., IEEE TMI 2020).
        curves: probability of a random rising tone curve through ``KNOTS`` points, which moves tissues' intensities
            against each other.
    """

    KNOTS = 6

    def __init__(self, probability: float = 0.25, strength: float = 1.0, curves: float = 0.0) -> None:
        self.probability = probability
        self.strength = strength
        self.curves = curves

    def __call__(self, image: Tensor, _label: Tensor) -> Tensor:
        """Change a batch of images (B, 1, X, Y) of about zero mean and unit variance."""
        size = image.shape[2:]
        batch, device, p, wide = image.shape[0], image.device, self.probability, self.strength
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        unit = (image - low) / (high - low).clamp(min=1e-6)
        gamma = uniform(wide * math.log(0.6), wide * math.log(1.6), batch, device).exp()
        inverted = chosen(0.25, batch, device)
        curved = torch.where(inverted, 1 - (1 - unit).clamp(min=1e-6) ** gamma, unit.clamp(min=1e-6) ** gamma)
        image = torch.where(chosen(p, batch, device), curved * (high - low) + low, image)
        if self.curves:
            image = torch.where(chosen(self.curves, batch, device), self._curved(unit) * (high - low) + low, image)

        mean = image.mean((1, 2, 3), keepdim=True)
        contrast = (image - mean) * uniform(1 - 0.3 * wide, 1 + 0.35 * wide, batch, device) + mean
        contrast = contrast + uniform(-0.3 * wide, 0.3 * wide, batch, device)
        image = torch.where(chosen(p, batch, device), contrast, image)

        field = uniform(-0.35 * wide, 0.35 * wide, batch, device, 1, 3, 3)
        field = F.interpolate(field, size=size, mode="bicubic", align_corners=True).exp()
        floor = image.amin((1, 2, 3), keepdim=True)
        image = torch.where(chosen(p, batch, device), (image - floor) * field + floor, image)

        factor = float(torch.empty(1).uniform_(min(0.4 / wide, 0.9) if wide else 0.9, 0.9))
        small = F.interpolate(image, scale_factor=factor, mode="area")
        coarse = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
        image = torch.where(chosen(p / 2, batch, device), coarse, image)

        noise = normal(batch, device, *image.shape[1:]) * uniform(0.0, 0.2 * wide, batch, device)
        return image + noise * chosen(p, batch, device)

    def _curved(self, unit: Tensor) -> Tensor:
        """A rising curve from 0 to 1 for each image (B, 1, X, Y) of values from 0 to 1, linear between its knots."""
        batch, device = unit.shape[0], unit.device
        steps = uniform(0.2, 1.8, batch, device, self.KNOTS - 1).flatten(1)
        heights = F.pad((steps / steps.sum(1, keepdim=True)).cumsum(1), (1, 0))
        place = unit.flatten(1) * (self.KNOTS - 1)
        left = place.long().clamp(0, self.KNOTS - 2)
        low, high = heights.gather(1, left), heights.gather(1, left + 1)
        return (low + (high - low) * (place - left)).view_as(unit)
