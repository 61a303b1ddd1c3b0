"""The blood of the head phantom: bodies given by formulas, with their volumes as integrals of these."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.special import eval_legendre

from convformer_monai.phantoms.cardiac_anatomy import Array
from convformer_monai.phantoms.head_ct.vault import Vault
from convformer_monai.phantoms.head_ct.ventricles import BACK, FRONT, Ventricle

__all__ = ["KINDS", "Bleed", "Epidural", "Intraparenchymal", "Intraventricular", "Subdural"]


class Bleed(Protocol):
    """A body of blood in the frame of the head."""

    @property
    def kind(self) -> str:
        """Its name, one of `KINDS`."""

    def distance(self, frame: Array) -> Array:
        """Approximate distance from its surface at points (3, N), mm; negative just where blood is."""

    def volume_ml(self) -> float:
        """Its exact volume, mL."""


@dataclass(frozen=True)
class Intraparenchymal:
    """A lobed ellipsoid.

    In coordinates in which the ellipsoid is the unit ball, the radius in direction u is 1 + sum of a_k P_n(u . d_k)
    with Legendre polynomials P_n of degree n. Its cube is a polynomial of u, so a quadrature gives the exact volume.

    Attributes:
        centre: x, y, z, mm.
        semi_axes: of the ellipsoid, mm.
        yaw: turns it about z, radians.
        lobes: for each: degree of the polynomial, amplitude, axis (x, y, z); degrees up to 13.
    """

    centre: tuple[float, float, float]
    semi_axes: tuple[float, float, float]
    yaw: float = 0.0
    lobes: tuple[tuple[int, float, tuple[float, float, float]], ...] = ()
    kind: str = field(default="intraparenchymal", init=False)

    def __post_init__(self) -> None:
        if sum(abs(amplitude) for _, amplitude, _ in self.lobes) >= 1:
            raise ValueError(f"lobes must have amplitudes that add up to less than 1, got {self.lobes}")

    def distance(self, frame: Array) -> Array:
        """See :class:`Bleed`; along the ray from the centre."""
        offset = frame - np.array(self.centre)[:, None]
        result = np.sqrt((offset**2).sum(axis=0)) - max(self.semi_axes)
        near = np.flatnonzero(result < 1.5 * max(self.semi_axes))
        result[near] = self._near(offset[:, near])
        return np.asarray(result)

    def _near(self, offset: Array) -> Array:
        """Distance at offsets (3, N) from the centre."""
        x, y, z = offset
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        ball = np.stack([x * cos + y * sin, y * cos - x * sin, z])
        length = np.sqrt((ball**2).sum(axis=0)) + 1e-6
        ball = ball / np.array(self.semi_axes)[:, None]
        rho = np.sqrt((ball**2).sum(axis=0)) + 1e-6
        return np.asarray(length * (1 - self._radius(ball / rho) / rho))

    def _radius(self, direction: Array) -> Array:
        """Radius of the body in the coordinates of the unit ball, in unit directions (3, ...)."""
        radius = np.ones_like(direction[0])
        for degree, amplitude, axis in self.lobes:
            unit = np.array(axis) / np.linalg.norm(axis)
            cosine = np.tensordot(unit, direction, axes=1)
            radius += amplitude * eval_legendre(degree, np.clip(cosine, -1, 1))
        return np.asarray(radius)

    def volume_ml(self) -> float:
        """Exact up to rounding: the quadrature integrates polynomials of u up to degree 39."""
        heights, weights = leggauss(20)
        angles = np.arange(40) * math.pi / 20
        flat = np.sqrt(1 - heights**2)
        x, y = np.outer(flat, np.cos(angles)), np.outer(flat, np.sin(angles))
        direction = np.stack([x, y, np.broadcast_to(heights[:, None], x.shape)])
        mean = float((self._radius(direction) ** 3).mean(axis=1) @ weights) / 2
        return 4 / 3 * math.pi * math.prod(self.semi_axes) * mean / 1000


@dataclass(frozen=True)
class Subdural:
    """A crescent under the vault: along each direction from the vault's centre, blood of a given thickness.

    Attributes:
        vault: what it lies under.
        side: 1 for the patient's left, -1 for the right.
        thickness: where it is greatest, mm.
        middle: azimuth from lateral towards posterior, and elevation of its middle, radians.
        extent: half its extent in azimuth and elevation, radians.
    """

    vault: Vault
    side: int
    thickness: float = 10.0
    middle: tuple[float, float] = (0.0, 0.45)
    extent: tuple[float, float] = (1.1, 0.6)
    kind: str = field(default="subdural", init=False)

    def depth(self, direction: Array) -> Array:
        """Thickness in unit directions (3, ...), mm; negative where there is none, the more the farther."""
        x, y, z = direction
        azimuth = (np.arctan2(y, self.side * x) - self.middle[0]) / self.extent[0]
        elevation = (np.arcsin(np.clip(z, -1, 1)) - self.middle[1]) / self.extent[1]
        inside = 1 - azimuth**2 - elevation**2
        uneven = 1 + 0.12 * np.sin(5 * azimuth + 3 * elevation + self.vault.phase)
        return np.asarray(self.thickness * uneven * np.sign(inside) * np.abs(inside) ** 0.7)

    def distance(self, frame: Array) -> Array:
        """See :class:`Bleed`; along the ray from the vault's centre."""
        return _under(self.vault, self.depth, frame)

    def volume_ml(self) -> float:
        """Integral over the directions, 400 x 400 of them (error < 0.01%)."""
        steps = (np.arange(400) + 0.5) / 200 - 1
        azimuth = (self.middle[0] + self.extent[0] * steps)[:, None]
        elevation = (self.middle[1] + self.extent[1] * steps)[None]
        direction = _direction(self.side, azimuth, elevation)
        cell = (2 / 400) ** 2 * self.extent[0] * self.extent[1]
        return float((_cones(self.vault, self.depth, direction) * np.cos(elevation)).sum() * cell / 1000)


@dataclass(frozen=True)
class Epidural:
    """A lens under the vault, thick and short, since the dura is fixed to the bone around it.

    Attributes:
        vault: what it lies under.
        side: 1 for the patient's left, -1 for the right.
        thickness: in its middle, mm.
        middle: azimuth from lateral towards posterior, and elevation of its middle, radians.
        extent: angle from its middle to its edge, seen from the vault's centre, radians.
    """

    vault: Vault
    side: int
    thickness: float = 16.0
    middle: tuple[float, float] = (0.1, 0.05)
    extent: float = 0.5
    kind: str = field(default="epidural", init=False)

    def depth(self, direction: Array) -> Array:
        """Thickness in unit directions (3, ...), mm; negative where there is none, the more the farther."""
        cosine = np.tensordot(self._axis(), direction, axes=1)
        return np.asarray(self.thickness * (1 - (np.arccos(np.clip(cosine, -1, 1)) / self.extent) ** 2))

    def distance(self, frame: Array) -> Array:
        """See :class:`Bleed`; along the ray from the vault's centre."""
        return _under(self.vault, self.depth, frame)

    def volume_ml(self) -> float:
        """Integral over the directions around its middle, 400 x 400 of them (error < 0.01%)."""
        axis = self._axis()
        across = np.cross(axis, (0.0, 0.0, 1.0))
        across /= np.linalg.norm(across)
        upwards = np.cross(across, axis)
        angle = ((np.arange(400) + 0.5) / 400 * self.extent)[:, None]
        turn = ((np.arange(400) + 0.5) / 200 * math.pi)[None]
        parts = np.cos(angle) + 0 * turn, np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn)
        direction = np.tensordot(np.stack([axis, across, upwards], axis=1), np.stack(parts), axes=1)
        cell = self.extent / 400 * math.pi / 200
        return float((_cones(self.vault, self.depth, direction) * np.sin(angle)).sum() * cell / 1000)

    def _axis(self) -> Array:
        """Unit direction of its middle (3,)."""
        return _direction(self.side, *(np.array(angle) for angle in self.middle))


def _under(vault: Vault, depth: Callable[[Array], Array], frame: Array) -> Array:
    """Distance (N,), mm, of points (3, N) from blood of some depth under the vault, along the ray from its centre."""
    rho, direction = vault.polar(frame)
    radius = vault.radius(direction)
    return np.asarray(np.maximum(rho - radius, radius - depth(direction) - rho))


def _cones(vault: Vault, depth: Callable[[Array], Array], direction: Array) -> Array:
    """Volume of blood of some depth under the vault, mm^3 a steradian, in unit directions (3, ...)."""
    outer = vault.radius(direction)
    inner = outer - np.maximum(depth(direction), 0)
    return np.asarray((outer**3 - inner**3) / 3)


def _direction(side: int, azimuth: Array, elevation: Array) -> Array:
    """Unit directions (3, ...): azimuth from lateral towards posterior, elevation towards the vertex, radians."""
    x, y = side * np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation)
    return np.stack([x, y, np.broadcast_to(np.sin(elevation), x.shape)])


@dataclass(frozen=True)
class Intraventricular:
    """Blood that has sunk to the back of the lateral ventricles of a supine patient, up to a level in each.

    Attributes:
        ventricles: those with blood.
        levels: y above which (towards the face) each of them is free of blood, mm.
    """

    ventricles: tuple[Ventricle, ...]
    levels: tuple[float, ...]
    kind: str = field(default="intraventricular", init=False)

    def distance(self, frame: Array) -> Array:
        """See :class:`Bleed`."""
        x, y, z = frame
        result = np.full(x.shape, 30.0)
        for ventricle, level in zip(self.ventricles, self.levels, strict=True):
            result = np.minimum(result, np.maximum(ventricle.distance(x, y, z), level - y))
        return result

    def volume_ml(self) -> float:
        """Integral of the cross-sections along y, 4000 of them (error < 0.01%)."""
        volume = 0.0
        for ventricle, level in zip(self.ventricles, self.levels, strict=True):
            start = max(level, FRONT)
            y = start + (np.arange(4000) + 0.5) / 4000 * (BACK - start)
            volume += float(ventricle.area(y).mean()) * (BACK - start) / 1000
        return volume


KINDS = ("intraparenchymal", "subdural", "intraventricular", "epidural")
