"""The dermoscopy phantom: a photograph of a skin lesion whose outline is a formula, its truth, area and files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convformer_monai.phantoms.cardiac_anatomy import Array
from convformer_monai.phantoms.dermoscopy_looks import Scene, photograph
from convformer_monai.tasks.dermoscopy import DERMOSCOPY

SUFFIXES = (".jpg", ".png")


@dataclass(frozen=True)
class LesionOutline:
    """A closed curve: an ellipse whose radius is perturbed by a Fourier series.

    In coordinates in which the ellipse is the unit circle, the radius in direction t is
    1 + sum of a_k cos(k t + p_k); the series is orthogonal, so the area is pi a b (1 + sum of a_k**2 / 2).

    Attributes:
        centre: x to the right and y down, in fractions of the image's width and height.
        semi_axes: of the ellipse, in units of the image's shorter side.
        angle: of the first axis, radians from x towards y.
        waves: of the series, for each: k (1, 2, ...), amplitude, phase in radians.
    """

    centre: tuple[float, float] = (0.5, 0.5)
    semi_axes: tuple[float, float] = (0.25, 0.2)
    angle: float = 0.0
    waves: tuple[tuple[int, float, float], ...] = ()

    def __post_init__(self) -> None:
        if len({k for k, _, _ in self.waves}) < len(self.waves) or any(k < 1 for k, _, _ in self.waves):
            raise ValueError(f"waves must have different whole k from 1, got {self.waves}")
        if sum(abs(amplitude) for _, amplitude, _ in self.waves) >= 1:
            raise ValueError(f"waves must have amplitudes that add up to less than 1, got {self.waves}")
        if not min(self.semi_axes) > 0:
            raise ValueError(f"semi_axes must be positive, got {self.semi_axes}")

    @classmethod
    def sample(cls, seed: int) -> LesionOutline:
        """Draws a plausible lesion that lies within the image."""
        rng = np.random.default_rng([seed, 30])
        orders = range(2, 9)
        amplitudes = rng.normal(0, rng.uniform(0.04, 0.13), len(orders)) / np.arange(1, len(orders) + 1) ** 0.9
        amplitudes *= min(1.0, 0.5 / np.abs(amplitudes).sum())
        size = rng.uniform(0.16, 0.31)
        return cls(
            centre=(rng.uniform(0.45, 0.55), rng.uniform(0.46, 0.54)),
            semi_axes=(size, size * rng.uniform(0.65, 1.0)),
            angle=rng.uniform(0, math.pi),
            waves=tuple((k, float(a), rng.uniform(0, 2 * math.pi)) for k, a in zip(orders, amplitudes, strict=True)),
        )

    def distance(self, x: Array, y: Array, size: tuple[int, int]) -> Array:
        """Approximate distance from the curve, pixels, negative inside.

        Args:
            x: to the right, pixels; 0 is the middle of the first one.
            y: down, pixels.
            size: columns and rows of the image.
        """
        short = min(size)
        dx = x - (self.centre[0] * size[0] - 0.5)
        dy = y - (self.centre[1] * size[1] - 0.5)
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        u = (dx * cos + dy * sin) / (self.semi_axes[0] * short)
        v = (dy * cos - dx * sin) / (self.semi_axes[1] * short)
        rho, direction = np.maximum(np.hypot(u, v), 1e-9), np.arctan2(v, u)
        radius = np.ones_like(rho)
        for k, amplitude, phase in self.waves:
            radius += amplitude * np.cos(k * direction + phase)
        ray = np.maximum(np.hypot(dx, dy), 1e-9 * self.semi_axes[0] * short)  # not 0 in the very middle
        return np.asarray(ray * (1 - radius / rho))

    def area(self, size: tuple[int, int]) -> float:
        """Exact area inside the curve, square pixels, in an image of so many columns and rows."""
        waviness = sum(amplitude**2 for _, amplitude, _ in self.waves) / 2
        return math.pi * math.prod(self.semi_axes) * min(size) ** 2 * (1 + waviness)


@dataclass(frozen=True)
class DermoscopyPhantom:
    """A photograph with its truth.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        label: (H, W) uint8: 1 where the lesion is.
        outline: the formula behind the truth.
        spacing_mm: of the pixels, `None` where it is not known, as in most photographs.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    outline: LesionOutline
    spacing_mm: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def area_px(self) -> float:
        """True area of the lesion, square pixels."""
        return self.outline.area(self.size)

    @property
    def area_mm2(self) -> float | None:
        """True area of the lesion, mm2; `None` without pixel spacing."""
        return None if self.spacing_mm is None else self.area_px * self.spacing_mm**2

    def save(self, directory: str | Path, stem: str, suffix: str = ".jpg") -> tuple[Path, Path]:
        """Writes the photograph and `stem_truth.png` (0 and 255, as the published masks); the folder is made.

        Args:
            directory: where to.
            stem: name of the files without extension.
            suffix: of the photograph: .jpg (quality 95) or .png (every pixel as it is).

        Returns:
            The two paths.

        Raises:
            ValueError: if the suffix is another.
        """
        if suffix not in SUFFIXES:
            raise ValueError(f"suffix must be one of {', '.join(SUFFIXES)}, got {suffix!r}")
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        photo = folder / f"{stem}{suffix}"
        if suffix == ".jpg":
            Image.fromarray(self.image).save(photo, quality=95, subsampling=0)
        else:
            Image.fromarray(self.image).save(photo)
        return photo, self.save_truth(folder / f"{stem}_truth.png")

    def save_truth(self, path: Path) -> Path:
        """Writes the mask as PNG, 0 and 255."""
        Image.fromarray(np.where(self.label > 0, 255, 0).astype(np.uint8)).save(path)
        return path


def dermoscopy_phantom(
    *,
    size: Sequence[int] = (1024, 768),
    seed: int = 0,
    hair: bool = True,
    ruler: bool = False,
    vignette: bool = True,
    spacing_mm: float | None = None,
    outline: LesionOutline | None = None,
) -> DermoscopyPhantom:
    """Makes a dermoscopic photograph of a pigmented lesion, with exact truth.

    Args:
        size: columns and rows, from 16 to 8192; of one shape, different sizes show the same scene.
        seed: chooses skin, lesion and everything on it.
        hair: draw hairs over skin and lesion.
        ruler: draw a millimetre scale.
        vignette: the round field of view of the instrument, dark in the corners.
        spacing_mm: of the pixels; the ruler's ticks follow it. Without it the image is taken to be 20 mm wide.
        outline: this one instead of `LesionOutline.sample(seed)`.

    Returns:
        The phantom.

    Raises:
        ValueError: an argument is out of range; the message names it.
    """
    shape = np.asarray(size)
    if shape.shape != (2,) or shape.dtype.kind != "i" or shape.min() < 16 or shape.max() > 8192:
        raise ValueError(f"size must be two whole numbers between 16 and 8192, got {size!r}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if spacing_mm is not None and not 0.0001 <= spacing_mm <= 10:
        raise ValueError(f"spacing_mm must be between 0.0001 and 10, got {spacing_mm}")
    columns, rows = int(shape[0]), int(shape[1])
    curve = outline or LesionOutline.sample(seed)
    y, x = np.indices((rows, columns))
    distance = curve.distance(x, y, (columns, rows))
    label = np.where(distance < 0, DERMOSCOPY.labels[0].index, 0).astype(np.uint8)
    scale = (spacing_mm or 20 / columns) if ruler else None
    scene = Scene(columns, rows, seed)
    image = photograph(scene, distance.astype(np.float32), hair=hair, ruler_mm=scale, vignette=vignette)
    return DermoscopyPhantom(image=image, label=label, outline=curve, spacing_mm=spacing_mm)
