"""The commands and the Python of the README and the pages of docs, run as they stand there, on generated images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from convformer_monai.phantoms import cardiac_phantom
from convformer_monai.phantoms.dermoscopy import dermoscopy_phantom


def blocks(page: Path, heading: str, language: str) -> list[str]:
    """The code blocks of a language under a heading of a page."""
    part = re.split(rf"^#+ {re.escape(heading)}$", page.read_text(encoding="utf-8"), maxsplit=1, flags=re.MULTILINE)[1]
    return re.findall(rf"```{language}\n(.*?)```", re.split(r"^#+ ", part, flags=re.MULTILINE)[0], re.DOTALL)


def run(command: list[str], folder: Path, repository: Path) -> str:
    """Runs a command with this Python's programs first; returns what it said."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def shell(block: str, folder: Path, repository: Path) -> str:
    """Runs a block of commands in a folder."""
    return run(["bash", "-euo", "pipefail", "-c", block], folder, repository)


@pytest.mark.slow
def test_dicom_in_dicom_out(repository: Path, tmp_path: Path) -> None:
    (commands,) = blocks(repository / "docs" / "segment.md", "DICOM in, DICOM out", "bash")
    said = shell(commands, tmp_path, repository)
    assert "Left ventricular ejection fraction" in said
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"cardiac_dicom_seg_phase00.dcm", "cardiac_dicom_sr.dcm", "cardiac_dicom_preview.png"} <= names
    mask = nib.load(tmp_path / "out" / "cardiac_dicom_seg.nii.gz")
    truth = nib.load(tmp_path / "phantom" / "cardiac_truth.nii.gz")
    np.testing.assert_allclose(mask.affine, truth.affine, atol=1e-3)
    found, there = (np.asanyarray(image.dataobj) == 3 for image in (mask, truth))
    assert 2 * (found & there).sum() / (found.sum() + there.sum()) > 0.9

    cardiac_phantom().save(tmp_path, "my_scan")
    python = blocks(repository / "docs" / "python.md", "Python", "python")
    checks = "assert result.labels.shape[1:] == (216, 256, 10)"
    (in_memory,) = blocks(repository / "README.md", "Python", "python")
    checks_in_memory = "assert labels.shape == (216, 256, 10)"
    said = run([sys.executable, "-c", "\n".join([*python, checks, in_memory, checks_in_memory])], tmp_path, repository)
    assert "  Left ventricular ejection fraction" in said and " mL []\n" in said
    assert "\nFILE_NOT_FOUND error[FILE_NOT_FOUND]: nowhere.nii.gz" in said


@pytest.mark.slow
def test_segment(repository: Path, tmp_path: Path) -> None:
    phantom = cardiac_phantom(shape=(96, 104, 3), spacing=(1.8, 1.8, 10.0))
    phantom.save(tmp_path, "my_scan")
    for ward in ("a", "b"):
        phantom.save(tmp_path / "patients" / ward, "scan")
    dermoscopy_phantom(size=(256, 192)).save(tmp_path, "lesion")
    dicom_series(tmp_path, repository)
    (commands,) = blocks(repository / "README.md", "Segment", "bash")
    assert "2 done" in shell(commands, tmp_path, repository)
    assert (tmp_path / "out" / "my_scan_preview.png").is_file()
    assert (tmp_path / "out" / "b" / "scan_seg.nii.gz").is_file()
    assert (tmp_path / "out" / "lesion_seg.png").is_file()
    assert (tmp_path / "out" / "series_7_seg.dcm").is_file() and (tmp_path / "out" / "series_7_sr.dcm").is_file()


def dicom_series(folder: Path, repository: Path) -> None:
    """Makes the DICOM folder ``series_7``."""
    words = ["phantom", "dicom", "--output_dir", ".", "--num_phases", "1"]
    run([sys.executable, "-m", "convformer_monai.cli", *words], folder, repository)
    (folder / "cardiac_dicom").rename(folder / "series_7")


@pytest.mark.slow
def test_monai_bundle(repository: Path, tmp_path: Path) -> None:
    phantom = cardiac_phantom(shape=(96, 104, 3), spacing=(1.8, 1.8, 10.0))
    for folder in (tmp_path, tmp_path / "scans"):
        phantom.save(folder, "patient1")
    dicom_series(tmp_path, repository)
    (commands,) = blocks(repository / "README.md", "MONAI bundles", "bash")
    shell(commands, tmp_path, repository)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"patient1_seg.nii.gz"}
    (tmp_path / "out" / "patient1_seg.nii.gz").unlink()
    (commands,) = blocks(repository / "docs" / "monai_bundle.md", "The bundles, as MONAI runs them", "bash")
    shell(commands, tmp_path, repository)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"patient1_seg.nii.gz", "series_7_seg.nii.gz"}


@pytest.mark.slow
def test_the_networks_in_python(repository: Path, tmp_path: Path) -> None:
    (code,) = blocks(repository / "docs" / "networks.md", "The networks in Python", "python")
    run([sys.executable, "-c", f"{code}\nassert logits.shape == (1, 4, 200, 216)"], tmp_path, repository)
    (code,) = blocks(repository / "docs" / "networks.md", "In a network of your own", "python")
    run([sys.executable, "-c", f"{code}\nassert features.shape == (1, 64, 12, 15)"], tmp_path, repository)
