"""`convformer-monai segment` on DICOM, with every result, beside `monai.bundle run` on the same voxels as NIfTI.

Whole runs, each a process of its own; the two commands take turns, so that a busy machine slows them alike. The head CT
goes through the cardiac network (`--force-modality`) for the sake of its size: 40 slices of 512 x 512.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from convformer_monai.benchmarks.interruption import begins_anew
from convformer_monai.benchmarks.processes import run_python
from convformer_monai.bundle import Bundle
from convformer_monai.phantoms import cardiac_phantom
from convformer_monai.phantoms.dicom import SliceStack, classic_series, save_series

RESULTS = ["--format", "nifti,dicom-seg,dicom-sr", "--preview", "--device", "cpu", "--quiet", "--overwrite"]


def inputs(folder: Path, size: int) -> dict[str, tuple[Path, Path, list[str]]]:
    """Writes both images as DICOM and as NIfTI: name to DICOM folder, NIfTI file and further options.

    Args:
        folder: where to.
        size: pixels a side of the CT; 512 for the real thing, less to try the program.
    """
    ct = cardiac_phantom(shape=(size, size, 40), spacing=(0.45, 0.45, 4.0))
    cine = cardiac_phantom(shape=(216, 256, 10) if size == 512 else (48, 48, 2), num_phases=25)
    made = {}
    for name, phantom, modality, options in (
        (f"CT, 40 slices of {size} x {size}", ct, "CT", ["--force-modality"]),
        ("cine MRI, {2} slices x 25 phases of {0} x {1}".format(*cine.image.shape), cine, "MR", []),
    ):
        series = folder / modality
        write_series(series, phantom.image, phantom.affine, modality)
        nifti = folder / f"{modality}.nii.gz"
        nib.save(nib.Nifti1Image(phantom.image, phantom.affine), nifti)
        made[name] = (series, nifti, options)
    return made


def write_series(folder: Path, volume: NDArray[np.int16], affine: NDArray[np.float64], modality: str) -> None:
    """Writes a volume or cine as a classic series."""
    stack = SliceStack.from_affine(volume.shape[:3], affine)
    save_series(classic_series(volume, stack, modality=modality), folder)


@begins_anew()
def run(repeats: int, size: int) -> None:
    """Measures and writes the figures to standard output.

    Args:
        repeats: of each command.
        size: pixels a side of the CT, at least 16.
    """
    bundle = Bundle("cardiac")
    baseline = ["-m", "monai.bundle", "run", "--config_file", str(bundle.path("inference"))]
    baseline += ["--bundle_root", str(bundle.root), "--device", "cpu"]
    write = sys.stdout.write
    write("convformer-monai segment: DICOM in; NIfTI, DICOM SEG, SR, measurements and preview out; start-up included\n")
    write("baseline: python -m monai.bundle run, the same voxels as NIfTI in, NIfTI out\n\n")
    write(f"{'':<48} {'seconds':>8} {'of the baseline':>16} {'peak memory, MB':>16}\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, (series, nifti, more) in inputs(folder, size).items():
            ours = ["-m", "convformer_monai.cli", "segment", "-i", str(series), "-o", str(folder / "ours")]
            theirs = [*baseline, "--datalist", repr([str(nifti)]), "--output_dir", str(folder / "baseline")]
            times: dict[str, list[float]] = {"ours": [], "baseline": []}
            for _ in range(repeats):
                seconds, peak, _ = run_python([*ours, *RESULTS, *more])
                times["ours"].append(seconds)
                times["baseline"].append(run_python(theirs)[0])
            seconds, reference = (statistics.median(times[which]) for which in ("ours", "baseline"))
            write(f"{name:<48} {seconds:>8.1f} {seconds / reference:>16.2f} {peak:>16.0f}\n")
