"""The looks of the head outside the brain: skin, fat, muscle, eyes, air cells, skull, and the headrest."""

from __future__ import annotations

import math

import numpy as np

from convformer_monai.phantoms.cardiac_anatomy import Array, ellipse
from convformer_monai.phantoms.cardiac_looks import Canvas
from convformer_monai.phantoms.head_ct.surfaces import Surfaces
from convformer_monai.phantoms.head_ct.texture import sheets, waves

# Hounsfield units
TISSUE = {
    "air": -1000.0, "headrest": 350.0, "skin": 75.0, "fat": -95.0, "muscle": 52.0, "orbit": -85.0, "eye": 12.0,
    "lens": 75.0, "compact bone": 1400.0, "diploe": 850.0, "thin bone": 750.0,
}  # fmt: skip


def paint_headrest(canvas: Canvas, frame: Array) -> None:
    """Paints the shell on which the head lies."""
    x, y, _ = frame
    shell = np.abs(np.hypot(x, np.maximum(y - 5, 0)) - 102) - 1.1
    canvas.paint(np.maximum(shell, 5 - y), TISSUE["headrest"])


def paint_soft_tissue(canvas: Canvas, frame: Array, surfaces: Surfaces, seed: int) -> None:
    """Paints the head up to its skin: fat and muscle around the skull, and below it the face."""
    grain = waves(frame, seed + 1, 7.0)
    skin = surfaces.skin
    canvas.paint(skin, TISSUE["skin"])
    canvas.paint(skin + 3.0, TISSUE["fat"] + 12 * grain)
    outside = surfaces.rho - surfaces.radius - surfaces.bone
    canvas.paint(np.maximum(outside - surfaces.muscle + 1.0, skin + 2.2), TISSUE["muscle"] + 3 * grain)
    canvas.paint(np.abs(skin + 4.6) - 0.3, 10.0)  # galea
    below = np.maximum(-surfaces.below, skin + 5)  # the face: muscles, with fat between them
    canvas.paint(below, TISSUE["muscle"] + 3 * grain)
    planes = np.minimum(sheets(frame, seed + 2, 22.0) - 1.2, sheets(frame, seed + 8, 13.0) - 0.6)
    lobules = 6 * (1.0 - waves(frame, seed + 9, 35.0))
    canvas.paint(np.maximum(below, np.minimum(planes, lobules)), TISSUE["fat"] + 12 * grain)


def paint_face(canvas: Canvas, frame: Array, seed: int) -> None:
    """Paints the orbits with the eyes, the air cells of nose and sphenoid, and the thin bone around them."""
    x, y, z = frame
    side = np.abs(x)
    back = np.clip((y + 84) / 46, 0, 1)  # the orbits are cones that narrow towards the back
    across = side - 33 + 16 * back
    orbit = np.maximum(ellipse(across, z + 33, 19 - 13 * back, 17 - 11 * back), y + 39)
    cells = sheets(frame, seed + 3, 7.0)
    nose = np.maximum(ellipse(x, y + 62, 12.5 - 0.08 * np.clip(y + 62, -40, 40), 25, power=3.0), z + 19)
    rim = 72 - 0.5 * np.clip(side - 40, 0, 20)
    canvas.paint(np.maximum(orbit - 2.6, -y - rim), TISSUE["thin bone"])
    canvas.paint(np.maximum(nose - 1.8, z + 17), TISSUE["thin bone"])
    canvas.paint(orbit, TISSUE["orbit"])
    width = 19 - 13 * back
    for muscle in (across + 0.8 * width, across - 0.8 * width, np.hypot(across, 0.8 * (z + 32)) - 1.0):
        bounds = np.maximum(np.maximum(orbit + 1, -y - 70), np.abs(z + 33) - 6)
        canvas.paint(np.maximum(np.abs(muscle) - 1.8, bounds), 45.0)
    eye = np.sqrt((side - 32) ** 2 + (y + 75) ** 2 + (z + 33) ** 2)
    canvas.paint(eye - 12.2, 45.0)
    canvas.paint(eye - 11.2, TISSUE["eye"])
    canvas.paint(ellipse(np.hypot(side - 32, z + 33), y + 83.5, 4.6, 2.2), TISSUE["lens"])
    canvas.paint(nose, 250.0)
    canvas.paint(np.maximum(nose, 0.8 - cells), TISSUE["air"])
    sphenoid = np.maximum(np.hypot(x / 1.3, y + 29) - 9.3, np.abs(z + 32) - 7)
    canvas.paint(sphenoid - 1.6, TISSUE["thin bone"])
    canvas.paint(np.maximum(sphenoid, 0.7 - np.abs(x - 2)), TISSUE["air"])


def paint_bone(canvas: Canvas, frame: Array, surfaces: Surfaces, seed: int) -> None:
    """Paints the vault with its diploe and sutures, and the base."""
    x, y, z = frame
    side = np.abs(x)
    outside = surfaces.rho - surfaces.radius  # mm beyond the vault's inner surface
    bone = np.maximum(-surfaces.cavity, np.maximum(outside - surfaces.bone, surfaces.below - surfaces.base))
    grain = waves(frame, seed + 4, 4.0)
    canvas.paint(bone, TISSUE["compact bone"] + 60 * grain)
    edge = 1.5 + 0.25 * waves(frame, seed + 5, 25.0)
    marrow = np.maximum(np.maximum(edge - outside, outside - surfaces.bone + edge), surfaces.below - 2)
    canvas.paint(marrow, TISSUE["diploe"] + 120 * grain)
    coronal = y + 22 + 0.22 * side + 1.2 * np.sin(side / 2)
    lambdoid = y - 62 + 0.45 * side + 1.5 * np.sin(side / 2)
    for suture in (coronal, lambdoid):
        canvas.paint(np.maximum(np.maximum(np.abs(suture) - 0.3, 12 - z), bone + 0.5), 400.0)
    _paint_petrous(canvas, frame, surfaces, bone, seed)
    arch = np.abs(side - 11) - 7 + 0.02 * (z + 9) ** 2
    sinus = np.maximum(np.maximum(np.abs(outside - 5.5) - 2.4, arch), np.maximum(y + 60, np.abs(z + 8) - 16))
    canvas.paint(np.maximum(sinus, outside - surfaces.bone + 1.4), TISSUE["air"])  # frontal sinus


def _paint_petrous(canvas: Canvas, frame: Array, surfaces: Surfaces, bone: Array, seed: int) -> None:
    """Paints the spongy inside of the petrous bones, the mastoid's air cells and the ear canals."""
    x, y, z = frame
    side = np.abs(x)
    ridge = (y - 3 - 0.5 * side) * math.cos(0.46)
    inner = np.maximum(surfaces.below - surfaces.base + 2, 2 - surfaces.below)
    spongy = np.maximum(np.maximum(inner, np.abs(ridge) - 12), np.maximum(12 - side, bone + 2))
    canvas.paint(spongy, 950.0 + 220 * waves(frame, seed + 6, 8.0))
    cells = np.maximum(np.maximum(spongy, 40 - side), 1.6 - 3.0 * np.abs(waves(frame, seed + 7, 8.0)))
    canvas.paint(cells, TISSUE["air"])
    canal = np.maximum(np.hypot(ridge, z + 29) - 2.2, np.maximum(14 - side, side - 24))
    canvas.paint(canal, 10.0)
