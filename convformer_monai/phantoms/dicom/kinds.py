"""The DICOM phantoms by name: each of them a folder of files and where its truth is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.phantoms.cardiac import cardiac_phantom
from convformer_monai.phantoms.dermoscopy import dermoscopy_phantom
from convformer_monai.phantoms.dicom.enhanced import linear_enhanced
from convformer_monai.phantoms.dicom.files import NAME, save_dataset, save_series
from convformer_monai.phantoms.dicom.modules import Identity, ds
from convformer_monai.phantoms.dicom.series import classic_series, linear_series
from convformer_monai.phantoms.dicom.stack import SliceStack
from convformer_monai.phantoms.dicom_photo import photograph_dataset
from convformer_monai.phantoms.head_ct import head_ct_phantom

__all__ = ["KINDS", "write_kind"]

KINDS = {
    "ct": "axial CT series",
    "mr": "oblique MR series",
    "cine": "oblique MR cine, slices x phases in one series",
    "enhanced-ct": "the CT as one multi-frame file",
    "enhanced-mr": "the MR cine as one multi-frame file",
    "cardiac": "MR cine of the cardiac phantom's heart",
    "head-ct": "CT of the head phantom, with blood",
    "dermoscopy": "photograph of the dermoscopy phantom, as JPEG, with pixel spacing",
}
OBLIQUE = (20.0, -15.0, 40.0)
EXAMINATIONS = {"cardiac": 1, "head-ct": 2, "dermoscopy": 3}  # of one patient


def write_kind(
    kind: str, folder: str | Path, *, seed: int = 0, num_phases: int = 5, tilt_degrees: float = 0.0
) -> list[Path]:
    """Writes a DICOM phantom.

    All but heart, head and photograph hold :func:`linear_value` of each voxel's place. With the heart comes
    ``cardiac_truth.nii.gz`` beside the folder of its DICOM files, with the head ``head_ct_truth.nii.gz``, with
    the photograph ``dermoscopy_truth.png``.

    Args:
        kind: one of `KINDS`.
        folder: where to; made if missing.
        seed: of heart, head and photograph, which are examinations of one patient: another seed is another patient.
        num_phases: of the cines.
        tilt_degrees: gantry tilt of the head.

    Returns:
        What was written: DICOM files, or for heart, head and photograph what holds them and the truth.

    Raises:
        ValueError: if the kind is unknown, or another than the head shall be tilted.
        InputRefused: ``EXISTS`` if other DICOM files would lie beside those of the series.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if tilt_degrees and kind != "head-ct":
        raise ValueError(f"tilt_degrees must be 0 for {kind}, got {tilt_degrees}; only head-ct can be tilted")
    target = Path(folder)
    if kind == "head-ct":
        return _write_head(target, seed, tilt_degrees)
    if kind == "dermoscopy":
        return _write_photograph(target, seed)
    if kind == "cardiac":
        return _write_heart(target, seed, num_phases)
    modality = "CT" if kind.endswith("ct") else "MR"
    stack = SliceStack.regular(shape=(64, 48, 10), angles=(0, 0, 0) if modality == "CT" else OBLIQUE)
    phases = num_phases if kind in ("cine", "enhanced-mr") else 1
    if kind.startswith("enhanced"):
        target.mkdir(parents=True, exist_ok=True)
        return [save_dataset(linear_enhanced(stack, modality=modality, phases=phases), target / "image.dcm")]
    return _save(linear_series(stack, modality=modality, phases=phases), target)


def _identity(kind: str, seed: int) -> Identity:
    return Identity(patient=seed + 1, study=EXAMINATIONS[kind])


def _save(datasets: Sequence[Dataset], folder: Path) -> list[Path]:
    """Writes a series into a folder that holds no other."""
    names = {NAME.format(number) for number in range(1, len(datasets) + 1)}
    others = sorted(path.name for path in folder.glob("*.dcm") if path.name not in names)
    if others:
        raise InputRefused(
            RefusalCode.EXISTS, f"{folder} holds other DICOM files ({others[0]}); give another --output-dir"
        )
    return save_series(datasets, folder, name=NAME)


def _write_heart(target: Path, seed: int, num_phases: int) -> list[Path]:
    phantom = cardiac_phantom(seed=seed, num_phases=num_phases, rotation=OBLIQUE)
    stack = SliceStack.from_affine(phantom.image.shape[:3], phantom.affine)
    times = [1000 * phantom.beat_s * time for time in phantom.times]
    datasets = classic_series(
        phantom.image,
        stack,
        phase_times_ms=times if num_phases > 1 else (),
        identity=_identity("cardiac", seed),
    )
    _save(datasets, target / "cardiac_dicom")
    return [target / "cardiac_dicom", phantom.save_truth(target / "cardiac_truth.nii.gz")]


def _write_head(target: Path, seed: int, tilt_degrees: float) -> list[Path]:
    phantom = head_ct_phantom(seed=seed, tilt_degrees=tilt_degrees)
    stack = SliceStack.from_affine(phantom.image.shape, phantom.affine)
    datasets = classic_series(phantom.image, stack, modality="CT", identity=_identity("head-ct", seed))
    for dataset in datasets:
        dataset.GantryDetectorTilt = ds(tilt_degrees)
    _save(datasets, target / "head_ct_dicom")
    return [target / "head_ct_dicom", phantom.save_truth(target / "head_ct_truth.nii.gz")]


def _write_photograph(target: Path, seed: int) -> list[Path]:
    phantom = dermoscopy_phantom(seed=seed, spacing_mm=0.02)
    target.mkdir(parents=True, exist_ok=True)
    dataset = photograph_dataset(
        phantom.image,
        photometric="YBR_FULL_422",
        jpeg="ybr",
        dermoscopic=True,
        pixel_spacing=phantom.spacing_mm,
        identity=_identity("dermoscopy", seed),
    )
    image = save_dataset(dataset, target / "dermoscopy.dcm")
    return [image, phantom.save_truth(target / "dermoscopy_truth.png")]
