"""The cardiac phantom on any grid: image, truth, volumes and files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from convformer_monai.phantoms.cardiac_anatomy import LABELS, Array, CardiacAnatomy
from convformer_monai.phantoms.cardiac_looks import TISSUE, Canvas, bias_field, paint_body, paint_heart, texture
from convformer_monai.phantoms.grids import checked_affine, checked_shape, triple


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
        if structure not in LABELS:
            raise ValueError(f"structure must be one of {', '.join(LABELS)}, got {structure!r}")
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
        self.save_truth(paths[1], header_trap)
        return paths

    def save_truth(self, path: Path, header_trap: bool = False) -> Path:
        """Writes the mask as NIfTI; see :meth:`save`."""
        nib.save(self._nifti(self.label, header_trap), path)
        return path

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
    size = checked_shape(shape)
    if not 1 <= num_phases <= 1000:
        raise ValueError(f"num_phases must be between 1 and 1000, got {num_phases}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    r, a, s = (float(angle) for angle in triple("rotation", rotation, -360, 360))
    patient = replace(anatomy or CardiacAnatomy.sample(seed), rotation=(r, a, s))
    if affine is None:
        affine = _grid_affine(np.array(size), triple("spacing", spacing, 0.1, 100), axcodes, patient.pose())
    affine = checked_affine(affine)
    times = tuple(phase / num_phases for phase in range(num_phases))
    image, label = _render(patient, size, affine, times, seed)
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
    grain, fine = (texture(frame, anatomy.detail_seed + k, size) for k, size in enumerate((9.0, 4.0)))
    softness = 1.2 * float(pixel)
    body = Canvas(np.full(frame.shape[1], TISSUE["air"], dtype=np.float32), softness)
    paint_body(body, frame, anatomy, grain, fine)  # it changes little across a slice: once, not for each part
    bias = bias_field(frame).reshape(shape)

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
            canvas = Canvas(body.values[near], softness)
            shifted = frame[:, near] + offset[:, None].astype(np.float32)
            paint_heart(canvas, shifted, anatomy, c, grain[near], fine[near])
            values[near] += canvas.values / parts
        signal = values.reshape(shape) * bias
        noise = rng.normal(0, 28, (2, *shape)).astype(np.float32)
        noisy = np.hypot(signal + noise[0], noise[1])  # Rician
        image[..., phase] = ndimage.gaussian_filter(noisy, blur)
    low, high = float(image.min()), float(np.percentile(image, 99))
    scaled = np.rint(np.clip((image - low) / (high - low), 0, 1) * 1000).astype(np.int16)
    return scaled, label.reshape(*shape, len(times))
