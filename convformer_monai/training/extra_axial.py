"""Blood outside of the brain, painted into slices: crescents and lenses under the skull.

Subdural blood lies along the skull as a crescent, epidural blood as a lens; both are rare in small data sets, and a
network that has seen none finds none. The shapes follow their textbook description (a crescent that may pass over much
of one side, a biconvex lens held by the sutures); the slice's own noise and skull stay as they are.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from convformer_monai.training.head_ct import BONE, inside_of_skull
from convformer_monai.training.intensity import chosen, uniform

__all__ = ["PaintExtraAxialBlood"]

DEEPEST = 28  # pixels, of blood under the skull
REACH = 6  # pixels from the coarse inside of the skull to its bone
HOLE = 9
LEAST_CAVITY = 0.13  # of the slice; less is the skull base or the vertex
LENS = 0.3  # share of lenses; the others are crescents


class PaintExtraAxialBlood:
    """Paints a crescent or a lens of blood under the skull of part of the slices.

    Slices whose skull is stripped or open stay as they are, and those of the skull base and the vertex.

    Args:
        probability: that a slice is painted.
        crescent: thickness of crescents, least and most, in pixels.
        lens: thickness of lenses, in pixels.
        contrast: of the blood against the brain around it, in Hounsfield units.
        brightest: of the blood, in Hounsfield units.
    """

    def __init__(
        self,
        probability: float = 0.3,
        crescent: tuple[float, float] = (2.5, 13.0),
        lens: tuple[float, float] = (6.0, 22.0),
        contrast: tuple[float, float] = (14.0, 42.0),
        brightest: float = 78.0,
    ) -> None:
        self.probability = probability
        self.crescent = crescent
        self.lens = lens
        self.contrast = contrast
        self.brightest = brightest

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Paint a batch of slices (B, 1, X, Y) in Hounsfield units, and their labels (B, 1, X, Y), 1 for blood."""
        picked = chosen(self.probability, len(image), image.device).flatten().nonzero().flatten()
        if not len(picked):
            return image, label
        painted, blood = self.paint(image[picked])
        return image.index_copy(0, picked, painted), label.index_copy(0, picked, label[picked].maximum(blood.to(label)))

    def paint(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Paint every slice of a batch.

        Args:
            image: (B, 1, X, Y), Hounsfield units.

        Returns:
            The slices with blood (B, 1, X, Y), and where it is, (B, 1, X, Y) of 0 and 1.
        """
        cavity = _cavity(image)
        usable = cavity.mean((1, 2, 3), keepdim=True) > LEAST_CAVITY
        blood = F.avg_pool2d(self._shape(cavity), 3, stride=1, padding=1)  # partial volume at its border
        blood = blood * cavity * usable
        brain = (image * cavity).sum((1, 2, 3), keepdim=True) / cavity.sum((1, 2, 3), keepdim=True).clamp(min=1)
        batch, device = len(image), image.device
        level = (brain + uniform(*self.contrast, batch, device)).clamp(max=self.brightest)
        texture = image - F.avg_pool2d(image, 5, stride=1, padding=2)  # the noise of this slice
        inner = (texture.abs() < 12) & (cavity > 0)
        filled = level + torch.where(inner, texture, 0.0) + 2.5 * _smooth_noise(image, 12)
        return image * (1 - blood) + filled * blood, (blood > 0.5).float()

    def _shape(self, cavity: Tensor) -> Tensor:
        """(B, 1, X, Y) of 0 and 1: within the random thickness, which varies with the angle, of the skull."""
        batch, device = len(cavity), cavity.device
        x, y = torch.meshgrid(*(torch.arange(n, device=device).float() for n in cavity.shape[2:]), indexing="ij")
        area = cavity.sum((2, 3)).clamp(min=1)
        centre_x, centre_y = (((grid * cavity).sum((2, 3)) / area)[..., None, None] for grid in (x, y))
        angle = torch.atan2(y - centre_y, x - centre_x)
        away = torch.remainder(angle - uniform(-math.pi, math.pi, batch, device) + math.pi, 2 * math.pi) - math.pi
        lens = chosen(LENS, batch, device)
        half = torch.where(lens, uniform(0.2, 0.5, batch, device), uniform(0.4, 1.4, batch, device))
        most = torch.where(lens, uniform(*self.lens, batch, device), uniform(*self.crescent, batch, device))
        part = (away / half).clamp(-1, 1) ** 2
        profile = torch.where(lens, 1 - part, (1 - part).clamp(min=0) ** 0.5)
        thickness = most * profile * (1 + 0.25 * _smooth_noise(cavity, 8))
        return (_depth(cavity) < thickness).float() * cavity


def _cavity(image: Tensor) -> Tensor:
    """(B, 1, X, Y) of 0 and 1: inside of the skull, up to the bone; nothing where the skull is open or stripped."""
    passable = (image <= BONE).float()
    inside = F.interpolate(inside_of_skull(image), size=image.shape[2:], mode="nearest") * passable
    for _ in range(REACH):
        inside = F.max_pool2d(inside, 3, stride=1, padding=1) * passable
    return inside


def _depth(cavity: Tensor) -> Tensor:
    """Pixels to the bone around the cavity, at most ``DEEPEST``: an octagon's distance, smoothed.

    Calcifications are no bone: holes of up to ``HOLE`` pixels are closed.
    """
    closed = F.max_pool2d(cavity, HOLE, stride=1, padding=HOLE // 2)
    left, depth = 1 - F.max_pool2d(1 - closed, HOLE, stride=1, padding=HOLE // 2), torch.zeros_like(cavity)
    for step in range(DEEPEST):
        out = 1 - left
        out = F.max_pool2d(out, 3, stride=1, padding=1) if step % 2 else _cross(out)
        left = 1 - out
        depth = depth + left
    return F.avg_pool2d(depth, 3, stride=1, padding=1)


def _cross(mask: Tensor) -> Tensor:
    """The mask grown by one pixel in the four directions."""
    return F.max_pool2d(mask, (3, 1), stride=1, padding=(1, 0)).maximum(
        F.max_pool2d(mask, (1, 3), stride=1, padding=(0, 1))
    )


def _smooth_noise(like: Tensor, cells: int) -> Tensor:
    """(B, 1, X, Y) of normal numbers that change over ``1 / cells`` of the slice."""
    noise = torch.randn(len(like), 1, cells, cells, device=like.device)
    return F.interpolate(noise, size=like.shape[2:], mode="bicubic", align_corners=True)
