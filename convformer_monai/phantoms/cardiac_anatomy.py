"""The truth of the cardiac phantom: formulas in patient millimetres, and their integrals.

Sizes and positions follow the 80 ACDC patients of the training data, medians at end diastole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from convformer_monai.tasks.cardiac import CARDIAC
from convformer_monai.tasks.task import BACKGROUND

Array: TypeAlias = NDArray[Any]
LABELS = {label.name: label.index for label in CARDIAC.labels}

_WIDEST = 0.2  # level (0 base .. 1 apex) at which the left ventricle is widest
_END_SYSTOLE = 1 / 3  # of the heart beat
# Right ventricle by level: an ellipse seen from the LV centre (distance, semi-axis along and across, mm), cut by the
# diaphragm and by the LV. Beyond the last level it lies inside the LV outline: no cavity is left.
RV_LEVELS = np.array([0.0, 0.25, 0.5, 0.75, 0.95])
_RV_ELLIPSE = np.array([[40.0, 39.0, 36.0, 30.0, 15.0], [34.0, 31.0, 27.0, 21.0, 3.0], [46.0, 42.0, 35.0, 25.0, 8.0]])
_RV_SYSTOLE = np.array([0.84, 0.70, 0.79])  # what those three shrink to at end systole
_DIAPHRAGM = np.array([0.25, 0.968])  # normal of the plane on which the right ventricle rests


@dataclass(frozen=True)
class CardiacAnatomy:
    """The heart and its place in the body, as formulas; the truth of a cardiac phantom.

    Anatomical frame, mm: x to the patient's left, y to posterior, z from base to apex (superior, as in ACDC's headers),
    origin in the middle of the volume. Cross-sections of the left ventricle are near-circles whose areas depend only
    on the level; contraction shortens the heart from the base and keeps the volume of the muscle.

    Attributes:
        lv_radius: greatest mean radius of the LV cavity at end diastole, mm.
        lv_length: length of the LV cavity at end diastole, mm.
        wall_thickness: of the LV where it is widest, at end diastole, mm.
        ejection_fraction: of the LV, between 0 and 1; the volumes give exactly this.
        shortening: fraction of its length that the heart loses at end systole.
        rv_size: scale of the right ventricle's cross-sections, about 1.
        centre: LV centre (x, y) at z = 0, mm.
        base: z of the mitral plane at end diastole, mm.
        tilt: drift of the LV centre (x, y) towards the apex, mm per mm.
        rv_angle: direction from the LV to the RV, degrees from x towards y (180 is the patient's right).
        ovality: relative deviation of the cross-sections from circles, below 0.06.
        fat: thickness of the fat under the skin, mm.
        rotation: pose of the patient, degrees about the R, A and S axes, in this order (0 0 0 is the frame above).
        detail_seed: seed of what is not truth: texture, vessels, trabeculae.
    """

    lv_radius: float = 27.0
    lv_length: float = 87.0
    wall_thickness: float = 8.5
    ejection_fraction: float = 0.6
    shortening: float = 0.13
    rv_size: float = 1.0
    centre: tuple[float, float] = (-4.0, -2.0)
    base: float = -46.0
    tilt: tuple[float, float] = (0.0, 0.03)
    rv_angle: float = 160.0
    ovality: float = 0.02
    fat: float = 12.0
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    detail_seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "lv_radius": (10, 50), "lv_length": (40, 140), "wall_thickness": (4, 25), "ejection_fraction": (0, 0.85),
            "shortening": (0, 0.3), "rv_size": (0.7, 1.3), "ovality": (0, 0.06), "fat": (0, 60),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be between {low} and {high}, got {getattr(self, name)}")

    @classmethod
    def sample(cls, seed: int) -> CardiacAnatomy:
        """Draws a plausible adult heart; the ranges are about the middle 80% of ACDC."""
        rng = np.random.default_rng([seed, 0])
        return cls(
            lv_radius=rng.uniform(23.5, 29.5),
            lv_length=rng.uniform(80.0, 92.0),
            wall_thickness=rng.uniform(7.5, 10.5),
            ejection_fraction=rng.uniform(0.5, 0.68),
            shortening=rng.uniform(0.10, 0.15),
            rv_size=rng.uniform(0.94, 1.06),
            centre=(rng.uniform(-12.0, 4.0), rng.uniform(-10.0, 6.0)),
            base=rng.uniform(-50.0, -44.0),
            tilt=(rng.uniform(-0.05, 0.05), rng.uniform(-0.02, 0.08)),
            rv_angle=rng.uniform(150.0, 172.0),
            ovality=rng.uniform(0.0, 0.04),
            fat=rng.uniform(9.0, 18.0),
            detail_seed=int(rng.integers(2**31)),
        )

    def contraction(self, time: float) -> float:
        """Contraction at a time of the beat in [0, 1): 0 at end diastole (time 0), 1 at end systole (time 1/3)."""
        time %= 1.0
        fraction = time / _END_SYSTOLE if time < _END_SYSTOLE else (1 - time) / (1 - _END_SYSTOLE)
        return 0.5 - 0.5 * math.cos(math.pi * fraction)

    def to_frame(self, points: Array) -> Array:
        """Turns patient points, RAS mm, (..., 3) into the LV's frame (3, ...): x, y from the LV centre, and z."""
        r, a, s = np.moveaxis(points @ self.pose(), -1, 0)  # a rotation: this applies its inverse
        return np.stack([-r - self.centre[0] - self.tilt[0] * s, -a - self.centre[1] - self.tilt[1] * s, s])

    def pose(self) -> Array:
        """The patient's rotation matrix (3, 3), anatomical frame to scanner frame."""
        return np.asarray(Rotation.from_euler("xyz", self.rotation, degrees=True).as_matrix())

    def level(self, z: Array, c: float) -> Array:
        """Level along the ventricle, 0 at the base and 1 at the apex of the cavity, at contraction c."""
        length = self.lv_length * (1 - c * self.shortening)
        return 1 + (z - self.base - self.lv_length) / length

    def radii(self, s: Array, c: float) -> tuple[Array, Array]:
        """Mean radius of the LV cavity and of the LV's outer surface at levels s, mm (0 beyond the apex)."""
        shorter = 1 - c * self.shortening
        narrower = 1 - c * (1 - math.sqrt((1 - self.ejection_fraction) / (1 - self.shortening)))
        end = self.epicardial_end
        inner = self.lv_radius**2 * np.clip(1 - ((s - _WIDEST) / (1 - _WIDEST)) ** 2, 0, None)
        outside = np.clip(1 - ((s - _WIDEST) / (end - _WIDEST)) ** 2, 0, None)
        outer = (self.lv_radius + self.wall_thickness) ** 2 * outside
        cavity = narrower**2 * inner
        return np.sqrt(cavity), np.sqrt(cavity + (outer - inner) / shorter)

    @property
    def epicardial_end(self) -> float:
        """Level at which the muscle of the apex ends."""
        return 1 + 0.75 * self.wall_thickness / self.lv_length

    def lv_distances(self, x: Array, y: Array, s: Array, c: float) -> tuple[Array, Array]:
        """Distance beyond the LV cavity and beyond the LV's outer surface in the plane, mm, negative inside."""
        inner, outer = self.radii(s, c)
        r2 = np.maximum(x * x + y * y, 1e-6)
        r = np.sqrt(r2)
        # area-keeping oval: r**2 = radius**2 * (1 + e * cos(2 * angle)); the wall gets half of it
        oval = 2 * self.ovality * (x * x - y * y + x * y) / r2
        return r - inner * np.sqrt(1 + oval), r - outer * np.sqrt(1 + 0.5 * oval)

    def _rv_parameters(self, s: Array, c: float) -> tuple[Array, Array, Array, Array]:
        size = self.rv_size * (1 - c * (1 - _RV_SYSTOLE))
        distance, along, across = (np.interp(s, RV_LEVELS, v) * k for v, k in zip(_RV_ELLIPSE, size, strict=True))
        distance = distance + (self.lv_radius + self.wall_thickness - 35.5)  # it sits on the LV
        floor = _DIAPHRAGM[1] * (diaphragm_height(self.base + s * self.lv_length) + 4) - 10
        return distance, along, across, floor * (1 - 0.08 * c)

    def rv_distance(self, x: Array, y: Array, s: Array, c: float) -> Array:
        """Approximate distance beyond the RV's free wall in the plane, mm, negative inside; the LV is not cut out."""
        distance, along, across, floor = self._rv_parameters(s, c)
        cos, sin = math.cos(math.radians(self.rv_angle)), math.sin(math.radians(self.rv_angle))
        free_wall = ellipse(x * cos + y * sin - distance, y * cos - x * sin, along, across)
        return np.asarray(np.maximum(free_wall, x * _DIAPHRAGM[0] + y * _DIAPHRAGM[1] - floor))

    def label(self, points: Array, time: float = 0.0) -> NDArray[np.uint8]:
        """The true label at any points of the patient.

        Args:
            points: (..., 3) in RAS mm.
            time: time in the heart beat, 0 to 1.

        Returns:
            (...): 0 background, 1 RV cavity, 2 myocardium, 3 LV cavity.
        """
        return self._label_in_frame(self.to_frame(np.asarray(points, dtype=np.float64)), self.contraction(time))

    def _label_in_frame(self, frame: Array, c: float) -> NDArray[np.uint8]:
        x, y, z = frame
        s = self.level(z, c)
        endocardium, epicardium = self.lv_distances(x, y, s, c)
        heart = s >= 0
        rv = heart & (s < RV_LEVELS[-1]) & (self.rv_distance(x, y, s, c) < 0)
        lv = heart & (s < self.epicardial_end)
        result = np.where(rv, LABELS["RV"], BACKGROUND.index)
        result = np.where(lv & (epicardium < 0), LABELS["MYO"], result)
        return np.where(lv & (s < 1) & (endocardium < 0), LABELS["LV"], result).astype(np.uint8)

    def volumes_ml(self, time: float = 0.0) -> dict[str, float]:
        """True volumes of RV, MYO and LV in mL at a time of the beat, integrated from the formulas (error < 0.01%)."""
        c = self.contraction(time)
        s = (np.arange(400) + 0.5) / 400 * self.epicardial_end
        inner, outer = self.radii(s, c)
        areas = {"RV": self._rv_areas(s, c), "MYO": np.pi * (outer**2 - inner**2), "LV": np.pi * inner**2}
        per_level = self.lv_length * (1 - c * self.shortening) * self.epicardial_end / len(s) / 1000
        return {name: float(area.sum() * per_level) for name, area in areas.items()}

    def _rv_areas(self, s: Array, c: float) -> Array:
        """RV cavity area, mm2, at levels s: rays from the LV centre through the ellipse, the diaphragm and the LV."""
        s = s[:, None]
        angle = np.linspace(0, 2 * np.pi, 360, endpoint=False)
        x, y = np.cos(angle), np.sin(angle)
        distance, along, across, floor = self._rv_parameters(s, c)
        cos, sin = math.cos(math.radians(self.rv_angle)), math.sin(math.radians(self.rv_angle))
        forward, sideways = x * cos + y * sin, y * cos - x * sin
        # |ray(t)| on the ellipse: p t**2 - 2 q t + r = 0
        p = (forward / along) ** 2 + (sideways / across) ** 2
        q = distance * forward / along**2
        root = q**2 - p * ((distance / along) ** 2 - 1)
        half = np.sqrt(np.maximum(root, 0))
        slope = x * _DIAPHRAGM[0] + y * _DIAPHRAGM[1]
        end = np.minimum((q + half) / p, np.where(slope > 0, floor / np.maximum(slope, 1e-9), np.inf))
        start = np.maximum((q - half) / p, -self.lv_distances(x, y, s, c)[1] + 1)  # the rays have length 1
        inside = (root > 0) & (end > start) & (s < RV_LEVELS[-1])
        return np.asarray(np.where(inside, end**2 - start**2, 0).sum(axis=1) * np.pi / angle.size)


def ellipse(x: Array, y: Array, a: Any, b: Any, power: float = 2.0) -> Array:
    """Distance from a (super)ellipse along the ray from its centre, mm, negative inside."""
    if power == 2.0:
        q = np.sqrt((x / a) ** 2 + (y / b) ** 2)
    else:
        q = (np.abs(x / a) ** power + np.abs(y / b) ** power) ** (1 / power)
    return np.asarray(np.hypot(x, y) * (1 - 1 / np.maximum(q, 1e-3)))


def diaphragm_height(z: Array) -> Array:
    """Height y of the diaphragm below the LV axis, mm, at z (before the dome)."""
    return np.asarray(44 - 26 * (np.clip(z + 45, 0, 110) / 90) ** 2.5)
