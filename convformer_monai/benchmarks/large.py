"""Peak memory of ``segment`` on large images: a CT of 400 slices, as NIfTI and as DICOM, and a cine of 30 phases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from convformer_monai.benchmarks.dicom import write_series
from convformer_monai.benchmarks.processes import run_python
from convformer_monai.benchmarks.start_up import seconds_of, segment_arguments
from convformer_monai.phantoms import cardiac_phantom, head_ct_phantom

__all__ = ["ALLOWANCE_MB", "large"]

ALLOWANCE_MB = 1000.0  # beside image and mask
CT, CINE = (512, 512, 400), (256, 256, 12)
PHASES = 30
REPEATED = 10  # slices of the head that are alike, but for noise: drawing them takes longer than segmenting


def large(folder: Path, shrink: int = 1) -> list[dict[str, Any]]:
    """Makes the images and segments each in a process of its own.

    Args:
        folder: for images and results.
        shrink: of every size, to try the program.

    Returns:
        A row for each: megabytes of image (float32, as it is in memory) and mask, the peak, seconds.
    """
    ct = [size // shrink for size in CT]
    cine = [max(2, size // shrink) for size in CINE]
    phases = max(2, PHASES // shrink)
    heart, _ = cardiac_phantom(shape=cine, spacing=(1.4 * shrink, 1.4 * shrink, 8.0), num_phases=phases).save(
        folder, "cine"
    )
    nifti, series = _head(folder, ct, shrink)
    name = "{2} slices of {0} x {1}".format(*ct)
    return [
        _row(f"CT, {name}, NIfTI", nifti, "hemorrhage", ct, folder / "out1"),
        _row(f"CT, {name}, DICOM", series, "hemorrhage", ct, folder / "out2"),
        _row(
            "cine MRI, {3} phases of {0} x {1} x {2}".format(*cine, phases),
            heart,
            "cardiac",
            [*cine, phases],
            folder / "out3",
        ),
    ]


def _head(folder: Path, shape: Sequence[int], shrink: int) -> tuple[Path, Path]:
    """Writes a head in thin slices, as NIfTI and as DICOM."""
    slices = -(-shape[2] // REPEATED)
    phantom = head_ct_phantom(
        shape=(shape[0], shape[1], slices), spacing=(0.45 * shrink, 0.45 * shrink, 0.4 * REPEATED * shrink)
    )
    noise = np.random.default_rng(0).integers(-3, 4, shape, dtype=np.int16)
    volume = np.repeat(phantom.image, REPEATED, axis=2)[..., : shape[2]] + noise
    affine = phantom.affine.copy()
    affine[:3, 2] /= REPEATED
    path = folder / "ct.nii.gz"
    nib.save(nib.Nifti1Image(volume, affine), path)
    write_series(folder / "ct", volume, affine, "CT")
    return path, folder / "ct"


def _row(name: str, image: Path, bundle: str, shape: Sequence[int], output: Path) -> dict[str, Any]:
    ran = run_python(segment_arguments(image, output, bundle))
    voxels = math.prod(shape) / 1e6
    return {
        "image": name,
        "image_mb": 4 * voxels,
        "mask_mb": voxels,
        "limit_mb": 5 * voxels + ALLOWANCE_MB,
        "peak_mb": ran.megabytes,
        "seconds": ran.seconds,
        "network_seconds": seconds_of(output)["network"],
    }
