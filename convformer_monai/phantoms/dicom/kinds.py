"""The DICOM phantoms by name: each of them a folder of files and where its truth is."""

from __future__ import annotations

from pathlib import Path

from convformer_monai.phantoms.cardiac import cardiac_phantom
from convformer_monai.phantoms.dicom.enhanced import linear_enhanced
from convformer_monai.phantoms.dicom.files import save_dataset, save_series
from convformer_monai.phantoms.dicom.series import classic_series, linear_series
from convformer_monai.phantoms.dicom.stack import SliceStack

__all__ = ["KINDS", "write_kind"]

KINDS = {
    "ct": "axial CT series",
    "mr": "oblique MR series",
    "cine": "oblique MR cine, slices x phases in one series",
    "enhanced-ct": "the CT as one multi-frame file",
    "enhanced-mr": "the MR cine as one multi-frame file",
    "cardiac": "MR cine of the cardiac phantom's heart",
}
OBLIQUE = (20.0, -15.0, 40.0)


def write_kind(kind: str, folder: str | Path, *, seed: int = 0, num_phases: int = 5) -> list[Path]:
    """Writes a DICOM phantom.

    All but the heart hold :func:`linear_value` of each voxel's place. With the heart comes ``cardiac_truth.nii.gz``
    beside the folder of its DICOM files.

    Args:
        kind: one of `KINDS`.
        folder: where to; made if missing.
        seed: of the heart: another seed is another patient.
        num_phases: of the cines.

    Returns:
        What was written: DICOM files, or for the heart the folder of them and its truth.

    Raises:
        ValueError: if the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    target = Path(folder)
    if kind == "cardiac":
        return _write_heart(target, seed, num_phases)
    modality = "CT" if kind.endswith("ct") else "MR"
    stack = SliceStack.regular(shape=(64, 48, 10), angles=(0, 0, 0) if modality == "CT" else OBLIQUE)
    phases = num_phases if kind in ("cine", "enhanced-mr") else 1
    if kind.startswith("enhanced"):
        target.mkdir(parents=True, exist_ok=True)
        return [save_dataset(linear_enhanced(stack, modality=modality, phases=phases), target / "image.dcm")]
    return save_series(linear_series(stack, modality=modality, phases=phases), target)


def _write_heart(target: Path, seed: int, num_phases: int) -> list[Path]:
    phantom = cardiac_phantom(seed=seed, num_phases=num_phases, rotation=OBLIQUE)
    image, truth = phantom.save(target, "cardiac")
    image.unlink()  # the DICOM series is the image here
    stack = SliceStack.from_affine(phantom.image.shape[:3], phantom.affine)
    times = [1000 * phantom.beat_s * time for time in phantom.times]
    datasets = classic_series(phantom.image, stack, phase_times_ms=times if num_phases > 1 else ())
    save_series(datasets, target / "cardiac_dicom")
    return [target / "cardiac_dicom", truth]
