"""What the tests of DICOM results share: series with known labels, and the programs that judge and read the results."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from convformer_monai.phantoms.dicom import SliceStack, linear_enhanced, linear_series, save_series
from convformer_monai.readers import read_series
from convformer_monai.readers.series import ImageSeries

OBLIQUE = {"angles": (20, -15, 40)}
UNEVEN = {"gaps": (1.5, 1.5, 2.5, 2.5, 2.5, 4.0)}
SHUFFLED = [3, 1, 2, 0, 6, 5, 4]


@dataclass(frozen=True)
class Case:
    """How to make and read a series; ``dcmqi`` tells whether that can read it (it knows no uneven or sheared grid)."""

    make: Callable[[], Sequence[Dataset]]
    phase: str | None = None
    resample_uneven: bool = False
    dcmqi: bool = True

    def read(self, folder: Path) -> ImageSeries:
        save_series(self.make(), folder)
        return read_series(folder, phase=self.phase, resample_uneven=self.resample_uneven)


def stack(**options: object) -> SliceStack:
    return SliceStack.regular(**options)  # type: ignore[arg-type]


CASES = {
    "ct": Case(lambda: linear_series(stack())),
    "downwards": Case(lambda: linear_series(stack().reversed())),
    "tilted": Case(lambda: linear_series(stack(tilt=18))),
    "oblique": Case(lambda: linear_series(stack(**OBLIQUE), modality="MR")),
    "oblique and tilted": Case(lambda: linear_series(stack(tilt=-20, **OBLIQUE)), dcmqi=False),
    "one slice": Case(lambda: linear_series(stack(shape=(36, 32, 1)))),
    "enhanced": Case(lambda: [linear_enhanced(stack(**OBLIQUE), order=SHUFFLED)]),
    "enhanced MR": Case(lambda: [linear_enhanced(stack(), modality="MR")]),
    "cine": Case(lambda: linear_series(stack(**OBLIQUE), phases=3, modality="MR"), phase="all"),
    "cine by level": Case(lambda: linear_series(phases=3, modality="MR", series_per_level=True), phase="all"),
    "enhanced cine": Case(lambda: [linear_enhanced(phases=3, modality="MR")], phase="all"),
    "uneven": Case(lambda: linear_series(stack(**UNEVEN)), resample_uneven=True, dcmqi=False),
    "uneven and tilted": Case(lambda: linear_series(stack(tilt=18, **UNEVEN)), resample_uneven=True, dcmqi=False),
}


def some_labels(series: ImageSeries, classes: int = 3) -> NDArray[np.uint8]:
    """Labels without any symmetry; the first slice of several is empty, and every class is in every other slice."""
    labels = np.random.default_rng(0).integers(0, classes + 1, series.image.shape).astype(np.uint8)
    if labels.shape[-1] > 1:
        labels[..., 0] = 0
    return labels


def dciodvfy_errors(path: Path) -> list[str]:
    """The errors that David Clunie's validator finds (its exit code says nothing)."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy: apt-get install dicom3tools")
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    assert "Error" not in done.stdout
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


def dcmqi(tool: str, *arguments: object) -> None:
    """Runs one of dcmqi's programs."""
    program = shutil.which(tool) or shutil.which(tool, path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip(f"needs {tool}: pip install dcmqi")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def dcmqi_labels(path: Path, folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The label map (X, Y, Z) and affine that dcmqi makes of a DICOM SEG, from the first to the last stored slice."""
    folder.mkdir(parents=True)
    dcmqi("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", folder, "--mergeSegments", "-t", "nii")
    (file,) = folder.glob("*.nii.gz")
    image = nib.load(file)
    return np.asanyarray(image.dataobj), image.affine


def dcmqi_report(path: Path, output: Path) -> dict:
    """What dcmqi reads in a TID 1500 report."""
    dcmqi("tid1500reader", "--inputDICOM", path, "--outputMetadata", output)
    report: dict = json.loads(output.read_text())
    return report
