"""Thickness of the left ventricular wall in the 17 segments of the American Heart Association.

Segments: Cerqueira et al., "Standardized Myocardial Segmentation and Nomenclature for Tomographic Imaging of the
Heart", Circulation 2002;105:539-542. The slices that show cavity and wall are divided into thirds from base to apex:
6 basal, 6 mid-cavity and 4 apical segments. Segment 17, the apical cap, lies across the long axis and cannot be
measured in short-axis slices.

Thickness: along rays from the centroid of the cavity, how many millimetres are wall (the radial method). It is the
wall's own thickness where the wall is perpendicular to the ray, and larger elsewhere. Papillary muscles count as the
mask has them. The septum's middle is the mean direction of the wall that touches the right ventricle; it is the
border between the anteroseptal and the inferoseptal segments. The paper takes the attachments of the right ventricle,
which lie at the ends of the same stretch of wall.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_numpy
from numpy.typing import NDArray
from scipy import ndimage

from convformer_monai.tasks.task import Label
from convformer_monai.transforms.geometry import InPlaneOrientation

__all__ = ["LEVELS", "NAMES", "wall_thickness"]

RAYS = 144
STEP_MM = 0.25
LEVELS = ("basal", "mid-cavity", "apical")
HALF = 0.4999  # of a pixel's way to its neighbour; a tie falls to one side on every machine
LEAST_SHARE = 0.5  # of the rays of a segment that must meet the wall
# Clockwise in a short-axis slice as it is displayed, from the middle of the septum towards the anterior wall.
CLOCKWISE = ((2, 1, 6, 5, 4, 3), (8, 7, 12, 11, 10, 9), (14, 13, 16, 15))
SEGMENTS = 17
_WALLS = ("anterior", "anteroseptal", "inferoseptal", "inferior", "inferolateral", "anterolateral")
NAMES = (
    *(f"{level} {wall}" for level in LEVELS[:2] for wall in _WALLS),
    *(f"apical {wall}" for wall in ("anterior", "septal", "inferior", "lateral")),
    "apex",
)


def wall_thickness(
    labels: NDArray[np.uint8], affine: NDArray[np.float64], table: Sequence[Label]
) -> list[float | None]:
    """Measures the wall of one phase.

    Args:
        labels: (X, Y, Z) of a short-axis stack.
        affine: (4, 4) voxel index to RAS mm.
        table: right ventricle, myocardium and left ventricle.

    Returns:
        Mean thickness of the segments 1 to 17 in mm, ``None`` where it cannot be measured: always of segment 17; of
        all, where fewer than three slices show cavity and wall or no wall touches the right ventricle.
    """
    right, wall, cavity = (label.index for label in table)
    volume = torch.as_tensor(np.ascontiguousarray(labels[None]))
    turned = InPlaneOrientation()(MetaTensor(volume, affine=torch.as_tensor(affine)))
    maps = np.asarray(convert_to_numpy(turned))[0]  # (X', Y', Z'), X' to the right, Y' downwards
    spacing = np.linalg.norm(np.asarray(convert_to_numpy(turned.affine))[:3, :2], axis=0)
    result: list[float | None] = [None] * SEGMENTS
    slices = _from_the_base(maps, wall, cavity)
    if len(slices) < len(LEVELS):
        return result
    levels = [len(LEVELS) * place // len(slices) for place in range(len(slices))]
    middle = _middle_of_septum([maps[..., z] for z in slices], spacing, right, wall, cavity)
    if middle is None:
        return result
    found: dict[int, list[NDArray[np.float64]]] = {}
    for z, level in zip(slices, levels, strict=True):
        names = CLOCKWISE[level]
        numbers = np.arange(RAYS)
        start = RAYS // len(names) // 2 if names is CLOCKWISE[-1] else 0  # the septal one lies around the middle
        owner = (numbers + start) * len(names) // RAYS % len(names)
        thickness = _along_rays(maps[..., z], middle + numbers / RAYS * 2 * np.pi, spacing, wall, cavity)
        for place, name in enumerate(names):
            found.setdefault(name, []).append(thickness[owner == place])
    for name, parts in found.items():
        rays = np.concatenate(parts)
        met = rays[rays > 0]
        if len(met) >= LEAST_SHARE * len(rays):
            result[name - 1] = float(met.mean())
    return result


def _from_the_base(maps: NDArray[np.uint8], wall: int, cavity: int) -> list[int]:
    """Returns the slices that show cavity and wall, from the base, the wider end of the cavity, to the apex."""
    areas = (maps == cavity).sum(axis=(0, 1))
    slices = [int(z) for z in np.flatnonzero((areas > 0) & (maps == wall).any(axis=(0, 1)))]
    half = len(slices) // 2
    if half and areas[slices[:half]].sum() < areas[slices[-half:]].sum():
        slices.reverse()
    return slices


def _middle_of_septum(
    slices: Sequence[NDArray[np.uint8]], spacing: NDArray[np.float64], right: int, wall: int, cavity: int
) -> float | None:
    """Returns the direction of the septum's middle from the cavity's centroid, radians clockwise; None without RV."""
    total = np.zeros(2)
    for plane in slices:
        touching = (plane == wall) & ndimage.binary_dilation(plane == right)
        if touching.any():
            away = (np.argwhere(touching) - np.argwhere(plane == cavity).mean(axis=0)) * spacing
            total += (away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9)).sum(axis=0)
    return float(np.arctan2(total[1], total[0])) if total.any() else None


def _along_rays(
    plane: NDArray[np.uint8], angles: NDArray[np.float64], spacing: NDArray[np.float64], wall: int, cavity: int
) -> NDArray[np.float64]:
    """Returns the millimetres of wall along each ray from the centroid of the cavity."""
    centre = np.argwhere(plane == cavity).mean(axis=0)
    longest = np.linalg.norm((np.argwhere(plane == wall) - centre) * spacing, axis=1).max() + spacing.max()
    radii = np.arange(0, longest, STEP_MM)
    directions = np.stack([np.cos(angles), np.sin(angles)])  # (2, rays)
    points = centre[:, None, None] + directions[:, :, None] * radii / spacing[:, None, None]
    inside = ndimage.map_coordinates((plane == wall).astype(np.float32), points, order=1, mode="constant") > HALF
    return np.asarray(inside.sum(axis=1) * STEP_MM, dtype=np.float64)
