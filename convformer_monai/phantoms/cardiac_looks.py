"""The looks of the cardiac phantom: bright-blood cine MRI painted over its anatomy.

Intensities follow the ACDC training data (0..1000): blood 750 / 590, muscle 240, liver 210, lung 30-60.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from convformer_monai.phantoms.cardiac_anatomy import RV_LEVELS, Array, CardiacAnatomy, diaphragm_height, ellipse

TISSUE = {
    "air": 4.0, "lung": 60.0, "muscle": 200.0, "skin fat": 930.0, "fat": 560.0, "liver": 245.0, "spleen": 350.0,
    "bowel": 340.0, "bone": 70.0, "marrow": 290.0, "myocardium": 232.0, "LV blood": 760.0, "RV blood": 630.0,
}  # fmt: skip


class Canvas:
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


def texture(frame: Array, seed: int, size: float) -> Array:
    """Smooth noise in [0, 1], fixed in the patient, with a grain of about size mm: (3, N) to (N,)."""
    lattice = np.random.default_rng([seed, 1]).random((32, 32, 32), dtype=np.float32)
    points = frame / np.array([[size], [size], [max(size, 8.0)]], dtype=frame.dtype)
    return np.asarray(ndimage.map_coordinates(lattice, points, order=1, mode="grid-wrap", output=np.float32))


def paint_body(canvas: Canvas, frame: Array, anatomy: CardiacAnatomy, grain: Array, fine: Array) -> None:
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
    body = ellipse(px, py, (136 - 10 * apical) * size, (216 - 36 * apical) * size, power=2.3)
    # chest wall: thicker towards the armpit (right), the back and the apex
    thickness = 0.75 + 1.6 * np.clip((x - 10) / 110, 0, 1) * (0.5 + apical) + 0.3 * waves[0] + 0.2 * waves[3]
    muscle = body + anatomy.fat * np.maximum(thickness, 0.4) + 3 * grain
    lung = ellipse(x - 18, y + 6 - 12 * apical, 90 - 12 * apical, 100 - 24 * apical, power=2.2)
    inner = np.maximum(muscle + 13 + 3 * waves[1], lung)
    canvas.paint(body, TISSUE["skin fat"] * (0.7 + 0.5 * grain))
    canvas.ink(muscle)
    canvas.paint(muscle, TISSUE["muscle"] * (0.75 + 0.5 * grain) + 200 * np.clip((fine - 0.72) / 0.1, 0, 1))
    gaps = 6 - 14 * np.clip(np.cos(11 * angle + z / 11), 0, 1)
    canvas.ink(np.abs(inner - 5.5) - 3 + np.maximum(gaps + 6, 0), 0.5)
    canvas.paint(np.abs(inner - 5.5) - 3 + np.maximum(gaps + 6, 0), TISSUE["marrow"])
    canvas.paint(inner, TISSUE["lung"] * (0.6 + 0.8 * grain) + 520 * np.clip((fine - 0.79) / 0.08, 0, 1))
    pad = np.maximum(np.maximum(inner - 1, -(inner + 3 + 10 * grain)), ellipse(x + 50, y - 22, 40, 50))
    canvas.ink(pad, 0.4)
    canvas.paint(pad, TISSUE["fat"] * (0.3 + 0.9 * fine))

    diaphragm = diaphragm_height(z) + 18 * ((x - 20) / 90) ** 2 - y
    abdomen = np.maximum(diaphragm, muscle + 13 + 3 * waves[1])
    canvas.paint(abdomen, TISSUE["fat"] * (0.4 + 0.9 * grain))
    bowel = np.maximum(abdomen + 3, ellipse(x - 60, y - 88 + 14 * apical, 44, 36))
    canvas.paint(bowel, TISSUE["bowel"] * (0.4 + 0.5 * grain + 0.7 * fine))
    canvas.ink(bowel)
    spleen = np.maximum(abdomen + 4, ellipse(x - 105, y - 95, 26, 40))
    canvas.paint(spleen, TISSUE["spleen"] * (0.85 + 0.3 * grain))
    canvas.ink(spleen)
    liver = np.maximum(abdomen + 2.5, ellipse(x + 48 - 25 * apical, y - 92, 86, 66, power=2.6))
    canvas.ink(liver, 0.5)
    canvas.paint(liver, TISSUE["liver"] * (0.88 + 0.24 * grain) + 330 * np.clip((fine - 0.8) / 0.08, 0, 1))
    spine = ellipse(x - 8, y - 138, 24, 19, power=2.8)
    canvas.paint(spine, TISSUE["bone"])
    canvas.paint(spine + 2.5, TISSUE["marrow"] * (0.8 + 0.4 * fine))
    canvas.paint(ellipse(x - 6, y - 170, 9, 8), 600.0)  # spinal canal
    aorta = np.hypot(x - 31, y - 82 - 6 * apical) - 11.0
    canvas.paint(aorta - 1.5, 120.0)
    canvas.paint(aorta, TISSUE["LV blood"])


def paint_heart(canvas: Canvas, frame: Array, anatomy: CardiacAnatomy, c: float, grain: Array, fine: Array) -> None:
    """Paints the heart at contraction c, with the fat around it and, above its base, the atria and great vessels."""
    x, y, z = frame
    s = anatomy.level(z, c)
    up = -s * anatomy.lv_length * (1 - c * anatomy.shortening)  # mm above the base; negative below it
    endocardium, epicardium = anatomy.lv_distances(x, y, s, c)
    free_wall = anatomy.rv_distance(x, y, s, c)
    past = (s - 1) * anatomy.lv_length  # mm beyond the apex of the cavity
    sac = np.minimum(np.maximum(free_wall - 5.5, past + 6), np.maximum(epicardium - 6 * grain, past - 9))
    canvas.ink(sac, 0.4)
    canvas.paint(sac, TISSUE["fat"] * (0.25 + 0.9 * grain))

    for cx, cy, size, value in ((10, 12, 25, 700), (-18, -14, 14, 740), (-50, 22, 24, 600), (-44, -24, 15, 640)):
        chamber = np.maximum(np.hypot(x - cx, y - cy) - size, -up)
        canvas.paint(chamber - 2.0, 200.0)
        canvas.paint(chamber, value * (0.8 + 0.4 * grain))

    rv_end = np.maximum(up, (s - RV_LEVELS[-1]) * anatomy.lv_length)
    rv = np.maximum(free_wall, rv_end)
    canvas.ink(rv - 2.5, 0.5)
    canvas.paint(rv - 2.5, TISSUE["myocardium"])
    streaks = np.clip((fine - 0.58) / 0.16, 0, 1) * np.clip(s * 2.5 - 0.4, 0, 1)
    canvas.paint(rv + 0.5 + 0.8 * fine, TISSUE["RV blood"] * (0.8 + 0.4 * grain) * (1 - 0.55 * streaks))

    lv_end = np.maximum(up, (s - anatomy.epicardial_end) * anatomy.lv_length)
    wall = np.maximum(epicardium, lv_end)
    canvas.ink(wall, 0.4)
    canvas.paint(wall, TISSUE["myocardium"] * (0.85 + 0.3 * fine))
    angle = np.arctan2(y, x)
    teeth = np.cos(9 * angle + z / 9) + np.cos(14 * angle - z / 7 + 1) + np.cos(23 * angle + z / 5 + 2)
    side = np.clip(1.3 * np.cos(angle - 0.6) + 0.6, 0.3, 1)  # the free wall has more of them than the septum
    teeth = 0.6 + 1.3 * np.clip(teeth + fine, 0, 2) * np.clip(4 * s, 0.4, 1) * side
    canvas.paint(np.maximum(endocardium + teeth, lv_end), TISSUE["LV blood"] * (0.84 + 0.32 * grain))
    radius = anatomy.radii(s, c)[0]
    for direction, width in ((-0.15, 5.0), (0.35, 3.6), (1.65, 4.8), (2.1, 3.4)):  # the two papillary muscles, forked
        reach = radius * (0.60 + 0.28 * s)
        thick = width * np.sqrt(np.clip(1 - ((s - 0.52) / 0.36) ** 2, 0, None)) * (0.55 + 0.9 * fine)
        muscle = np.hypot(x - reach * math.cos(direction), y - reach * math.sin(direction)) - thick
        canvas.paint(np.maximum(muscle, endocardium - 1) + 2.0 * (thick < 0.5), TISSUE["myocardium"])


def bias_field(frame: Array) -> Array:
    """Smooth sensitivity of the surface coil: bright at the anterior chest wall, dim at the back."""
    x, y, z = frame / 100
    return np.asarray(np.exp(-0.08 * x - 0.22 * y - 0.05 * z + 0.06 * x * y - 0.07 * (x * x + y * y)))
