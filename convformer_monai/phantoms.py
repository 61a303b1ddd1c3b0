"""Images with exactly known truth, for the demo and the tests: cardiac cine MRI.

The anatomy is a set of formulas in patient millimetres (:class:`CardiacAnatomy`); a grid of any spacing, size and
orientation only samples it. So the truth survives resampling, and the volumes are integrals, not voxel counts.

Sizes, positions and intensities follow the 80 ACDC patients of the training data (medians at end diastole: LV cavity
27 mm radius and 150 mL, wall 8 mm, RV 152 mL centred 45 mm from the LV centre at 156 degrees in the storage plane, LV
centre 4 mm left and 2 mm above the image centre; blood 750 / 590, muscle 240, liver 210, lung 30-60 of 1000). Papillary
muscles and trabeculae count as cavity, as there. One module for all kinds of phantom: each kind has its anatomy (the
truth), its painter (the looks) and one public function that returns a :class:`Phantom`.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from convformer_monai.labels import BACKGROUND, CARDIAC

__all__ = ["CardiacAnatomy", "Phantom", "cardiac_phantom"]

logger = logging.getLogger(__name__)

Array: TypeAlias = NDArray[Any]
_LABELS = {label.name: label.index for label in CARDIAC}

_WIDEST = 0.2  # level (0 base .. 1 apex) at which the left ventricle is widest
_END_SYSTOLE = 1 / 3  # of the heart beat
# Right ventricle by level: an ellipse seen from the LV centre (distance, semi-axis along and across, mm), cut by the
# diaphragm and by the LV. Beyond the last level it lies inside the LV outline: no cavity is left.
_RV_LEVELS = np.array([0.0, 0.25, 0.5, 0.75, 0.95])
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
        distance, along, across = (np.interp(s, _RV_LEVELS, v) * k for v, k in zip(_RV_ELLIPSE, size, strict=True))
        distance = distance + (self.lv_radius + self.wall_thickness - 35.5)  # it sits on the LV
        floor = _DIAPHRAGM[1] * (_diaphragm_height(self.base + s * self.lv_length) + 4) - 10
        return distance, along, across, floor * (1 - 0.08 * c)

    def rv_distance(self, x: Array, y: Array, s: Array, c: float) -> Array:
        """Approximate distance beyond the RV's free wall in the plane, mm, negative inside; the LV is not cut out."""
        distance, along, across, floor = self._rv_parameters(s, c)
        cos, sin = math.cos(math.radians(self.rv_angle)), math.sin(math.radians(self.rv_angle))
        free_wall = _ellipse(x * cos + y * sin - distance, y * cos - x * sin, along, across)
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
        rv = heart & (s < _RV_LEVELS[-1]) & (self.rv_distance(x, y, s, c) < 0)
        lv = heart & (s < self.epicardial_end)
        result = np.where(rv, _LABELS["RV"], BACKGROUND.index)
        result = np.where(lv & (epicardium < 0), _LABELS["MYO"], result)
        return np.where(lv & (s < 1) & (endocardium < 0), _LABELS["LV"], result).astype(np.uint8)

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
        inside = (root > 0) & (end > start) & (s < _RV_LEVELS[-1])
        return np.asarray(np.where(inside, end**2 - start**2, 0).sum(axis=1) * np.pi / angle.size)


def _ellipse(x: Array, y: Array, a: Any, b: Any, power: float = 2.0) -> Array:
    """Distance from a (super)ellipse along the ray from its centre, mm, negative inside."""
    if power == 2.0:
        q = np.sqrt((x / a) ** 2 + (y / b) ** 2)
    else:
        q = (np.abs(x / a) ** power + np.abs(y / b) ** power) ** (1 / power)
    return np.asarray(np.hypot(x, y) * (1 - 1 / np.maximum(q, 1e-3)))


def _diaphragm_height(z: Array) -> Array:
    """Height y of the diaphragm below the LV axis, mm, at z (before the dome)."""
    return np.asarray(44 - 26 * (np.clip(z + 45, 0, 110) / 90) ** 2.5)


# --- looks -----------------------------------------------------------------------------------------------------------

_TISSUE = {
    "air": 4.0, "lung": 60.0, "muscle": 200.0, "skin fat": 930.0, "fat": 560.0, "liver": 245.0, "spleen": 350.0,
    "bowel": 340.0, "bone": 70.0, "marrow": 290.0, "myocardium": 232.0, "LV blood": 760.0, "RV blood": 630.0,
}  # fmt: skip


class _Canvas:
    """Values at a list of points; structures are painted one over the other with soft, partial-volume edges."""

    def __init__(self, values: Array, softness: float) -> None:
        self.values = values
        self.softness = softness

    def paint(self, distance: Array, value: float | Array) -> None:
        """Sets the points with a negative distance (mm) to a value; the edge is as wide as a voxel."""
        cover = np.clip(0.5 - distance / self.softness, 0, 1)
        self.values += cover * (value - self.values)

    def ink(self, distance: Array, strength: float = 0.6) -> None:
        """Draws the dark line that balanced SSFP shows where fat meets water."""
        self.values *= 1 - strength * np.exp(-((distance / max(0.8, 0.6 * self.softness)) ** 2))


def _texture(frame: Array, seed: int, size: float) -> Array:
    """Smooth noise in [0, 1], fixed in the patient, with a grain of about size mm: (3, N) to (N,)."""
    lattice = np.random.default_rng([seed, 1]).random((32, 32, 32), dtype=np.float32)
    points = frame / np.array([[size], [size], [max(size, 8.0)]], dtype=frame.dtype)
    return np.asarray(ndimage.map_coordinates(lattice, points, order=1, mode="grid-wrap", output=np.float32))


def _paint_body(canvas: _Canvas, frame: Array, anatomy: CardiacAnatomy, grain: Array, fine: Array) -> None:
    """Paints what stands still: chest wall, lungs, abdomen, spine and aorta."""
    x, y, z = frame
    apical = np.clip((z + 45) / 90, 0, 1.2)
    lean, *phases = np.random.default_rng([anatomy.detail_seed, 3]).uniform(0, 2 * np.pi, 5)
    lean = 0.18 + 0.015 * lean
    px, py = x - 27, y - 55 + 10 * apical
    px, py = px * math.cos(lean) + py * math.sin(lean), py * math.cos(lean) - px * math.sin(lean)
    angle = np.arctan2(py, px)
    waves = [np.cos(k * angle + phase) for k, phase in zip((2, 3, 4, 5), phases, strict=True)]
    size = 1 + 0.03 * waves[0] + 0.03 * waves[1] + 0.012 * waves[2] + 0.008 * waves[3]
    body = _ellipse(px, py, (136 - 10 * apical) * size, (216 - 36 * apical) * size, power=2.3)
    # chest wall: thicker towards the armpit (right), the back and the apex
    thickness = 0.75 + 1.6 * np.clip((x - 10) / 110, 0, 1) * (0.5 + apical) + 0.3 * waves[0] + 0.2 * waves[3]
    muscle = body + anatomy.fat * np.maximum(thickness, 0.4) + 3 * grain
    lung = _ellipse(x - 18, y + 6 - 12 * apical, 90 - 12 * apical, 100 - 24 * apical, power=2.2)
    inner = np.maximum(muscle + 13 + 3 * waves[1], lung)
    canvas.paint(body, _TISSUE["skin fat"] * (0.7 + 0.5 * grain))
    canvas.ink(muscle)
    canvas.paint(muscle, _TISSUE["muscle"] * (0.75 + 0.5 * grain) + 200 * np.clip((fine - 0.72) / 0.1, 0, 1))
    gaps = 6 - 14 * np.clip(np.cos(11 * angle + z / 11), 0, 1)
    canvas.ink(np.abs(inner - 5.5) - 3 + np.maximum(gaps + 6, 0), 0.5)
    canvas.paint(np.abs(inner - 5.5) - 3 + np.maximum(gaps + 6, 0), _TISSUE["marrow"])
    canvas.paint(inner, _TISSUE["lung"] * (0.6 + 0.8 * grain) + 520 * np.clip((fine - 0.79) / 0.08, 0, 1))
    pad = np.maximum(np.maximum(inner - 1, -(inner + 3 + 10 * grain)), _ellipse(x + 50, y - 22, 40, 50))
    canvas.ink(pad, 0.4)
    canvas.paint(pad, _TISSUE["fat"] * (0.3 + 0.9 * fine))

    diaphragm = _diaphragm_height(z) + 18 * ((x - 20) / 90) ** 2 - y
    abdomen = np.maximum(diaphragm, muscle + 13 + 3 * waves[1])
    canvas.paint(abdomen, _TISSUE["fat"] * (0.4 + 0.9 * grain))
    bowel = np.maximum(abdomen + 3, _ellipse(x - 60, y - 88 + 14 * apical, 44, 36))
    canvas.paint(bowel, _TISSUE["bowel"] * (0.4 + 0.5 * grain + 0.7 * fine))
    canvas.ink(bowel)
    spleen = np.maximum(abdomen + 4, _ellipse(x - 105, y - 95, 26, 40))
    canvas.paint(spleen, _TISSUE["spleen"] * (0.85 + 0.3 * grain))
    canvas.ink(spleen)
    liver = np.maximum(abdomen + 2.5, _ellipse(x + 48 - 25 * apical, y - 92, 86, 66, power=2.6))
    canvas.ink(liver, 0.5)
    canvas.paint(liver, _TISSUE["liver"] * (0.88 + 0.24 * grain) + 330 * np.clip((fine - 0.8) / 0.08, 0, 1))
    spine = _ellipse(x - 8, y - 138, 24, 19, power=2.8)
    canvas.paint(spine, _TISSUE["bone"])
    canvas.paint(spine + 2.5, _TISSUE["marrow"] * (0.8 + 0.4 * fine))
    canvas.paint(_ellipse(x - 6, y - 170, 9, 8), 600.0)  # spinal canal
    aorta = np.hypot(x - 31, y - 82 - 6 * apical) - 11.0
    canvas.paint(aorta - 1.5, 120.0)
    canvas.paint(aorta, _TISSUE["LV blood"])


def _paint_heart(canvas: _Canvas, frame: Array, anatomy: CardiacAnatomy, c: float, grain: Array, fine: Array) -> None:
    """Paints the heart at contraction c, with the fat around it and, above its base, the atria and great vessels."""
    x, y, z = frame
    s = anatomy.level(z, c)
    up = -s * anatomy.lv_length * (1 - c * anatomy.shortening)  # mm above the base; negative below it
    endocardium, epicardium = anatomy.lv_distances(x, y, s, c)
    free_wall = anatomy.rv_distance(x, y, s, c)
    past = (s - 1) * anatomy.lv_length  # mm beyond the apex of the cavity
    sac = np.minimum(np.maximum(free_wall - 5.5, past + 6), np.maximum(epicardium - 6 * grain, past - 9))
    canvas.ink(sac, 0.4)
    canvas.paint(sac, _TISSUE["fat"] * (0.25 + 0.9 * grain))

    for cx, cy, size, value in ((10, 12, 25, 700), (-18, -14, 14, 740), (-50, 22, 24, 600), (-44, -24, 15, 640)):
        chamber = np.maximum(np.hypot(x - cx, y - cy) - size, -up)
        canvas.paint(chamber - 2.0, 200.0)
        canvas.paint(chamber, value * (0.8 + 0.4 * grain))

    rv_end = np.maximum(up, (s - _RV_LEVELS[-1]) * anatomy.lv_length)
    rv = np.maximum(free_wall, rv_end)
    canvas.ink(rv - 2.5, 0.5)
    canvas.paint(rv - 2.5, _TISSUE["myocardium"])
    streaks = np.clip((fine - 0.58) / 0.16, 0, 1) * np.clip(s * 2.5 - 0.4, 0, 1)
    canvas.paint(rv + 0.5 + 0.8 * fine, _TISSUE["RV blood"] * (0.8 + 0.4 * grain) * (1 - 0.55 * streaks))

    lv_end = np.maximum(up, (s - anatomy.epicardial_end) * anatomy.lv_length)
    wall = np.maximum(epicardium, lv_end)
    canvas.ink(wall, 0.4)
    canvas.paint(wall, _TISSUE["myocardium"] * (0.85 + 0.3 * fine))
    angle = np.arctan2(y, x)
    teeth = np.cos(9 * angle + z / 9) + np.cos(14 * angle - z / 7 + 1) + np.cos(23 * angle + z / 5 + 2)
    side = np.clip(1.3 * np.cos(angle - 0.6) + 0.6, 0.3, 1)  # the free wall has more of them than the septum
    teeth = 0.6 + 1.3 * np.clip(teeth + fine, 0, 2) * np.clip(4 * s, 0.4, 1) * side
    canvas.paint(np.maximum(endocardium + teeth, lv_end), _TISSUE["LV blood"] * (0.84 + 0.32 * grain))
    radius = anatomy.radii(s, c)[0]
    for direction, width in ((-0.15, 5.0), (0.35, 3.6), (1.65, 4.8), (2.1, 3.4)):  # the two papillary muscles, forked
        reach = radius * (0.60 + 0.28 * s)
        thick = width * np.sqrt(np.clip(1 - ((s - 0.52) / 0.36) ** 2, 0, None)) * (0.55 + 0.9 * fine)
        muscle = np.hypot(x - reach * math.cos(direction), y - reach * math.sin(direction)) - thick
        canvas.paint(np.maximum(muscle, endocardium - 1) + 2.0 * (thick < 0.5), _TISSUE["myocardium"])


def _bias(frame: Array) -> Array:
    """Smooth sensitivity of the surface coil: bright at the anterior chest wall, dim at the back."""
    x, y, z = frame / 100
    return np.asarray(np.exp(-0.08 * x - 0.22 * y - 0.05 * z + 0.06 * x * y - 0.07 * (x * x + y * y)))


# --- grid and files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phantom:
    """An image with its truth.

    Attributes:
        image: (X, Y, Z) or (X, Y, Z, T) int16, 0 to 1000 as in the training data.
        label: uint8, of the same shape: 0 background, 1 RV cavity, 2 myocardium, 3 LV cavity.
        affine: (4, 4) voxel index to RAS mm.
        anatomy: the formulas behind the truth; `anatomy.label(points)` gives it anywhere.
        times: time of each phase in the heart beat, 0 to 1.
        beat_s: length of the heart beat, seconds.
    """

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    anatomy: CardiacAnatomy
    times: tuple[float, ...]
    beat_s: float = 0.9

    @property
    def end_systole(self) -> int:
        """Index of the phase with the smallest ventricle."""
        return max(range(len(self.times)), key=lambda i: self.anatomy.contraction(self.times[i]))

    def volume_ml(self, structure: str, phase: int = 0) -> float:
        """True volume in mL of "RV", "MYO" or "LV" at a phase: of the anatomy, whether or not the grid covers it."""
        if structure not in _LABELS:
            raise ValueError(f"structure must be one of {', '.join(_LABELS)}, got {structure!r}")
        if not 0 <= phase < len(self.times):
            raise ValueError(f"phase must be between 0 and {len(self.times) - 1}, got {phase}")
        return self.anatomy.volumes_ml(self.times[phase])[structure]

    def save(self, directory: str | Path, stem: str, header_trap: bool = False) -> tuple[Path, Path]:
        """Writes `stem.nii.gz` and `stem_truth.nii.gz`; the folder is made.

        Args:
            directory: where to.
            stem: name of the files without extension.
            header_trap: write the geometry as ACDC's original files do: spacing in pixdim only, sform diag(-1, -1, 1)
                without scale, no qform, no units. Position and orientation are lost.

        Returns:
            The two paths.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / f"{stem}.nii.gz", folder / f"{stem}_truth.nii.gz"
        nib.save(self._nifti(self.image, header_trap), paths[0])
        nib.save(self._nifti(self.label, header_trap), paths[1])
        return paths

    def _nifti(self, data: Array, header_trap: bool) -> nib.Nifti1Image:
        zooms = [float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0)]
        zooms += [self.beat_s / len(self.times)] * (data.ndim - 3)
        image = nib.Nifti1Image(data, np.diag([-1.0, -1.0, 1.0, 1.0]) if header_trap else self.affine)
        image.header.set_zooms(zooms)
        image.set_sform(image.affine, code="aligned" if header_trap else "scanner", update_affine=False)
        image.set_qform(None if header_trap else image.affine, code=int(not header_trap), update_affine=False)
        if not header_trap:
            image.header.set_xyzt_units("mm", "sec")
        return image


def _grid_affine(shape: Array, spacing: Array, axcodes: str, pose: Array) -> NDArray[np.float64]:
    """Affine (4, 4) of a grid whose middle is at 0 mm."""
    directions = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    try:
        axes = np.array([directions[code] for code in axcodes], dtype=float).T
    except KeyError:
        axes = np.zeros((3, 0))
    if axes.shape != (3, 3) or abs(np.linalg.det(axes)) < 0.5:
        raise ValueError(f"axcodes must be three of R/L, A/P, S/I, one of each pair, for example LPS; got {axcodes!r}")
    affine = np.eye(4)
    affine[:3, :3] = pose @ axes * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    return affine


def _triple(name: str, value: Sequence[float], smallest: float, largest: float) -> Array:
    array = np.asarray(value)
    if array.shape != (3,) or array.dtype.kind not in "if" or not ((array >= smallest) & (array <= largest)).all():
        raise ValueError(f"{name} must be three numbers between {smallest} and {largest}, got {value!r}")
    return array


def cardiac_phantom(
    *,
    shape: Sequence[int] = (216, 256, 10),
    spacing: Sequence[float] = (1.5, 1.5, 10.0),
    num_phases: int = 1,
    axcodes: str = "LPS",
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0),
    affine: Array | None = None,
    seed: int = 0,
    anatomy: CardiacAnatomy | None = None,
) -> Phantom:
    """Makes a short-axis cine MRI of a heart, as balanced SSFP shows it, with exact truth.

    Args:
        shape: number of voxels along each array axis; the last axis is the slice axis when axcodes is "LPS".
        spacing: mm along each array axis.
        num_phases: 1 gives the 3-D end-diastolic image; more give a 4-D cine over one beat, end systole at a third.
        axcodes: the anatomical direction of each array axis (nibabel's convention). "LPS" is diag(-x, -y, z) as in the
            data: x runs to the patient's left, y to posterior, slices from base to apex.
        rotation: turns patient and grid together (degrees about R, A, S): the same image under an oblique affine.
        affine: (4, 4) voxel index to RAS mm, instead of spacing and axcodes: cuts the anatomy along any planes.
        seed: chooses the anatomy and the noise.
        anatomy: this one instead of `CardiacAnatomy.sample(seed)`; its rotation is replaced by the argument.

    Returns:
        The phantom. Without `affine`, the middle of the grid is at 0 mm, so that grids of all kinds show one patient.

    Raises:
        ValueError: an argument is out of range; the message names it.
    """
    size = _triple("shape", shape, 1, 4096)
    if size.dtype.kind != "i":
        raise ValueError(f"shape must be three whole numbers, got {shape!r}")
    if not 1 <= num_phases <= 1000:
        raise ValueError(f"num_phases must be between 1 and 1000, got {num_phases}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    r, a, s = (float(angle) for angle in _triple("rotation", rotation, -360, 360))
    patient = replace(anatomy or CardiacAnatomy.sample(seed), rotation=(r, a, s))
    if affine is None:
        affine = _grid_affine(size, _triple("spacing", spacing, 0.1, 100), axcodes, patient.pose())
    affine = np.array(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-6:
        raise ValueError(f"affine must be an invertible (4, 4) matrix of finite numbers, got {affine.tolist()}")
    times = tuple(phase / num_phases for phase in range(num_phases))
    image, label = _render(patient, tuple(int(n) for n in size), affine, times, seed)
    if num_phases == 1:
        image, label = image[..., 0], label[..., 0]
    return Phantom(image=image, label=label, affine=affine, anatomy=patient, times=times)


def _render(
    anatomy: CardiacAnatomy, shape: tuple[int, ...], affine: Array, times: tuple[float, ...], seed: int
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Renders image and truth, (X, Y, Z, T): thick slices are averages over thin ones."""
    index = np.indices(shape).reshape(3, -1).T  # (N, 3)
    frame = anatomy.to_frame(index @ affine[:3, :3].T + affine[:3, 3])  # (3, N)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    thick, (_, pixel, thickness) = int(np.argmax(spacing)), np.sort(spacing)
    parts = min(4, math.ceil(thickness / max(2.5, pixel)))
    step = anatomy.to_frame(affine[:3, thick] * 0.8) - anatomy.to_frame(np.zeros(3))  # slices are a little thinner
    offsets = [step * ((part + 0.5) / parts - 0.5) for part in range(parts)]
    if parts > 1:
        pixel = np.sort(spacing)[1]

    near = np.flatnonzero((np.hypot(frame[0], frame[1]) < 100) & (np.abs(frame[2]) < 170))
    truth_frame, frame = frame[:, near], frame.astype(np.float32)
    grain, fine = (_texture(frame, anatomy.detail_seed + k, size) for k, size in enumerate((9.0, 4.0)))
    softness = 1.2 * float(pixel)
    body = _Canvas(np.full(frame.shape[1], _TISSUE["air"], dtype=np.float32), softness)
    _paint_body(body, frame, anatomy, grain, fine)  # it changes little across a slice: once, not for each part
    bias = _bias(frame).reshape(shape)

    rng = np.random.default_rng([seed, 2])
    image = np.empty((*shape, len(times)), dtype=np.float32)
    label = np.zeros((frame.shape[1], len(times)), dtype=np.uint8)
    blur = 0.5 * pixel / spacing * (spacing < 1.5 * pixel)
    for phase, time in enumerate(times):
        c = anatomy.contraction(time)
        label[near, phase] = anatomy._label_in_frame(truth_frame, c)
        values = body.values.copy()
        values[near] = 0
        for offset in offsets:
            canvas = _Canvas(body.values[near], softness)
            shifted = frame[:, near] + offset[:, None].astype(np.float32)
            _paint_heart(canvas, shifted, anatomy, c, grain[near], fine[near])
            values[near] += canvas.values / parts
        signal = values.reshape(shape) * bias
        noise = rng.normal(0, 28, (2, *shape)).astype(np.float32)
        noisy = np.hypot(signal + noise[0], noise[1])  # Rician
        image[..., phase] = ndimage.gaussian_filter(noisy, blur)
    low, high = float(image.min()), float(np.percentile(image, 99))
    scaled = np.rint(np.clip((image - low) / (high - low), 0, 1) * 1000).astype(np.int16)
    return scaled, label.reshape(*shape, len(times))


# --- command ---------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m convformer_monai.phantoms`; returns the exit code."""
    parser = _Parser(prog="python -m convformer_monai.phantoms", description="Make images with known truth.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    cardiac = kinds.add_parser("cardiac", help="short-axis cine MRI")
    cardiac.add_argument("--output_dir", type=Path, required=True, help="folder to write to; made if missing")
    cardiac.add_argument("--seed", type=int, default=0, help="another seed is another patient (default 0)")
    cardiac.add_argument("--num_phases", type=int, default=1, help="more than 1 makes a 4-D cine (default 1)")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        arguments.output_dir.mkdir(parents=True, exist_ok=True)  # tried first: a cine takes a while
        phantom = cardiac_phantom(seed=arguments.seed, num_phases=arguments.num_phases)
        paths = phantom.save(arguments.output_dir, "cardiac_phantom")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for path in paths:
        logger.info("wrote %s", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
