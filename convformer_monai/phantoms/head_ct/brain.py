"""The looks of the brain on CT: grey and white matter, fluid, falx, calcifications, blood with its edema."""

from __future__ import annotations

import numpy as np

from convformer_monai.phantoms.cardiac_anatomy import Array
from convformer_monai.phantoms.cardiac_looks import Canvas
from convformer_monai.phantoms.head_ct.anatomy import HeadAnatomy
from convformer_monai.phantoms.head_ct.bleeds import Bleed, Subdural
from convformer_monai.phantoms.head_ct.surfaces import Surfaces
from convformer_monai.phantoms.head_ct.texture import sheets, waves

# Hounsfield units
TISSUE = {
    "CSF": 6.0, "grey": 36.0, "white": 29.5, "deep grey": 36.5, "brainstem": 31.5, "cerebellum": 35.0,
    "dura": 54.0, "vessel": 44.0, "blood": 65.0, "edema": 18.0, "calcification": 280.0,
}  # fmt: skip


def paint_brain(canvas: Canvas, frame: Array, anatomy: HeadAnatomy, surfaces: Surfaces) -> None:
    """Paints the contents of the skull, blood last.

    Args:
        canvas: of points in and near the cavity.
        frame: (3, N) the points.
        anatomy: the truth.
        surfaces: of these points.
    """
    x, y, z = frame
    depth = -surfaces.cavity
    for bleed in anatomy.bleeds:
        if isinstance(bleed, Subdural):  # it pushes the brain inwards
            depth = depth - np.clip(bleed.depth(anatomy.vault.polar(frame)[1]), 0, None)
    # the midline shifts in the middle of the brain, not at its surface
    middle = x + np.clip(depth / 30, 0, 1) * (anatomy.displaced(x, y, z) - x)
    _paint_hemispheres(canvas, frame, middle, depth, anatomy)
    _paint_sylvian(canvas, frame, middle, depth, anatomy)
    _paint_deep_grey(canvas, middle, y, z)
    _paint_hindbrain(canvas, frame, middle, depth, anatomy)
    _paint_fluid(canvas, frame, middle, anatomy)
    _paint_dura(canvas, middle, y, z, depth, anatomy)
    _paint_calcifications(canvas, frame, middle, anatomy)
    for bleed in anatomy.bleeds:
        _paint_blood(canvas, frame, bleed, anatomy)


def _ellipsoid(*halves: tuple[Array, float]) -> Array:
    """Approximate distance from an ellipsoid of (offset, half axis) along each axis, mm, negative inside."""
    q = np.sqrt(sum((offset / half) ** 2 for offset, half in halves))
    return np.asarray((q - 1) * min(half for _, half in halves))


def _paint_hemispheres(canvas: Canvas, frame: Array, middle: Array, depth: Array, anatomy: HeadAnatomy) -> None:
    """Paints fluid around the brain, white matter, and the cortex with its sulci."""
    x, y, z = frame
    seed, wide = anatomy.detail_seed, anatomy.atrophy
    side = np.abs(middle)
    slow = waves(frame, seed + 11, 60.0)
    gap = 0.1 + 0.7 * wide + 0.5 * wide * slow
    canvas.paint(-depth, TISSUE["CSF"])
    canvas.paint(gap - depth, TISSUE["white"] + 0.5 * slow)

    rho, direction = anatomy.vault.polar(frame)
    # sulci stand on the surface: their sheets hardly change with depth
    folded = 66 * direction + 0.15 * frame
    folded = folded + 2.2 * np.stack([waves(frame, seed + k, 22.0) for k in (12, 13, 14)])
    sulcus = sheets(folded.astype(frame.dtype), seed + 15, 14.0) * np.clip(rho / 66, 0.5, 1)
    reach = 13 + 5 * waves(frame, seed + 16, 30.0)
    cortex = np.minimum(depth - gap - 3.2, np.maximum(sulcus - 3.3, depth - reach - 3))
    apart = np.hypot(y - 2, (z - 6) * 1.15) - 36  # from the corpus callosum, around which the hemispheres part
    medial = np.maximum(side - 4.2, -apart)
    medial_sulci = np.maximum(np.maximum(sheets(frame, seed + 17, 15.0) - 3.0, side - 16), -apart)
    canvas.paint(np.minimum(np.minimum(cortex, medial), medial_sulci), TISSUE["grey"] + 0.8 * slow)

    open_ = wide * (1.1 + 0.5 * waves(frame, seed + 18, 35.0)) * (1 - np.clip(depth / reach, 0, 1) ** 2) - 0.35
    canvas.paint(np.maximum(np.maximum(sulcus - open_, depth - reach), 0.3 - depth), TISSUE["CSF"])
    medial_open = 0.6 * open_ - 0.2
    canvas.paint(np.maximum(np.maximum(sheets(frame, seed + 17, 15.0) - medial_open, side - 13), -apart), 12.0)
    between = 0.1 + 0.8 * wide * (1 - np.clip((y + 20) / 60, 0, 0.9)) + 0.25 * slow
    canvas.paint(np.maximum(side - between, -apart), TISSUE["CSF"])


def _paint_sylvian(canvas: Canvas, frame: Array, middle: Array, depth: Array, anatomy: HeadAnatomy) -> None:
    """Paints the Sylvian fissure: over the insula, then outwards between frontal and temporal lobe."""
    _, y, z = frame
    side, wide = np.abs(middle), anatomy.atrophy
    uneven = waves(frame, anatomy.detail_seed + 19, 13.0)
    insula = side - 41 + 1.2 * uneven + 0.010 * (y + 4) ** 2 - 0.25 * (z - 4)
    bounds = np.maximum(np.abs(y + 3) - 18, np.abs(z - 3) - 15)
    canvas.paint(np.maximum(np.abs(insula + 0.5) - 4, bounds), TISSUE["grey"])
    canvas.paint(np.maximum(np.abs(insula) + 0.2 - wide * (1.3 + 0.7 * uneven), bounds), TISSUE["CSF"])
    cleft = y + 13 - 0.55 * (z - 3) + 2.0 * np.sin(side / 4 + anatomy.vault.phase) + 1.5 * uneven - 0.2 * (side - 41)
    cleft_bounds = np.maximum(np.maximum(40 - side, np.abs(z - 3) - 15), -depth)
    canvas.paint(np.maximum(np.abs(cleft) - 3.8 - wide, cleft_bounds), TISSUE["grey"])
    canvas.paint(np.maximum(np.abs(cleft) + 0.4 - wide * (1.3 + 0.7 * uneven), cleft_bounds), TISSUE["CSF"])


def _paint_deep_grey(canvas: Canvas, middle: Array, y: Array, z: Array) -> None:
    """Paints caudate, lentiform nucleus and thalamus; the white matter left between them is the internal capsule."""
    side = np.abs(middle)
    caudate = _ellipsoid((side - 15 - 0.25 * (z - 12), 4.6), (y + 17, 10.0), (z - 10, 11.0))
    lens = _ellipsoid((side - 24 - 0.22 * (y - 2), 6.5), (y - 1, 16.5), (z - 4, 12.0))
    thalamus = _ellipsoid((side - 10.5 - 0.15 * (y - 12), 8.0), (y - 12, 13.0), (z - 7, 11.0))
    for nucleus, value in ((caudate, 37.5), (lens, 36.5), (thalamus, 35.0)):
        canvas.paint(nucleus, value)


def _paint_hindbrain(canvas: Canvas, frame: Array, middle: Array, depth: Array, anatomy: HeadAnatomy) -> None:
    """Paints what lies under the tentorium, and the cisterns at the base."""
    x, y, z = frame
    side, wide = np.abs(middle), anatomy.atrophy
    tent = _tentorium(middle, y, z)
    hindbrain = np.maximum(np.maximum(tent + 1.0, 16 + 0.35 * side - y), 0.3 + 0.5 * wide - depth)
    uneven = waves(frame, anatomy.detail_seed + 32, 15.0)
    folia = waves(frame * np.array([[0.5], [1.0], [1.0]], dtype=frame.dtype), anatomy.detail_seed + 31, 6.0)
    canvas.paint(np.maximum(np.maximum(tent, 13 + 0.4 * side - y), -depth), TISSUE["CSF"] + 8)
    canvas.paint(hindbrain, TISSUE["cerebellum"] + 1.4 * folia)
    canvas.paint(hindbrain + 11, 31.0 + 1.0 * folia)
    canvas.paint(_ellipsoid((middle, 6.0), (y - 50, 13.0), (z + 18, 20.0)), 36.5)  # vermis
    stem = np.hypot(middle / np.where(z > -16, 17, 15), (y - 9 + 0.12 * (z + 16)) / 13) - 1
    stem = np.maximum(14 * stem, z + 4) + 0.7 * uneven
    canvas.paint(np.maximum(stem - 0.2 - wide * (1 + uneven), -depth), 13.0)
    canvas.paint(np.maximum(stem, 1 - depth), TISSUE["brainstem"])
    points = 9 + 1.5 * uneven + np.cos(5 * np.arctan2(middle, -y - 9))  # the suprasellar cistern is a star
    star = np.maximum(np.hypot(side * 0.8, y + 9) - points, np.abs(z + 14) - 5)
    canvas.paint(np.maximum(star, -depth), TISSUE["CSF"] + 3)
    canvas.paint(np.maximum(np.hypot(side - 3.2, y + 6) - 1.6, np.abs(z + 16) - 5), TISSUE["vessel"])
    behind = np.maximum(np.hypot(side * 0.6, y - 26 + 0.05 * side**2) - 2.5 - wide, np.abs(z + 2) - 9)
    canvas.paint(behind, TISSUE["CSF"] + 3)  # quadrigeminal cistern
    canvas.paint(_ellipsoid((middle, 7.0), (y - 32 + 0.3 * side, 4.5), (z + 27, 11.0)), TISSUE["CSF"])  # 4th ventricle
    canvas.paint(np.maximum(np.hypot(x, y + 8) - 1.9, z + 14), TISSUE["vessel"])  # basilar artery


def _paint_fluid(canvas: Canvas, frame: Array, middle: Array, anatomy: HeadAnatomy) -> None:
    """Paints the lateral ventricles and the third."""
    x, y, z = frame
    for ventricle in anatomy.ventricles:
        canvas.paint(ventricle.distance(x, y, z), TISSUE["CSF"])
        canvas.paint(ventricle.temporal_distance(x, y, z), TISSUE["CSF"])
    size = (anatomy.ventricles[0].size + anatomy.ventricles[1].size) / 2
    third = np.maximum(np.abs(middle) - 0.3 - 1.6 * size, np.maximum(np.abs(y - 0.8 * z) - 11, np.abs(z - 2.5) - 8))
    canvas.paint(third, TISSUE["CSF"])


def _tentorium(x: Array, y: Array, z: Array) -> Array:
    """Height above the tentorium, mm: a tent, highest where it meets the falx."""
    return np.asarray(z - (12 - 0.45 * np.abs(x) - 0.009 * np.clip(y - 25, 0, 90) ** 2))


def _paint_dura(canvas: Canvas, middle: Array, y: Array, z: Array, depth: Array, anatomy: HeadAnatomy) -> None:
    """Paints falx, tentorium and venous sinuses: brighter than the brain."""
    side = np.abs(middle)
    tent = _tentorium(middle, y, z)
    arch = np.hypot(y - 2, z - 2) - np.where(y < 0, 46.0, 38.0)
    falx = np.maximum(np.maximum(side - 0.55, -arch), np.maximum(-tent * (y > 0) - 99 * (y <= 0), -8 - z))
    canvas.paint(np.maximum(falx, -depth), TISSUE["dura"])
    leaf = np.maximum(np.maximum(np.abs(tent) - 0.55, 15 + 0.45 * side - y), -depth)
    canvas.paint(leaf, TISSUE["dura"] - 6)
    sinus = np.maximum(side + 0.75 * depth - 5.0, np.maximum(-depth - 0.5, 4 - z))
    canvas.paint(np.maximum(sinus, np.maximum(-y, -tent)), TISSUE["dura"])
    straight = np.maximum(np.hypot(middle, tent) - 2.2, np.maximum(34 - y, -depth))
    canvas.paint(straight, TISSUE["dura"] - 4)


def _paint_calcifications(canvas: Canvas, frame: Array, middle: Array, anatomy: HeadAnatomy) -> None:
    """Paints the common harmless ones: pineal gland, choroid plexus, falx; brighter than blood."""
    x, y, z = frame
    rng = np.random.default_rng([anatomy.detail_seed, 41])
    bright = TISSUE["calcification"]
    spots = waves(frame, anatomy.detail_seed + 42, 4.0)
    canvas.paint(_ellipsoid((middle, 3.0), (y - 27, 4.0), (z - 3, 3.5)), 42.0)
    canvas.paint(np.hypot(np.hypot(middle - 0.4, y - 27), z - 3) - rng.uniform(1.3, 2.3), bright)
    for ventricle in anatomy.ventricles:
        at = np.array([rng.uniform(28, 33)])
        cx, cz, wide, _ = (float(v[0]) for v in ventricle.section(at))
        plexus = _ellipsoid((x - cx, 0.5 * wide), (y - at[0], 6.5), (z - cz, 6.0))
        canvas.paint(plexus, 38.0)
        size = rng.uniform(1.6, 2.8)
        lump = _ellipsoid((x - cx, size), (y - at[0] - 1, 1.4 * size), (z - cz, 1.5 * size))
        canvas.paint(lump + 0.8 * spots, bright * rng.uniform(0.6, 1.2))
    if rng.random() < 0.5:
        at_y, at_z = rng.uniform(-58, -50), rng.uniform(20, 40)
        canvas.paint(_ellipsoid((middle, 1.4), (y - at_y, 4.0), (z - at_z, 4.0)), bright)


def _paint_blood(canvas: Canvas, frame: Array, bleed: Bleed, anatomy: HeadAnatomy) -> None:
    """Paints a bleed; around one in the brain the swollen, darker white matter."""
    distance = bleed.distance(frame)
    where = np.flatnonzero(distance < 20)
    points, distance = frame[:, where], distance[where].astype(frame.dtype)
    part = Canvas(canvas.values[where], canvas.softness)
    seed = anatomy.detail_seed
    coarse, fine = waves(points, seed + 51, 18.0), waves(points, seed + 52, 6.0)
    value = TISSUE["blood"] + 3.5 * coarse + 2.0 * fine
    if bleed.kind == "intraparenchymal":
        reach = anatomy.edema * np.clip(1 + 0.45 * waves(points, seed + 53, 16.0), 0.3, 2)
        swollen = np.clip(1.8 * (1 - distance / reach), 0, 1) * (part.values > 16) * (part.values < 60)
        part.values += swollen * (TISSUE["edema"] + 1.5 * fine - part.values)
    elif bleed.kind in ("subdural", "epidural"):
        value = value - 2.0 + 3.0 * coarse
    else:
        value = value - 5.0 + 0.25 * np.clip(points[1] - 35, -10, 25)  # the densest has sunk
    part.softness = max(part.softness, 1.8 if bleed.kind == "intraparenchymal" else 0.0)  # clots seep at the edge
    part.paint(distance, value)
    canvas.values[where] = part.values
