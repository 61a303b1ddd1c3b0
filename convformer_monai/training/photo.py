"""Random looks for a batch of dermoscopic photographs: colours and light, and what else gets into the picture.

Dermatoscopes differ in white balance, exposure and light; pictures show hair, rulers, coloured stickers, the violet ink
that doctors mark lesions with, and dark corners where the lens does not fill the frame. None of it is the lesion, so
the network sees all of it often.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from convformer_monai.training.draws import chosen, chosen_rows, drawing_for, normal, uniform

__all__ = ["PhotoArtefacts", "PhotoColours"]

WHITE = 255.0


class PhotoColours:
    """White balance, hue, saturation, exposure, uneven light, blur and noise, each for part of the batch.

    Args:
        probability: of each operation.
        grey: probability that a photograph loses its colours.
    """

    def __init__(self, probability: float = 0.4, grey: float = 0.03) -> None:
        self.probability = probability
        self.grey = grey

    def __call__(self, image: Tensor, _label: Tensor) -> Tensor:
        """Change a batch of photographs (B, 3, X, Y), 0-255."""
        return self._texture(self._light(self._colours(image / WHITE))).clamp(0, 1) * WHITE

    def _colours(self, image: Tensor) -> Tensor:
        """White balance and hue (a mixture of the channels), saturation, grey."""
        batch, device, p = image.shape[0], image.device, self.probability
        gains = uniform(-0.2, 0.2, batch, device, 3).exp()
        mixture = torch.diag_embed(gains) + 0.04 * normal(batch, device, 3, 3)
        mixed = torch.einsum("bij,bjxy->bixy", mixture, image)
        image = torch.where(chosen(p, batch, device), mixed, image)
        grey = image.mean(1, keepdim=True)
        saturation = uniform(0.5, 1.4, batch, device) * ~chosen(self.grey, batch, device)
        return torch.where(chosen(p + self.grey, batch, device), grey + (image - grey) * saturation, image)

    def _light(self, image: Tensor) -> Tensor:
        """Gamma, exposure and contrast, light that falls off across the picture."""
        batch, device, p = image.shape[0], image.device, self.probability
        gamma = uniform(math.log(0.65), math.log(1.6), batch, device).exp()
        image = torch.where(chosen(p, batch, device), image.clamp(min=1e-3) ** gamma, image)
        mean = image.mean((1, 2, 3), keepdim=True)
        contrast = (image - mean) * uniform(0.65, 1.3, batch, device) + mean * uniform(0.75, 1.25, batch, device)
        image = torch.where(chosen(p, batch, device), contrast, image)
        field = uniform(-0.3, 0.3, batch, device, 1, 3, 3)
        field = F.interpolate(field, size=image.shape[2:], mode="bicubic", align_corners=True).exp()
        return torch.where(chosen(p, batch, device), image * field, image)

    def _texture(self, image: Tensor) -> Tensor:
        """Low resolution, and noise."""
        batch, device, p = image.shape[0], image.device, self.probability
        factor = float(torch.empty(1).uniform_(0.35, 0.9))
        small = F.interpolate(image, scale_factor=factor, mode="area")
        coarse = F.interpolate(small, size=image.shape[2:], mode="bilinear", align_corners=False)
        image = torch.where(chosen(p / 2, batch, device), coarse, image)
        noise = normal(batch, device, *image.shape[1:]) * uniform(0.0, 0.04, batch, device)
        return image + noise * chosen(p / 2, batch, device)


class PhotoArtefacts:
    """Hair, a ruler, ink, a coloured sticker and dark corners, each in part of the batch.

    Args:
        hair: probability of hair.
        ruler: probability of a ruler.
        sticker: probability of a coloured sticker; it never covers what is labelled.
        ink: probability of strokes of violet ink; they never cover what is labelled.
        corners: probability of dark corners.
        hairs: number of hairs in a picture that has any.
        strokes: number of strokes of ink in a picture that has any.
    """

    def __init__(
        self,
        hair: float = 0.3,
        ruler: float = 0.1,
        sticker: float = 0.1,
        ink: float = 0.15,
        corners: float = 0.15,
        hairs: int = 12,
        strokes: int = 4,
    ) -> None:
        self.hair = hair
        self.ruler = ruler
        self.sticker = sticker
        self.ink = ink
        self.corners = corners
        self.hairs = hairs
        self.strokes = strokes

    def __call__(self, image: Tensor, label: Tensor) -> Tensor:
        """Change a batch of photographs (B, 3, X, Y), 0-255, with labels (B, 1, X, Y)."""
        covers = ((self.sticker, self._sticker), (self.ink, self._ink), (self.hair, self._hair))
        for probability, cover in (*covers, (self.ruler, self._ruler)):
            some, rows = chosen_rows(probability, len(image), image.device)
            if rows.total:
                with drawing_for(rows):
                    opacity, colour = cover(image[some], label[some])
                image = image.index_copy(0, some, image[some] * (1 - opacity) + colour * opacity)
        corners = self._corners(image) * chosen(self.corners, len(image), image.device)
        return image * (1 - corners)

    def _hair(self, image: Tensor, _label: Tensor) -> tuple[Tensor, Tensor]:
        """Parabolas of about one pixel's width; opacity (B, 1, X, Y), colour (B, 3, 1, 1)."""
        batch, device = image.shape[0], image.device
        along, across = _axes(image, self.hairs)  # (B, hairs, X, Y)
        shape = (self.hairs, 1, 1)
        bend = uniform(-0.006, 0.006, batch, device, *shape)
        length = uniform(5, 0.4 * max(image.shape[2:]), batch, device, *shape)
        width = uniform(0.1, 0.8, batch, device, *shape)
        exists = uniform(0, 1, batch, device, *shape) < uniform(0, 1, batch, device)
        distance = (across - bend * along.square()).abs() / (1 + (2 * bend * along).square()).sqrt()
        strand = (width + 0.5 - distance).clamp(0, 1) * (along.abs() < length) * exists
        dark = chosen(0.85, batch, device)
        tone = uniform(0, 60, batch, device, 3, 1, 1)
        return strand.amax(1, keepdim=True) * uniform(0.5, 1, batch, device), torch.where(dark, tone, WHITE - tone)

    def _ruler(self, image: Tensor, _label: Tensor) -> tuple[Tensor, Tensor]:
        """A straight line with a tick every few pixels; opacity (B, 1, X, Y), colour (B, 3, 1, 1)."""
        batch, device = image.shape[0], image.device
        along, across = _axes(image, 1)
        step, tick = uniform(3, 7, batch, device), uniform(3, 8, batch, device)
        line = (1.2 - across.abs()).clamp(0, 1)
        ticks = (1.0 - (along.remainder(step) - 1).abs()).clamp(0, 1) * ((across > 0) & (across < tick))
        inside = along.abs() < uniform(0.15, 0.4, batch, device) * max(image.shape[2:])
        tone = uniform(0, 70, batch, device, 3, 1, 1)
        return torch.maximum(line, ticks) * inside * uniform(0.6, 1, batch, device), tone

    def _ink(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Short thick strokes with frayed edges; opacity (B, 1, X, Y), colour (B, 3, 1, 1)."""
        batch, device = image.shape[0], image.device
        along, across = _axes(image, self.strokes)  # (B, strokes, X, Y)
        shape = (self.strokes, 1, 1)
        size = max(image.shape[2:])
        length = uniform(0.02, 0.13, batch, device, *shape) * size
        width = uniform(0.006, 0.035, batch, device, *shape) * size
        bend = uniform(-0.02, 0.02, batch, device, *shape)
        frayed = width * (0.6 + 0.8 * uniform(0, 1, batch, device, *along.shape[1:]))
        stroke = (frayed + 0.5 - (across - bend * along.square()).abs()).clamp(0, 1) * (along.abs() < length)
        violet = torch.tensor([90.0, 50.0, 140.0], device=device).view(1, 3, 1, 1)
        colour = violet + uniform(-40, 40, batch, device, 3, 1, 1)
        return stroke.amax(1, keepdim=True) * (label == 0) * uniform(0.5, 0.95, batch, device), colour

    def _sticker(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """A disc of any colour; opacity (B, 1, X, Y), colour (B, 3, 1, 1)."""
        batch, device = image.shape[0], image.device
        along, across = _axes(image, 1)
        radius = uniform(0.08, 0.3, batch, device) * max(image.shape[2:])
        disc = (radius - (along.square() + across.square()).sqrt()).clamp(0, 1)
        return disc * (label == 0), uniform(0, WHITE, batch, device, 3, 1, 1)

    def _corners(self, image: Tensor) -> Tensor:
        """Darkness (B, 1, X, Y) outside a circle of which at least the corners are cut off."""
        batch, device = image.shape[0], image.device
        half = torch.tensor([image.shape[2] / 2, image.shape[3] / 2], device=device)
        position = _positions(image) - half + uniform(-0.1, 0.1, batch, device, 1, 1, 2) * half
        distance = position.square().sum(-1).sqrt()[:, None]  # (B, 1, X, Y)
        radius = uniform(0.65, 1.05, batch, device) * half.norm()
        softness = uniform(1.0, 15.0, batch, device)
        shade: Tensor = ((distance - radius) / softness).clamp(0, 1) * uniform(0.6, 1.0, batch, device)
        return shade


def _positions(image: Tensor) -> Tensor:
    """Pixel coordinates (X, Y, 2) of a batch of images."""
    x, y = (torch.arange(size, device=image.device, dtype=torch.float32) for size in image.shape[2:])
    return torch.stack(torch.meshgrid(x, y, indexing="ij"), -1)


def _axes(image: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Coordinates along and across ``count`` random directions through random points, each (B, count, X, Y)."""
    batch, device = image.shape[0], image.device
    size = torch.tensor(image.shape[2:], device=device)
    offset = _positions(image) - (uniform(0, 1, batch, device, count, 1, 1, 2) * size)  # (B, count, X, Y, 2)
    angle = uniform(0, 2 * math.pi, batch, device, count, 1, 1)
    x, y = offset.unbind(-1)
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
