"""Augmentation of whole batches on the compute device, as the ``prepare_batch`` of a MONAI engine.

MONAI's random transforms work on one item at a time; here every operation is one call for the whole batch, so that an
accelerator is kept busy and a CPU spends a few percent of a training step. Geometry (scale, rotation, shear, elastic
bending, flips, shift and crop) is one resampling. Strengths follow nnU-Net (Isensee et al., Nature Methods 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _uniform(low: float, high: float, batch: int, device: torch.device) -> Tensor:
    """``(batch, 1, 1, 1)`` uniform numbers."""
    return torch.empty(batch, 1, 1, 1, device=device).uniform_(low, high)


def _chosen(probability: float, batch: int, device: torch.device) -> Tensor:
    """``(batch, 1, 1, 1)`` booleans, each true with ``probability``."""
    return torch.rand(batch, 1, 1, 1, device=device) < probability


class BatchAugmentation:
    """Random geometry and intensity for a batch of slices, cropped to one size.

    Args:
        size: (X, Y) of the result.
        rotation: largest rotation in degrees.
        scale: range of the zoom factor.
        aspect: largest relative difference of the zoom along the two axes.
        shear: largest shear.
        shift: largest distance in pixels an axis between the crop's centre and the centre of what is labelled.
        anywhere: probability that the crop's centre is drawn from the whole slice instead.
        elastic: largest displacement in pixels of the smooth random bending.
        flip: probability of a flip along each axis.
        quarter_turns: probability of a rotation by a random multiple of 90 degrees.
        intensity: probability of each intensity operation (gamma, contrast and brightness, noise, bias field, blur
            or low resolution).
        memory_format: layout of the resulting images.
    """

    def __init__(
        self,
        size: Sequence[int],
        rotation: float = 30.0,
        scale: Sequence[float] = (0.75, 1.3),
        aspect: float = 0.1,
        shear: float = 0.1,
        shift: float = 28.0,
        anywhere: float = 0.1,
        elastic: float = 4.0,
        flip: float = 0.1,
        quarter_turns: float = 0.1,
        intensity: float = 0.25,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.size = (int(size[0]), int(size[1]))
        self.rotation = math.radians(rotation)
        self.scale = (float(scale[0]), float(scale[1]))
        self.aspect = aspect
        self.shear = shear
        self.shift = shift
        self.anywhere = anywhere
        self.elastic = elastic
        self.flip = flip
        self.quarter_turns = quarter_turns
        self.intensity = intensity
        self.memory_format = memory_format

    def __call__(
        self,
        batchdata: Mapping[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            batchdata: ``image`` (B, 1, X, Y), any float; ``label`` (B, 1, X, Y), integers.
            device: compute device.
            non_blocking: of the copy to the device.
            _kwargs: other arguments that the engine passes on; unused.

        Returns:
            image (B, 1, *size) float32 and label (B, 1, *size) float32.
        """
        image = batchdata["image"].to(device, non_blocking=non_blocking).float()
        label = batchdata["label"].to(device, non_blocking=non_blocking)
        grid = self._grid(label)
        image = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
        label = F.grid_sample(label.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
        return self._intensity(image).contiguous(memory_format=self.memory_format), label

    def _centre(self, label: Tensor) -> Tensor:
        """Centre of each crop, (B, 2) in pixels (row, column)."""
        batch, _, rows, columns = label.shape
        size = torch.tensor([rows, columns], device=label.device, dtype=torch.float32)
        marked = (label[:, 0] > 0).float()
        mass = marked.sum((1, 2))
        row = (marked.sum(2) @ torch.arange(rows, device=label.device, dtype=torch.float32)) / mass.clamp(min=1)
        column = (marked.sum(1) @ torch.arange(columns, device=label.device, dtype=torch.float32)) / mass.clamp(min=1)
        centre = torch.where((mass > 0)[:, None], torch.stack([row, column], 1), (size - 1) / 2)
        centre = centre + torch.empty_like(centre).uniform_(-self.shift, self.shift)
        elsewhere = torch.rand(batch, 2, device=label.device) * (size - 1)
        return torch.where(torch.rand(batch, 1, device=label.device) < self.anywhere, elsewhere, centre)

    def _matrix(self, batch: int, device: torch.device) -> Tensor:
        """(B, 2, 2) from output pixels to input pixels (row, column), about the centre."""
        angle = torch.empty(batch, device=device).uniform_(-self.rotation, self.rotation)
        turned = torch.rand(batch, device=device) < self.quarter_turns
        angle = angle + torch.where(turned, torch.randint(0, 4, (batch,), device=device) * (math.pi / 2), 0.0)
        zoom = torch.empty(batch, device=device).uniform_(math.log(self.scale[0]), math.log(self.scale[1])).exp()
        stretch = torch.empty(batch, device=device).uniform_(-self.aspect, self.aspect).exp()
        shear = torch.empty(batch, device=device).uniform_(-self.shear, self.shear)
        mirror = 1.0 - 2.0 * (torch.rand(batch, 2, device=device) < self.flip).float()
        cos, sin = angle.cos(), angle.sin()
        rotate = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # (B, 2, 2)
        skew = torch.eye(2, device=device).repeat(batch, 1, 1)
        skew[:, 0, 1] = shear
        lengths = torch.stack([stretch, 1 / stretch], -1) / zoom[:, None] * mirror
        return rotate @ skew @ torch.diag_embed(lengths)

    def _grid(self, label: Tensor) -> Tensor:
        """Sampling grid (B, *size, 2) for ``grid_sample``."""
        batch, _, rows, columns = label.shape
        device = label.device
        row = torch.arange(self.size[0], device=device) - (self.size[0] - 1) / 2
        column = torch.arange(self.size[1], device=device) - (self.size[1] - 1) / 2
        offsets = torch.stack(torch.meshgrid(row, column, indexing="ij"), -1)  # (*size, 2)
        bend = torch.empty(batch, 2, 4, 4, device=device).uniform_(-self.elastic, self.elastic)
        bend = bend * torch.rand(batch, 1, 1, 1, device=device)
        bend = F.interpolate(bend, size=self.size, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
        points = torch.einsum("bij,xyj->bxyi", self._matrix(batch, device), offsets) + bend
        points = points + self._centre(label)[:, None, None]  # (B, *size, 2): row, column
        scaled = (2 * points + 1) / torch.tensor([rows, columns], device=device) - 1
        return scaled.flip(-1)  # grid_sample wants column, row

    def _intensity(self, image: Tensor) -> Tensor:
        """Random gamma, contrast, bias field, blur or low resolution, and noise, each for part of the batch."""
        batch, device, p = image.shape[0], image.device, self.intensity
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        unit = (image - low) / (high - low).clamp(min=1e-6)
        gamma = _uniform(math.log(0.6), math.log(1.6), batch, device).exp()
        inverted = _chosen(0.25, batch, device)
        curved = torch.where(inverted, 1 - (1 - unit).clamp(min=1e-6) ** gamma, unit.clamp(min=1e-6) ** gamma)
        image = torch.where(_chosen(p, batch, device), curved * (high - low) + low, image)

        mean = image.mean((1, 2, 3), keepdim=True)
        contrast = (image - mean) * _uniform(0.7, 1.35, batch, device) + mean + _uniform(-0.3, 0.3, batch, device)
        image = torch.where(_chosen(p, batch, device), contrast, image)

        field = torch.empty(batch, 1, 3, 3, device=device).uniform_(-0.35, 0.35)
        field = F.interpolate(field, size=self.size, mode="bicubic", align_corners=True).exp()
        floor = image.amin((1, 2, 3), keepdim=True)
        image = torch.where(_chosen(p, batch, device), (image - floor) * field + floor, image)

        factor = float(torch.empty(1).uniform_(0.4, 0.9))
        small = F.interpolate(image, scale_factor=factor, mode="area")
        coarse = F.interpolate(small, size=self.size, mode="bilinear", align_corners=False)
        image = torch.where(_chosen(p / 2, batch, device), coarse, image)

        noise = torch.randn_like(image) * _uniform(0.0, 0.2, batch, device)
        return image + noise * _chosen(p, batch, device)
