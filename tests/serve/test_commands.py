"""``serve`` and ``demo serve`` as they are typed: faults are named, the demo's heart comes back right."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pytest
import requests
from hospital import configure, needs_orthanc, rule, wait_until
from pydicom import dcmread

from convformer_monai.cli import main
from convformer_monai.commands import demo_serve
from convformer_monai.measurements.overlap import dice
from convformer_monai.readers import read_series

SHARE = {"name": "share", "kind": "folder", "path": "share"}


def test_a_configuration_is_checked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, _ = configure(tmp_path, [rule("cardiac", "cardiac", ["share"])], [SHARE])
    assert main(["serve", "--config", str(path), "--check"]) == 0
    assert "is good; rules: 1, destinations: 1" in capfd.readouterr().out
    path.write_text(path.read_text().replace("port: 0", "port: none").replace("quiet_seconds", "quite_seconds"))
    assert main(["serve", "--config", str(path)]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith(f"error[CONFIG]: {path}: ") for line in lines)
    assert any(": quite_seconds: is unknown" in line for line in lines)
    assert main(["serve", "--config", str(tmp_path / "nowhere.yaml")]) == 2
    assert "cannot be read" in capfd.readouterr().err


def test_packages_and_orthanc_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_serve.shutil, "which", lambda *_, **__: None)
    assert main(["demo", "serve", str(tmp_path / "x")]) == 2
    assert "apt-get install orthanc orthanc-dicomweb" in capfd.readouterr().err and not (tmp_path / "x").exists()
    assert main(["demo", "serve", "a", "b"]) == 2
    monkeypatch.setattr("convformer_monai.commands.serve.find_spec", lambda name: None)
    assert main(["serve", "--config", str(tmp_path / "node.yaml")]) == 2
    assert "pip install 'convformer_monai[node,dicom]'" in capfd.readouterr().err


@needs_orthanc
@pytest.mark.slow
def test_the_demos_heart_comes_back(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "convformer_monai.cli", "demo", "serve", "demo"],
            cwd=tmp_path,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    try:
        wait_until(lambda: "Ctrl-C ends it" in log.read_text() or process.poll() is not None, "the result")
        said = log.read_text()
        address, study = re.findall(r"(http://\S+)/app/explorer.html#study\?uuid=(\S+)", said)[0]
        (preview,) = re.findall(r"(http://\S+/preview)", said)
        assert requests.get(preview, timeout=20).headers["Content-Type"].startswith("image/")
        stored = {}
        for one in requests.get(f"{address}/studies/{study}/series", timeout=20).json():
            stored[one["MainDicomTags"]["Modality"]] = one["Instances"]
        assert {name: len(instances) for name, instances in stored.items()} == {"MR": 10, "SEG": 1, "SR": 1, "OT": 1}
        segmentation = tmp_path / "seg.dcm"
        segmentation.write_bytes(requests.get(f"{address}/instances/{stored['SEG'][0]}/file", timeout=20).content)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
    assert "Traceback" not in log.read_text() and "lanted" not in log.read_text()
    series = read_series(tmp_path / "demo" / "phantom" / "cardiac_dicom")
    truth = nib.load(tmp_path / "demo" / "phantom" / "cardiac_truth.nii.gz")
    uids = [frame.sop_instance_uid for frame in series.frames[0]]
    assert {item.ReferencedSOPInstanceUID for item in dcmread(segmentation).SourceImageSequence} == set(uids)
    mask = highdicom.seg.segread(segmentation).get_pixels_by_source_instance(
        uids, segment_numbers=[3], assert_missing_frames_are_empty=True
    )[..., 0]  # (slices, rows, columns)
    np.testing.assert_allclose(series.affine, truth.affine, atol=1e-3)
    assert dice(mask.T == 1, np.asanyarray(truth.dataobj).reshape(mask.T.shape) == 3) > 0.9
