"""Blood painted onto blood-free slices, and heads rendered from label maps: kinds of blood that few real slices show.

A label map of a real head says where blood lay in it. :class:`PaintedBlood` carries that shape into a real slice of
another head: both insides of the skull are described by their radius at each angle about their centre, so that blood
along the skull of one lies along the skull of the other. :class:`RenderedHeads` makes a whole slice of a label map,
with grey and white matter, sulci, cupping beside the bone, blur and noise.
"""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from convformer_monai.training.draws import chosen, normal, numbers, uniform
from convformer_monai.training.head_ct_pool import HeadCTPart

__all__ = ["PaintedBlood", "RenderedHeads"]

logger = logging.getLogger(__name__)

BONE, BRAIN, BLOOD, VENTRICLE, OTHER = 1, 2, 3, 4, 5  # values of the label maps
ANGLES = 256
RADII = 150
BONE_HU = 77.0
BLOOD_HU = (44.0, 82.0)
CONTRAST_HU = (13.0, 42.0)  # of blood to brain: below ten it is isodense, and what teaches it teaches to imagine it
BRAIN_HU = (15.0, 50.0)
LEAST_INSIDE, LEAST_ROUND = 5000, 0.8  # pixels; share of the star-shaped region about the centre that is inside
LEAST_BLOOD = 40  # pixels
OUTLINE_BLUR = 3.0  # pixels; the blurred blood above another level than a half is the blood of a neighbour
NEIGHBOUR_SIZE = (0.15, 1.2)  # that level: larger, smaller, gone


class PaintedBlood:
    """Draws blood-free slices with the blood of label maps painted in, into their neighbours, too.

    The bleed has another outline in each neighbour, larger or smaller, and ends before some of them. Without a slice
    of a closed skull, or without a map with blood, slices are drawn as they are, and a warning says so.

    Args:
        part: blood-free slices.
        maps: label maps (M, X, Y).
        most: slices of the part that are looked at for a closed skull.
        seed: of their choice.
    """

    def __init__(self, part: HeadCTPart, maps: Tensor, most: int = 600, seed: int = 0) -> None:
        self.part = part
        order = np.random.default_rng(seed).permutation(len(part))[:most]
        centre = part.pool.neighbours.shape[1] // 2
        found, insides = [], []
        for index in order.tolist():
            inside = _inside(part[index]["image"][centre].float().cpu().numpy())
            if inside is not None:
                found.append(index)
                insides.append(torch.from_numpy(inside))
        maps = maps[(maps == BLOOD).flatten(1).sum(1) > LEAST_BLOOD]
        self.paints = bool(found) and len(maps) > 0
        if not self.paints:
            logger.warning("no blood is painted: %d slices with a closed skull, %d maps", len(found), len(maps))
            return
        self.indices = torch.tensor(found)
        self.centres, self.radii = _polar(torch.stack(insides).to(maps.device))
        self.map_centres, self.map_radii = _polar((maps == BRAIN) | (maps == BLOOD) | (maps == VENTRICLE))
        self.shapes = (maps == BLOOD).float()

    def draw(self, count: int) -> dict[str, Tensor]:
        """``image`` (B, K, X, Y), Hounsfield units, and ``label`` (B, 1, X, Y)."""
        if not self.paints:
            return self.part.draw(count)
        which = numbers(len(self.indices), count, self.indices.device)
        batch = self.part[self.indices[which]]
        image = batch["image"].float()
        slices, middle = image.shape[1], image.shape[1] // 2
        which = which.to(image.device)
        carried = self._carried(which, numbers(len(self.shapes), count, image.device))
        size = uniform(*NEIGHBOUR_SIZE, count, image.device, slices, 1, 1)
        size[:, middle] = 0.5
        alone = (image == image[:, middle : middle + 1]).flatten(2).all(2)[..., None, None]
        size = torch.where(alone, 0.5, size)
        blood = torch.where(size == 0.5, carried > 0.5, _blur(carried, OUTLINE_BLUR) > size)
        blood = blood & (image < BONE_HU) & (image > -50)
        soft = _blur_each(blood.float(), float(torch.empty(1).uniform_(0.5, 1.1)))
        device = image.device
        texture = (image - _blur_each(image, 1.5)) * uniform(0.6, 1.2, count, device)
        texture = texture + normal(count, device, 1, *image.shape[2:]) * uniform(0, 3, count, device)
        value = _tissue(image[:, middle]) + uniform(*CONTRAST_HU, count, device)
        value = value.clamp(*BLOOD_HU) + _clouds(image[:, :1], 8, 40) * uniform(0, 7, count, device) + texture
        painted = image * (1 - soft) + value * soft
        return {
            "image": painted.half(),
            "label": (blood & (soft > 0.5))[:, middle : middle + 1].to(torch.uint8),
        }

    def _carried(self, which: Tensor, shape: Tensor) -> Tensor:
        """The blood of maps, (B, 1, X, Y) of 0..1, turned or mirrored at random, in the heads of slices."""
        x, y = self.shapes.shape[1:]
        rows, columns = torch.meshgrid(
            torch.arange(x, device=which.device), torch.arange(y, device=which.device), indexing="ij"
        )
        centre = self.centres[which]
        away = torch.stack([rows - centre[:, 0, None, None], columns - centre[:, 1, None, None]], -1)
        angle = torch.atan2(away[..., 0], away[..., 1])
        depth = away.norm(dim=-1) / _radius(self.radii[which], angle).clamp(min=4)  # 0 centre, 1 inside of the skull
        count, device = len(which), which.device
        mirror = torch.where(chosen(0.5, count, device), 1.0, -1.0)[:, 0]
        turn = uniform(-0.5, 0.5, count, device)[:, 0] + math.pi * chosen(0.5, count, device)[:, 0]
        there = angle * mirror + turn
        reach = depth * _radius(self.map_radii[shape], there)
        points = self.map_centres[shape][:, None, None] + reach[..., None] * torch.stack([there.sin(), there.cos()], -1)
        grid = (2 * points + 1) / torch.tensor([x, y], device=device) - 1
        carried = F.grid_sample(self.shapes[shape][:, None], grid.flip(-1), mode="bilinear", align_corners=False)
        inside: Tensor = carried * (depth <= 1)[:, None]
        return inside


class RenderedHeads:
    """Draws slices rendered from label maps; the neighbours are copies of the slice.

    Args:
        maps: label maps (M, X, Y).
        neighbours: slices of a stack.
    """

    def __init__(self, maps: Tensor, neighbours: int = 3) -> None:
        self.maps = maps
        self.neighbours = neighbours

    def draw(self, count: int) -> dict[str, Tensor]:
        """``image`` (B, K, X, Y), Hounsfield units, and ``label`` (B, 1, X, Y)."""
        maps = self.maps[numbers(len(self.maps), count, self.maps.device)][:, None]
        device, like = maps.device, maps.float()
        inside = ((maps == BRAIN) | (maps == BLOOD) | (maps == VENTRICLE)).float()
        brain = uniform(22, 40, count, device) + _clouds(like, 5, 14) * uniform(1, 4, count, device)
        brain = brain + _clouds(like, 2.5, 5) * uniform(0, 3, count, device)
        rim = (_blur(inside, 4.0) < 0.9) & (maps == BRAIN) & (_clouds(like, 5, 5.1) > 0.5)
        brain = brain - (rim & chosen(0.6, count, device)) * uniform(5, 22, count, device)  # sulci
        values = {
            BONE: uniform(150, 1000, count, device) + _clouds(like, 6, 6.1) * 60,
            BRAIN: brain,
            BLOOD: (brain.mean((2, 3), keepdim=True) + uniform(*CONTRAST_HU, count, device)).clamp(*BLOOD_HU)
            + _clouds(like, 6, 30) * uniform(0, 8, count, device),
            VENTRICLE: uniform(0, 14, count, device),
            OTHER: uniform(-60, 50, count, device) + _clouds(like, 8, 8.1) * uniform(5, 30, count, device),
        }
        image = torch.full_like(like, -900.0)
        for value, look in values.items():
            image = torch.where(maps == value, look.expand_as(image), image)
        image = _blur(image, float(torch.empty(1).uniform_(0.5, 1.3)))
        cupping = _blur((maps == BONE).float(), 5.0) * inside * uniform(0, 30, count, device)
        image = image + cupping * (maps != BLOOD)
        image = image + _blur(normal(count, device, 1, *image.shape[2:]), 0.7) * uniform(1, 12, count, device)
        return {
            "image": image.half().expand(-1, self.neighbours, -1, -1),
            "label": (maps == BLOOD).to(torch.uint8),
        }


def _inside(image: NDArray[np.float32]) -> NDArray[np.bool_] | None:
    """Pixels that bone encloses in a slice (X, Y); None where the skull is open, or holds more than one thing."""
    bone = ndimage.binary_dilation(image > BONE_HU, np.ones((3, 3)))
    parts, _ = ndimage.label(~bone)
    outside = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    inside = ndimage.binary_opening(~np.isin(parts, outside) & ~bone, np.ones((9, 9)))
    area = int(inside.sum())
    if area < LEAST_INSIDE:
        return None
    _, radii = _polar(torch.from_numpy(inside)[None])
    round_area = math.pi * float((radii**2).mean())
    return inside if area > LEAST_ROUND * round_area else None


def _polar(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (N, 2), and at each angle the largest radius (N, ANGLES) that is inside, of masks (N, X, Y)."""
    device = inside.device
    x, y = inside.shape[1:]
    mask = inside.float()
    mass = mask.sum((1, 2)).clamp(min=1)
    row = (mask.sum(2) @ torch.arange(x, device=device, dtype=torch.float32)) / mass
    column = (mask.sum(1) @ torch.arange(y, device=device, dtype=torch.float32)) / mass
    centre = torch.stack([row, column], 1)
    angle = torch.arange(ANGLES, device=device) * (2 * math.pi / ANGLES)
    radius = torch.arange(1.0, RADII, device=device)
    ray = radius[:, None] * torch.stack([angle.sin(), angle.cos()], 1)[:, None]  # (ANGLES, RADII - 1, 2)
    result = []
    for place, one in zip(centre.split(16), mask[:, None].split(16), strict=True):
        grid = (2 * (place[:, None, None] + ray) + 1) / torch.tensor([x, y], device=device) - 1
        met = F.grid_sample(one, grid.flip(-1), mode="nearest", align_corners=False)[:, 0] > 0.5
        result.append((met * radius).amax(2))
    return centre, torch.cat(result)


def _radius(radii: Tensor, angle: Tensor) -> Tensor:
    """The radius of each image (B, ANGLES) at angles (B, X, Y)."""
    place = ((angle / (2 * math.pi) * ANGLES) % ANGLES).long().clamp(0, ANGLES - 1)
    return torch.gather(radii, 1, place.flatten(1)).view_as(angle)


def _tissue(slices: Tensor) -> Tensor:
    """The mean of what may be brain in slices (B, X, Y), as (B, 1, 1, 1)."""
    brain = (slices > BRAIN_HU[0]) & (slices < BRAIN_HU[1])
    mean = (slices * brain).sum((1, 2)) / brain.sum((1, 2)).clamp(min=1)
    return mean[:, None, None, None]


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, 1, X, Y)."""
    reach = int(3 * sigma) + 1
    offset = torch.arange(-reach, reach + 1, device=image.device, dtype=torch.float32)
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    image = F.conv2d(image, kernel.view(1, 1, 1, -1), padding=(0, reach))
    return F.conv2d(image, kernel.view(1, 1, -1, 1), padding=(reach, 0))


def _blur_each(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of each channel of (B, C, X, Y)."""
    return _blur(image.flatten(0, 1)[:, None], sigma).view_as(image)


def _clouds(like: Tensor, finest: float, coarsest: float) -> Tensor:
    """Smooth noise (B, 1, X, Y) of unit strength, with a grain drawn between two sizes in pixels."""
    side = max(2, int(like.shape[-1] / float(torch.empty(1).uniform_(finest, coarsest))))
    noise = normal(len(like), like.device, 1, side, side)
    return F.interpolate(noise, size=like.shape[-2:], mode="bicubic", align_corners=False)
