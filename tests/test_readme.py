"""The README's commands, run as they stand there, on generated images."""

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


def blocks(repository: Path, heading: str, language: str) -> list[str]:
    """The code blocks of a language under a heading."""
    text = (repository / "README.md").read_text(encoding="utf-8")
    part = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", part, re.DOTALL)


def run(command: list[str], folder: Path, repository: Path) -> str:
    """Runs a command with this Python's programs first; returns what it said."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def shell(block: str, folder: Path, repository: Path) -> str:
    """Runs a block of commands in a folder that has no environment of its own to activate."""
    lines = [line for line in block.splitlines() if line != ". .venv/bin/activate"]
    assert len(lines) < len(block.splitlines()), "a block of commands begins with the environment"
    return run(["bash", "-euo", "pipefail", "-c", "\n".join(lines)], folder, repository)


@pytest.mark.slow
def test_dicom_in_dicom_out(repository: Path, tmp_path: Path) -> None:
    (commands,) = blocks(repository, "DICOM in, DICOM out", "bash")
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
    (code,) = blocks(repository, "DICOM in, DICOM out", "python")
    run([sys.executable, "-c", f"{code}\nassert labels.shape == (216, 256, 10)"], tmp_path, repository)


@pytest.mark.slow
def test_segment(repository: Path, tmp_path: Path) -> None:
    phantom = cardiac_phantom(shape=(96, 104, 3), spacing=(1.8, 1.8, 10.0))
    phantom.save(tmp_path, "my_scan")
    for ward in ("a", "b"):
        phantom.save(tmp_path / "patients" / ward, "scan")
    dermoscopy_phantom(size=(256, 192)).save(tmp_path, "lesion")
    (commands,) = blocks(repository, "Segment", "bash")
    assert "2 done" in shell(commands, tmp_path, repository)
    assert (tmp_path / "out" / "my_scan_preview.png").is_file()
    assert (tmp_path / "out" / "b" / "scan_seg.nii.gz").is_file()
    assert (tmp_path / "out" / "lesion_seg.png").is_file()


@pytest.mark.slow
def test_monai_bundle(repository: Path, tmp_path: Path) -> None:
    phantom = cardiac_phantom(shape=(96, 104, 3), spacing=(1.8, 1.8, 10.0))
    for folder in (tmp_path, tmp_path / "scans"):
        phantom.save(folder, "patient1")
    (tmp_path / "bundles").symlink_to(repository / "bundles")
    run(
        [sys.executable, "-m", "convformer_monai.cli", "phantom", "dicom", "--output_dir", ".", "--num_phases", "1"],
        tmp_path,
        repository,
    )
    (tmp_path / "cardiac_dicom").rename(tmp_path / "series_7")
    (commands,) = blocks(repository, "The bundle, as MONAI runs it", "bash")
    shell(commands, tmp_path, repository)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"patient1_seg.nii.gz", "series_7_seg.nii.gz"}


@pytest.mark.slow
def test_the_networks_in_python(repository: Path, tmp_path: Path) -> None:
    (code,) = blocks(repository, "The networks in Python", "python")
    run([sys.executable, "-c", f"{code}\nassert logits.shape == (1, 4, 200, 216)"], tmp_path, repository)
