"""The head CT phantom on any grid: image, truth, volumes and files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from convformer_monai.phantoms.cardiac_anatomy import Array
from convformer_monai.phantoms.cardiac_looks import Canvas
from convformer_monai.phantoms.grids import checked_affine, checked_shape, triple
from convformer_monai.phantoms.head_ct.anatomy import HeadAnatomy
from convformer_monai.phantoms.head_ct.brain import paint_brain
from convformer_monai.phantoms.head_ct.skull import TISSUE, paint_bone, paint_face, paint_headrest, paint_soft_tissue
from convformer_monai.phantoms.head_ct.surfaces import Surfaces

CHUNK = 2**17  # points painted at a time: what stays in the processor's cache


@dataclass(frozen=True)
class HeadCtPhantom:
    """An image with its truth.

    Attributes:
        image: (X, Y, Z) int16, Hounsfield units.
        label: uint8, of the same shape: 1 where blood is.
        affine: (4, 4) voxel index to RAS mm; sheared if the gantry was tilted.
        anatomy: the formulas behind the truth; `anatomy.label(points)` gives it anywhere.
    """

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    anatomy: HeadAnatomy

    def volume_ml(self, kind: str | None = None) -> float:
        """True volume in mL of one kind of bleed, or of all: of the anatomy, whether or not the grid covers it."""
        volumes = self.anatomy.volumes_ml()
        if kind is None:
            return sum(volumes.values())
        if kind not in volumes:
            raise ValueError(f"kind must be a bleed of this head ({', '.join(volumes) or 'it has none'}), got {kind!r}")
        return volumes[kind]

    def save(self, directory: str | Path, stem: str) -> tuple[Path, Path]:
        """Writes `stem.nii.gz` and `stem_truth.nii.gz`; the folder is made.

        Args:
            directory: where to.
            stem: name of the files without extension.

        Returns:
            The two paths.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / f"{stem}.nii.gz", folder / f"{stem}_truth.nii.gz"
        self._save(self.image, paths[0])
        self.save_truth(paths[1])
        return paths

    def save_truth(self, path: Path) -> Path:
        """Writes the mask as NIfTI."""
        return self._save(self.label, path)

    def _save(self, data: NDArray[np.generic], path: Path) -> Path:
        nifti = nib.Nifti1Image(data, self.affine)
        nifti.set_sform(self.affine, code="scanner")
        if _is_sheared(self.affine):  # a qform holds rotations only: say that there is none
            nifti.set_qform(None, code=0)
        else:
            nifti.set_qform(self.affine, code="scanner")
        nifti.header.set_xyzt_units("mm", "sec")
        nib.save(nifti, path)
        return path


def _is_sheared(affine: Array) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(axes.T @ axes, np.eye(3), atol=1e-6)


def head_ct_phantom(
    *,
    shape: Sequence[int] = (256, 256, 24),
    spacing: Sequence[float] = (0.9, 0.9, 5.0),
    bleeds: Sequence[str] = ("intraparenchymal",),
    tilt_degrees: float = 0.0,
    affine: Array | None = None,
    noise: float | None = None,
    seed: int = 0,
    anatomy: HeadAnatomy | None = None,
) -> HeadCtPhantom:
    """Makes a CT of a head without contrast agent, with exact truth of the blood in it.

    Args:
        shape: number of voxels along each array axis: to the patient's left, to posterior, to superior.
        spacing: mm along each array axis; the last is the way of the table from slice to slice.
        bleeds: different ones of "intraparenchymal", "subdural", "intraventricular", "epidural"; () makes a head
            without blood.
        tilt_degrees: tilt of the gantry: the slices lean, the table moves on as before, so the affine is sheared.
        affine: (4, 4) voxel index to RAS mm, instead of spacing and tilt: cuts the anatomy along any planes.
        noise: standard deviation in the brain, Hounsfield units; 0 for none, drawn between 1.4 and 2.6 by default.
        seed: chooses the anatomy and the noise.
        anatomy: this one instead of `HeadAnatomy.sample(seed, bleeds)`.

    Returns:
        The phantom. Without `affine`, the middle of the grid is at 0 mm, so that grids of all kinds show one patient.

    Raises:
        ValueError: an argument is out of range; the message names it.
    """
    size = checked_shape(shape)
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if not -45 <= tilt_degrees <= 45:
        raise ValueError(f"tilt_degrees must be between -45 and 45, got {tilt_degrees}")
    if noise is not None and not 0 <= noise <= 50:
        raise ValueError(f"noise must be between 0 and 50 Hounsfield units, got {noise}")
    patient = anatomy or HeadAnatomy.sample(seed, bleeds)
    if affine is None:
        affine = _tilted_affine(np.array(size), triple("spacing", spacing, 0.1, 100), tilt_degrees)
    matrix = checked_affine(affine)
    image, label = _render(patient, size, matrix, seed, noise)
    return HeadCtPhantom(image=image, label=label, affine=matrix, anatomy=patient)


def _tilted_affine(shape: Array, spacing: Array, tilt_degrees: float) -> NDArray[np.float64]:
    """Affine (4, 4) of axial slices that lean about the patient's left-right axis; the grid's middle is at 0 mm."""
    cos, sin = math.cos(math.radians(tilt_degrees)), math.sin(math.radians(tilt_degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[-1.0, 0.0, 0.0], [0.0, -cos, 0.0], [0.0, sin, 1.0]]) * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    return affine


def _render(
    anatomy: HeadAnatomy, shape: tuple[int, int, int], affine: Array, seed: int, noise: float | None
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Renders image and truth: thick slices are averages over thin ones."""
    index = np.indices(shape).reshape(3, -1).T
    frame = anatomy.to_frame(index @ affine[:3, :3].T + affine[:3, 3])  # (3, N)
    label = anatomy.label_in_frame(frame)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    thick, (_, pixel, thickness) = int(np.argmax(spacing)), np.sort(spacing)
    parts = min(5, math.ceil(thickness / max(1.7, pixel)))
    step = anatomy.to_frame(affine[:3, thick]) - anatomy.to_frame(np.zeros(3))
    offsets = [step * ((part + 0.5) / parts - 0.5) for part in range(parts)]
    if parts == 1:
        pixel = thickness
    values = np.empty(frame.shape[1], dtype=np.float32)
    inside = np.empty(frame.shape[1], dtype=np.float32)
    for start in range(0, len(values), CHUNK):
        part = slice(start, start + CHUNK)
        values[part], inside[part] = _paint(anatomy, frame[:, part].astype(np.float32), offsets, 1.2 * float(pixel))
    image = values.reshape(shape)
    blur = 0.7 / spacing * (spacing < 1.5 * pixel)
    image = ndimage.gaussian_filter(image, blur)
    rng = np.random.default_rng([seed, 20])
    drawn = rng.uniform(1.4, 2.6)
    image += _noise(rng, inside.reshape(shape), spacing, drawn if noise is None else noise)
    return np.rint(np.clip(image, -1024, 3071)).astype(np.int16), label.reshape(shape)


def _paint(anatomy: HeadAnatomy, frame: Array, offsets: Sequence[Array], softness: float) -> tuple[Array, Array]:
    """Values at points (3, N), averaged over offsets, and the depth of the points under the skin, mm."""
    values, depth = np.zeros((2, frame.shape[1]), dtype=np.float32)
    seed = anatomy.detail_seed
    for offset in offsets:
        points = frame + offset[:, None].astype(np.float32)
        canvas = Canvas(np.full(points.shape[1], TISSUE["air"], dtype=np.float32), softness)
        paint_headrest(canvas, points)
        head = np.flatnonzero(np.hypot(points[0] / 100, points[1] / 115) < 1)
        of_head = Surfaces.of(anatomy, points[:, head])
        near = np.flatnonzero(of_head.skin < 2)
        head, of_head = head[near], of_head.take(near)
        if head.size:
            here = points[:, head]
            part = Canvas(canvas.values[head], softness)
            paint_soft_tissue(part, here, of_head, seed)
            paint_face(part, here, seed)
            paint_bone(part, here, of_head, seed)
            cavity = np.flatnonzero(of_head.cavity < 2)
            if cavity.size:
                brain = Canvas(part.values[cavity], softness)
                of_cavity = of_head.take(cavity)
                paint_brain(brain, here[:, cavity], anatomy, of_cavity)
                # beam hardening that the scanner did not correct: brighter next to the bone
                brain.values += 3.0 * np.exp(np.minimum(of_cavity.cavity, 0) / 7)
                part.values[cavity] = brain.values
            canvas.values[head] = part.values
            depth[head] -= np.minimum(of_head.skin, 0) / len(offsets)
        values += canvas.values / len(offsets)
    return values, depth


def _noise(rng: np.random.Generator, depth: Array, spacing: Array, deviation: float) -> NDArray[np.float32]:
    """Noise as filtered back projection leaves it: fine-grained in the plane, strongest in the middle of the head."""
    white = rng.normal(size=depth.shape).astype(np.float32)
    plane = spacing < 1.5 * np.sort(spacing)[1]
    grain = ndimage.gaussian_filter(white, 0.8 / spacing * plane)
    grain -= 0.6 * ndimage.gaussian_filter(white, 2.2 / spacing * plane)
    return np.asarray(grain / grain.std() * deviation * (0.45 + 0.55 * np.clip(depth / 60, 0, 1)), dtype=np.float32)
