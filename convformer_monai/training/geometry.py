"""Random geometry for a batch of slices or photographs and their labels, as one resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convformer_monai.training.draws import chosen, numbers, uniform
from convformer_monai.training.unknown import UNKNOWN


class BatchGeometry:
    """Scale, rotation, shear, elastic bending, flips, shift and crop, drawn for each image of a batch.

    Args:
        size: (X, Y) of the result; of several sizes each batch gets one at random.
        rotation: largest rotation in degrees.
        scale: range of the zoom factor.
        aspect: largest relative difference of the zoom along the two axes.
        shear: largest shear.
        shift: largest distance in pixels an axis between the crop's centre and the centre of what is labelled.
        anywhere: probability that the crop's centre is drawn from the whole slice instead.
        elastic: largest displacement in pixels of the smooth random bending.
        flip: probability of a flip along each axis.
        quarter_turns: probability of a rotation by a random multiple of 90 degrees.
        whole: show the whole image: the zoom starts from that at which image and result have equal areas, and the
            centre is that of the image, not of what is labelled.
        padding: what is beyond the image's edge: ``border`` its last pixel and no label, ``reflection`` its mirror
            image with its labels.

    Raises:
        ValueError: if ``padding`` is unknown.
    """

    def __init__(
        self,
        size: Sequence[int] | Sequence[Sequence[int]],
        rotation: float = 30.0,
        scale: Sequence[float] = (0.75, 1.3),
        aspect: float = 0.1,
        shear: float = 0.1,
        shift: float = 28.0,
        anywhere: float = 0.1,
        elastic: float = 4.0,
        flip: float = 0.1,
        quarter_turns: float = 0.1,
        whole: bool = False,
        padding: str = "border",
    ) -> None:
        if padding not in ("border", "reflection"):
            raise ValueError(f"padding must be 'border' or 'reflection', got {padding!r}")
        self.sizes = _sizes(size)
        self.rotation = math.radians(rotation)
        self.scale = (float(scale[0]), float(scale[1]))
        self.aspect = aspect
        self.shear = shear
        self.shift = shift
        self.anywhere = anywhere
        self.elastic = elastic
        self.flip = flip
        self.quarter_turns = quarter_turns
        self.whole = whole
        self.padding = padding

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Resample a batch.

        Args:
            image: (B, C, X, Y) float.
            label: (B, 1, X, Y), integers.

        Returns:
            image (B, C, *size) and label (B, 1, *size), both float32.
        """
        size = self.sizes[int(torch.randint(len(self.sizes), ()))] if len(self.sizes) > 1 else self.sizes[0]
        grid = self._grid(label, size)
        image = F.grid_sample(image.float(), grid, mode="bilinear", padding_mode=self.padding, align_corners=False)
        beyond = "zeros" if self.padding == "border" else self.padding
        return image, F.grid_sample(label.float(), grid, mode="nearest", padding_mode=beyond, align_corners=False)

    def _centre(self, label: Tensor) -> Tensor:
        """Centre of each crop, (B, 2) in pixels (row, column)."""
        batch, _, rows, columns = label.shape
        size = torch.tensor([rows, columns], device=label.device, dtype=torch.float32)
        marked = ((label[:, 0] > 0) & (label[:, 0] != UNKNOWN)).float()
        mass = marked.sum((1, 2))
        row = (marked.sum(2) @ torch.arange(rows, device=label.device, dtype=torch.float32)) / mass.clamp(min=1)
        column = (marked.sum(1) @ torch.arange(columns, device=label.device, dtype=torch.float32)) / mass.clamp(min=1)
        labelled = (mass > 0)[:, None] & (not self.whole)
        centre = torch.where(labelled, torch.stack([row, column], 1), (size - 1) / 2)
        centre = centre + uniform(-self.shift, self.shift, batch, label.device, 2)
        elsewhere = uniform(0, 1, batch, label.device, 2) * (size - 1)
        return torch.where(chosen(self.anywhere, batch, label.device).view(batch, 1), elsewhere, centre)

    def _matrix(self, batch: int, device: torch.device) -> Tensor:
        """(B, 2, 2) from output pixels to input pixels (row, column), about the centre."""
        angle = uniform(-self.rotation, self.rotation, batch, device).flatten()
        turned = chosen(self.quarter_turns, batch, device).flatten()
        angle = angle + torch.where(turned, numbers(4, batch, device) * (math.pi / 2), 0.0)
        zoom = uniform(math.log(self.scale[0]), math.log(self.scale[1]), batch, device).flatten().exp()
        stretch = uniform(-self.aspect, self.aspect, batch, device).flatten().exp()
        shear = uniform(-self.shear, self.shear, batch, device).flatten()
        mirror = 1.0 - 2.0 * (uniform(0, 1, batch, device, 2) < self.flip).float()
        cos, sin = angle.cos(), angle.sin()
        rotate = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # (B, 2, 2)
        skew = torch.eye(2, device=device).repeat(batch, 1, 1)
        skew[:, 0, 1] = shear
        lengths = torch.stack([stretch, 1 / stretch], -1) / zoom[:, None] * mirror
        return rotate @ skew @ torch.diag_embed(lengths)

    def _grid(self, label: Tensor, size: tuple[int, int]) -> Tensor:
        """Sampling grid (B, *size, 2) for ``grid_sample``."""
        batch, _, rows, columns = label.shape
        device = label.device
        row = torch.arange(size[0], device=device) - (size[0] - 1) / 2
        column = torch.arange(size[1], device=device) - (size[1] - 1) / 2
        offsets = torch.stack(torch.meshgrid(row, column, indexing="ij"), -1)  # (*size, 2)
        if self.whole:
            offsets = offsets * math.sqrt(rows * columns / (size[0] * size[1]))
        bend = uniform(-self.elastic, self.elastic, batch, device, 2, 4, 4)
        bend = bend * uniform(0, 1, batch, device)
        bend = F.interpolate(bend, size=size, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
        points = torch.einsum("bij,xyj->bxyi", self._matrix(batch, device), offsets) + bend
        points = points + self._centre(label)[:, None, None]  # (B, *size, 2): row, column
        scaled = (2 * points + 1) / torch.tensor([rows, columns], device=device) - 1
        return scaled.flip(-1)  # grid_sample wants column, row


def _sizes(size: Sequence[int] | Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    pairs: list[Any] = [size] if isinstance(size[0], int) else list(size)
    return [(int(x), int(y)) for x, y in pairs]
