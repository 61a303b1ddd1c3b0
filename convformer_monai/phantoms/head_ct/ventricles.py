"""The lateral ventricles: tubes along y with elliptical cross-sections, so a volume is a one-dimensional integral."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from convformer_monai.phantoms.cardiac_anatomy import Array, ellipse

# along y, mm: distance from the midline, height z, half width and half height of the cross-section
_HORNS = np.array([
    [-36.0, -31, -24, -14, -4, 6, 16, 24, 31, 40, 50, 58, 63],
    [18.0, 15.5, 11.5, 7.5, 7.0, 9.0, 13.5, 19.5, 24.0, 25.5, 24.5, 23.0, 22.0],
    [9.0, 9, 11, 14, 18, 20.5, 19, 13, 7, 3, 1.5, 1, 1],
    [0.0, 2.9, 4.2, 4.4, 3.9, 3.9, 4.9, 6.4, 6.8, 5.2, 3.4, 1.8, 0.0],
    [0.0, 6.5, 9.0, 8.5, 6.0, 5.0, 7.0, 11.5, 12.5, 8.5, 5.0, 3.0, 0.0],
])  # fmt: skip
_TEMPORAL = np.array([
    [-12.0, -6, 4, 14, 22, 28],
    [30.0, 31, 33, 33, 30, 26],
    [-25.0, -24, -21, -15, -7, 0],
    [0.0, 2.2, 2.0, 2.2, 3.0, 3.0],
    [0.0, 2.2, 1.6, 2.0, 3.5, 4.0],
])  # fmt: skip
FRONT, BACK = float(_HORNS[0, 0]), float(_HORNS[0, -1])
_SLANT = (np.array([-36.0, -10.0, 10.0, 63.0]), np.array([0.42, 0.3, 0.15, 0.0]))  # the front horns lean outwards


@dataclass(frozen=True)
class Ventricle:
    """One lateral ventricle: front horn, body, atrium, back horn; and its temporal horn.

    Attributes:
        side: 1 for the patient's left, -1 for the right.
        size: scale of the cross-sections.
        shift: shift of the midline towards the left, mm, where it is greatest.
    """

    side: int
    size: float = 1.0
    shift: float = 0.0

    def section(self, y: Array) -> tuple[Array, Array, Array, Array]:
        """Centre (x, z) and half axes of the cross-section at y, mm."""
        away, z, wide, high = (PchipInterpolator(_HORNS[0], row, extrapolate=False)(y) for row in _HORNS[1:])
        stretch = self.size**0.5
        away = away + (stretch - 1) * wide  # large ventricles grow outwards, away from the septum
        x = self.side * away + midline_shift(self.shift, y, z)
        return x, z, wide * self.size, high * stretch

    def area(self, y: Array) -> Array:
        """Area of the cross-section at y, mm2."""
        _, _, wide, high = self.section(y)
        return np.nan_to_num(np.pi * wide * high)

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Approximate distance from the surface, mm, negative inside; 30 beyond the ends of the horns."""
        result = np.full(x.shape, 30.0, dtype=x.dtype)
        where = np.flatnonzero((y > FRONT) & (y < BACK) & (np.abs(x) < 60) & (np.abs(z - 10) < 40))
        if not where.size:
            return result
        cx, cz, wide, high = (values.astype(x.dtype) for values in self.section(y[where]))
        dz = z[where] - cz
        dx = x[where] - cx - self.side * np.interp(y[where], *_SLANT) * dz
        wide, high = np.maximum(wide, 1e-3), np.maximum(high, 1e-3)
        q = np.hypot(dx / wide, dz / high)
        result[where] = (q - 1) * np.minimum(np.minimum(wide, high), np.hypot(dx, dz) / np.maximum(q, 1e-3))
        return result

    def temporal_distance(self, x: Array, y: Array, z: Array) -> Array:
        """Approximate distance from the surface of the temporal horn in the plane across it, mm."""
        away, cz, wide, high = (np.interp(y, _TEMPORAL[0], row) for row in _TEMPORAL[1:])
        beyond = np.maximum(_TEMPORAL[0, 0] - y, y - _TEMPORAL[0, -1])
        inside = ellipse(x - self.side * away, z - cz, np.maximum(wide * self.size, 0.1), np.maximum(high, 0.1))
        return np.asarray(np.maximum(inside, beyond))


def midline_shift(greatest: float, y: Array, z: Array) -> Array:
    """Displacement of the middle of the brain to the left, mm: none at the ends of the falx and at the skull base."""
    return np.asarray(greatest * np.exp(-(((y - 2) / 42) ** 2) - ((z - 10) / 34) ** 2))
