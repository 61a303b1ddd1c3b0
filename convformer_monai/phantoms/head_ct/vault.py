"""The vault of the skull: a surface given by its distance from one centre in every direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convformer_monai.phantoms.cardiac_anatomy import Array

POWER = 2.45  # of the superellipsoid: heads are a little squarer than ellipsoids
DOWN = 1.55  # the sides go on downwards, to the neck, farther than up


@dataclass(frozen=True)
class Vault:
    """The inner surface of the skull above its base, and the thickness of bone and scalp, by direction.

    Frame of the head, mm: x to the patient's left, y to posterior, z to superior, origin between the thalami.

    Attributes:
        width: half the greatest inner width, mm.
        length: half the inner length, mm.
        height: from the centre to the inner top, mm.
        thickness: mean thickness of the bone, mm.
        scalp: mean thickness of the scalp, mm.
        centre: of the surface, mm.
        phase: of the individual waviness, radians.
    """

    width: float = 67.0
    length: float = 83.0
    height: float = 70.0
    thickness: float = 6.5
    scalp: float = 5.0
    centre: tuple[float, float, float] = (0.0, 0.0, 4.0)
    phase: float = 0.0

    def polar(self, frame: Array) -> tuple[Array, Array]:
        """Distance from the centre (N,), mm, and unit direction (3, N) of points (3, N)."""
        offset = frame - np.array(self.centre, dtype=frame.dtype)[:, None]
        rho = np.sqrt((offset**2).sum(axis=0)) + 1e-3
        return rho, offset / rho

    def radius(self, direction: Array) -> Array:
        """Distance of the inner surface from the centre, mm, in unit directions (3, ...)."""
        x, y, z = direction
        wide = self.width * (0.985 + 0.055 * y - 0.05 * y * y)  # narrow in front, widest behind the middle
        long = self.length * (1 + 0.012 * np.sin(3 * x + self.phase))
        high = self.height * np.where(z > 0, 1, DOWN)
        q = np.abs(x / wide) ** POWER + np.abs(y / long) ** POWER + np.abs(z / high) ** POWER
        wavy = 1 + 0.008 * np.cos(5 * y + 2 * x + self.phase) + 0.006 * np.cos(7 * z - 3 * x + 2 * self.phase)
        crests = 0.03 * np.exp(-((x / 0.07) ** 2)) * np.exp(-(((np.abs(y) - 0.95) / 0.2) ** 2))  # frontal, occipital
        return np.asarray(wavy * (1 - crests) / q ** (1 / POWER))

    def bone(self, direction: Array) -> Array:
        """Thickness of the bone, mm."""
        x, y, z = direction
        thick = 1 + 0.14 * np.cos(3 * y + 4 * z + self.phase) + 0.10 * np.cos(6 * x * y + 2 * self.phase)
        thin = 0.35 * np.exp(-(((np.abs(x) - 1) / 0.25) ** 2) - ((z + 0.1) / 0.35) ** 2)  # the temples
        knob = 0.9 * np.exp(-((x / 0.25) ** 2) - ((y - 0.95) / 0.2) ** 2 - ((z + 0.2) / 0.2) ** 2)
        knob += 0.5 * np.exp(-((x / 0.3) ** 2) - ((y + 0.95) / 0.2) ** 2 - ((z + 0.1) / 0.25) ** 2)
        return np.asarray(self.thickness * (thick - thin + knob))

    def soft(self, direction: Array) -> Array:
        """Thickness of the scalp, mm, with the muscles at the temples and in the neck."""
        x, y, z = direction
        waves = 1 + 0.15 * np.cos(4 * x - 3 * y + self.phase)
        return np.asarray(self.scalp * waves + self.muscle(direction))

    def muscle(self, direction: Array) -> Array:
        """Thickness of the muscle between bone and scalp, mm: temples and neck."""
        x, y, z = direction
        temple = np.clip(1.35 - ((y + 0.25) / 0.42) ** 2 - ((z + 0.42) / 0.62) ** 2, 0, None) * (np.abs(x) > 0.3)
        neck = np.clip(0.9 - ((x) / 0.7) ** 2 - ((z + 0.75) / 0.45) ** 2, 0, None) * (y > 0)
        return np.asarray(9.0 * np.minimum(temple, 1) + 22.0 * neck)


def floor_height(x: Array, y: Array) -> Array:
    """Height z of the skull base under the brain, mm: three fossae, with the sphenoid and petrous ridges between."""
    side = np.abs(x)
    bumps = 0.8 * np.sin(x / 4.5 + 1) + 0.8 * np.sin(y / 5 + x / 9)
    roofs = np.exp(-(((side - 29) / 15) ** 2) - ((y + 58) / 26) ** 2)  # of the orbits
    front = -21 + 9 * roofs + 1.5 * bumps * roofs
    middle = -37 + 22 * _fourth((side - 37) / 26) + 9 * _fourth((y + 6) / 32)
    middle = np.where(side < 13, -22.0, np.minimum(middle, -10.0))
    behind = -60 + 30 * (_fourth(side / 57) + _fourth(np.clip(y - 42, -60, 60) / 46))
    beside = np.clip(side - 11, 0, 60)
    wing = y + 21 + 0.95 * beside - 0.011 * beside**2 + 0.3 * bumps  # behind the lesser wing of the sphenoid
    ridge = y - 3 - 0.5 * side + 0.7 * bumps  # behind the petrous ridge
    floor = front + (middle - front) * _step(wing, 3.0)
    floor = floor + (np.minimum(behind, 10) - floor) * _step(ridge, 3.0)
    petrous = -18.0 + 0.07 * side - 1.4 * np.abs(ridge) - 1.5 * np.clip(12 - side, 0, None)
    sphenoid = -12.5 - 1.3 * np.abs(wing) - 0.5 * np.clip(8 - side, 0, None)
    return np.asarray(np.maximum(np.maximum(floor, petrous), sphenoid) + 0.4 * bumps)


def base_thickness(x: Array, y: Array) -> Array:
    """Thickness of the bone of the skull base, mm."""
    side = np.abs(x)
    ridge = y - 3 - 0.5 * side
    petrous = 24 * np.exp(-((ridge / 11) ** 2)) * _step(side - 8, 3.0)
    clivus = 22 * np.exp(-((x / 12) ** 2) - ((y + 1) / 9) ** 2)
    brow = 7 * np.exp(-(((y + 84) / 6) ** 2))
    return np.asarray(3.5 + petrous + clivus + brow + 4 * _step(y - 10, 6.0))


def _step(value: Array, width: float) -> Array:
    """Smooth step from 0 to 1, mm wide."""
    return np.asarray(0.5 + 0.5 * np.tanh(value / width))


def _fourth(value: Array) -> Array:
    square = value * value  # numpy takes ten times as long for value**4
    return np.asarray(square * square)
