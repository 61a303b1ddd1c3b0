"""Random looks for a batch of head CT slices: scanners, windows, 8-bit pictures, stripped skulls.

Networks for hemorrhage fail on data of other hospitals above all because of how the slices were stored: with another
window, as 8-bit pictures, without the skull, on a grey background (see the sources of the training data).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from convformer_monai.training.draws import chosen, chosen_rows, drawing_for, normal, uniform

__all__ = ["DropNeighbours", "HeadCTIntensity", "MovedNeighbours", "strip_skull", "with_bone"]

WINDOW = (0.0, 80.0)  # what an 8-bit source is taken for when its window is not known
WIDE = (120.0, 260.0)
BONE = 78.0  # brighter is bone, or whatever the brain window shows white
AIR = 2.0
COARSE = 64  # pixels a side on which the inside of the skull is found
LEAST_BRAIN = 0.1


class HeadCTIntensity:
    """Noise, resolution, window, quantisation, background and skull, each for part of the batch.

    Slices come as stacks (below, itself, above) or alone. Copies of one slice stay copies.

    Args:
        probability: of noise, of low resolution and of another window.
        wide: probability of a wide window, which leaves the brain dark.
        strip: probability of a stripped skull; the neighbours are then copies of the slice.
        background: probability of a grey background instead of black.
        full: probability that a slice keeps all its Hounsfield units instead of becoming an 8-bit picture.
    """

    def __init__(
        self,
        probability: float = 0.4,
        wide: float = 0.1,
        strip: float = 0.1,
        background: float = 0.15,
        full: float = 0.0,
    ) -> None:
        self.probability = probability
        self.wide = wide
        self.strip = strip
        self.background = background
        self.full = full

    def __call__(self, image: Tensor, label: Tensor) -> Tensor:
        """Change a batch of slices (B, C, X, Y) in Hounsfield units, with labels (B, 1, X, Y)."""
        batch, device = image.shape[0], image.device
        stripped = chosen(self.strip, batch, device).flatten().nonzero().flatten()
        if len(stripped):
            middle = image[stripped, image.shape[1] // 2][:, None]
            image = image.index_copy(0, stripped, strip_skull(middle, label[stripped]).expand_as(image[stripped]))
        image = self._scanned(with_bone(image))
        picture = self._windowed(image)
        grey = uniform(0, 14, batch, device) * chosen(self.background, batch, device)
        picture = torch.where(picture <= AIR, grey.expand_as(picture), picture)
        return torch.where(chosen(self.full, batch, device), image, picture)

    def _scanned(self, image: Tensor) -> Tensor:
        """Resolution and noise of another scanner; air stays air."""
        batch, device, p = image.shape[0], image.device, self.probability
        factor = float(torch.empty(1).uniform_(0.4, 0.9))
        small = F.interpolate(image, scale_factor=factor, mode="area")
        coarse = F.interpolate(small, size=image.shape[2:], mode="bilinear", align_corners=False)
        image = torch.where(chosen(p / 2, batch, device), coarse, image)
        noise = normal(batch, device, 1, *image.shape[2:]) * uniform(0.0, 7.0, batch, device) * chosen(p, batch, device)
        smooth = F.avg_pool2d(noise, 3, stride=1, padding=1) * 2
        noise = torch.where(chosen(0.5, batch, device), smooth, noise)
        return torch.where(image > AIR, image + noise, image)

    def _windowed(self, image: Tensor) -> Tensor:
        """The slice as an 8-bit picture of a random window, read as if it were the usual one."""
        batch, device, p = image.shape[0], image.device, self.probability
        low, high = WINDOW
        width = uniform(math.log(42.0), math.log(115.0), batch, device).exp()
        level = (low + high) / 2 + uniform(-8.0, 8.0, batch, device)
        changed = chosen(p, batch, device)
        start = torch.where(changed, level - width / 2, torch.full_like(width, low))
        width = torch.where(changed, width, torch.full_like(width, high - low))
        wide = chosen(self.wide, batch, device)
        start, width = torch.where(wide, 0.0, start), torch.where(wide, uniform(*WIDE, batch, device), width)
        unit = ((image - start) / width).clamp(0, 1)
        gamma = uniform(math.log(0.75), math.log(1.35), batch, device).exp()
        unit = torch.where(chosen(p / 2, batch, device), unit.clamp(min=1e-4) ** gamma, unit)
        levels = torch.where(chosen(0.2, batch, device), 63.0, 255.0)
        rounded = torch.where(chosen(0.7, batch, device), (unit * levels).round() / levels, unit)
        return low + rounded * (high - low)


class MovedNeighbours:
    """Gives slices without neighbours imagined ones, for part of the batch: the slice moved, scaled, with other noise.

    Otherwise a network learns that slices with neighbours, which most whole heads without blood have, show no blood.

    Args:
        probability: that a slice whose neighbours are its copies gets them.
        shift: largest shift, pixels.
        scale: largest change of size.
        noise: largest standard deviation of the noise, Hounsfield units.
    """

    def __init__(self, probability: float = 0.6, shift: float = 3.0, scale: float = 0.05, noise: float = 5.0) -> None:
        self.probability, self.shift, self.scale, self.noise = probability, shift, scale, noise

    def __call__(self, image: Tensor, _label: Tensor) -> Tensor:
        """Change a batch of stacks (B, C, X, Y), the slice itself in their middle."""
        slices, middle = image.shape[1], image.shape[1] // 2
        some, rows = chosen_rows(self.probability, len(image), image.device)
        if not rows.total or slices == 1:
            return image
        count, device, others = len(some), image.device, slices - 1
        with drawing_for(rows):
            theta = torch.zeros(count, others, 2, 3, device=device)
            for axis in range(2):
                theta[..., axis, axis] = 1 + uniform(-self.scale, self.scale, count, device, others)
                reach = 2 * self.shift / image.shape[3 - axis]
                theta[..., axis, 2] = uniform(-reach, reach, count, device, others)
            noise = F.avg_pool2d(normal(count, device, others, *image.shape[2:]), 3, stride=1, padding=1) * 2
            noise = noise * uniform(0, self.noise, count, device, others, 1, 1)
        stacks = image[some]
        alone = (stacks == stacks[:, middle : middle + 1]).flatten(1).all(1)
        if not bool(alone.any()):
            return image
        some, stacks, noise, theta = some[alone], stacks[alone], noise[alone], theta[alone].flatten(0, 1)
        one = stacks[:, middle, None].expand_as(noise).flatten(0, 1)[:, None]  # (count * others, 1, X, Y)
        grid = F.affine_grid(theta, list(one.shape), align_corners=False)
        moved = F.grid_sample(one, grid, mode="bilinear", padding_mode="border", align_corners=False)
        moved = moved.view_as(noise)
        moved = torch.where(moved > AIR, moved + noise, moved)
        stacks = torch.cat([moved[:, :middle], stacks[:, middle, None], moved[:, middle:]], dim=1)
        return image.index_copy(0, some, stacks)


class DropNeighbours:
    """Copies a slice over its neighbours, for part of the batch, so that a network does without them; or swaps them.

    Args:
        probability: of copies.
        flip: probability that above and below are swapped.
    """

    def __init__(self, probability: float = 0.4, flip: float = 0.5) -> None:
        self.probability = probability
        self.flip = flip

    def __call__(self, image: Tensor, _label: Tensor) -> Tensor:
        """Change a batch of stacks (B, C, X, Y), the slice itself in their middle."""
        batch, device = image.shape[0], image.device
        image = torch.where(chosen(self.flip, batch, device), image.flip(1), image)
        middle = image.shape[1] // 2
        alone = image[:, middle : middle + 1].expand_as(image)
        return torch.where(chosen(self.probability, batch, device), alone, image)


def with_bone(image: Tensor) -> Tensor:
    """Gives pictures that a brain window cut off the bone and the air that they may have had.

    Pictures that reach above the window stay as they are. In the others, what is white over more than a few pixels
    becomes bone, denser towards its middle, and what is black over a wide area becomes air; the rest keeps its value.

    Args:
        image: (B, C, X, Y), Hounsfield units.
    """
    low, high = WINDOW
    cut = (image.amax((1, 2, 3), keepdim=True) <= high + 1) & (image.amin((1, 2, 3), keepdim=True) >= low - 1)
    batch, device = len(image), image.device
    density = uniform(500.0, 1300.0, batch, device)
    if not bool(cut.any()):
        return image
    white = F.avg_pool2d((image >= BONE).float(), 7, stride=1, padding=3)
    bone = high + (white - 0.35).clamp(min=0) / 0.65 * density
    black = F.avg_pool2d((image <= AIR).float(), 9, stride=1, padding=4, count_include_pad=False)
    air = -1000.0 * (black - 0.6).clamp(min=0) / 0.4
    full = torch.where(image >= BONE, torch.maximum(bone, image), torch.where(image <= AIR, air, image))
    return torch.where(cut, full, image)


def strip_skull(image: Tensor, label: Tensor) -> Tensor:
    """Removes what is not inside of the skull, as skull stripping does; blood is kept.

    What can be reached from the edge without crossing bone is outside. Slices in which nothing is left, where the skull
    is open, stay as they are.

    Args:
        image: (B, 1, X, Y), Hounsfield units.
        label: (B, 1, X, Y), above 0 where there is blood.

    Returns:
        (B, 1, X, Y), 0 outside.
    """
    bone = F.adaptive_max_pool2d((image > BONE).float(), COARSE)
    passable = 1 - bone
    outside = F.pad(torch.zeros_like(bone)[..., 1:-1, 1:-1], (1, 1, 1, 1), value=1.0) * passable
    for _ in range(2 * COARSE):
        outside = F.max_pool2d(outside, 3, stride=1, padding=1) * passable
    inside = F.interpolate((1 - outside) * passable, size=image.shape[2:], mode="nearest")
    brain = (inside > 0) & (image > AIR) & (image <= BONE) | (label > 0)
    enough = brain.float().mean((1, 2, 3), keepdim=True) > LEAST_BRAIN
    return torch.where(enough & ~brain, 0.0, image)
