"""An experiment's data in parts, and what a machine without network makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_files import affine, save

from convformer_monai.cli import main
from convformer_monai.datalist import read_cases
from convformer_monai.errors import InputRefused
from convformer_monai.experiments import pack_experiment


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A volume in steps of 4, one of many values, and masks."""
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    draw = np.random.default_rng(0)
    save(folder / "a" / "x.nii.gz", (4 * draw.integers(0, 251, (40, 40, 4))).astype(np.int16))
    save(folder / "y.nii.gz", draw.integers(0, 4000, (40, 40, 4)).astype(np.int16))
    for name in ("x_gt", "y_gt"):
        save(folder / f"{name}.nii.gz", draw.integers(0, 4, (40, 40, 4)).astype(np.uint8))
    lists = {
        "train": [{"image": "a/x.nii.gz", "label": "x_gt.nii.gz", "patient": "p1"}],
        "val": [{"image": "y.nii.gz", "label": "y_gt.nii.gz", "id": "two"}],
        "other": [{"image": "missing.nii.gz"}],
    }
    (folder / "datalist.json").write_text(json.dumps(lists))
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="the machine has bash")
def test_parts_are_joined_again(data: Path, tmp_path: Path) -> None:
    files = pack_experiment("cardiac", data, tmp_path / "my pack", part_mib=0.01, wheels=False)
    parts = sorted((tmp_path / "my pack").glob("part*.bin"))
    assert len(parts) > 2 and all(part.stat().st_size <= 0.01 * 2**20 for part in parts)
    assert files == [*parts, tmp_path / "my pack" / "SHA256SUMS", tmp_path / "my pack" / "run.sh"]

    wanted = tmp_path / "bin"
    wanted.mkdir()
    said = tmp_path / "said"
    cases = f'*pip*) ;; *convformer_monai.cli*) echo "$@" > "{said}";; *) exec "{sys.executable}" "$@";;'
    (wanted / "python3").write_text(f'#!/bin/bash\ncase "$*" in {cases} esac')
    (wanted / "python3").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{wanted}:{os.environ['PATH']}",
        "CONVFORMER_PACK": str(tmp_path / "there"),
        "OUT": "out",
    }
    command = ["bash", str(tmp_path / "my pack" / "run.sh"), "table1", "--jobs", "6"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (there,) = (tmp_path / "there").iterdir()
    assert (
        said.read_text().split()
        == (
            f"-m convformer_monai.cli experiment table1 --task cardiac --data {there}/data "
            "--output-dir out/table1/cardiac --jobs 6"
        ).split()
    )

    (one,) = read_cases(there / "data", "train")
    (two,) = read_cases(there / "data", "val")
    before, after = nib.load(data / "a" / "x.nii.gz"), nib.load(one["image"])
    assert after.get_data_dtype() == np.uint8 and (one["id"], one["patient"], two["id"]) == ("x", "p1", "two")
    np.testing.assert_array_equal(4 * np.asarray(after.dataobj, dtype=int), np.asarray(before.dataobj))
    np.testing.assert_allclose(after.affine, affine(), atol=1e-4)
    assert after.header.get_zooms() == before.header.get_zooms()
    np.testing.assert_array_equal(nib.load(two["image"]).dataobj, nib.load(data / "y.nii.gz").dataobj)
    np.testing.assert_array_equal(nib.load(one["label"]).dataobj, nib.load(data / "x_gt.nii.gz").dataobj)

    parts[1].write_bytes(b"damaged")
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, "it is unpacked already"
    damaged = subprocess.run(
        command, env={**environment, "CONVFORMER_PACK": str(tmp_path / "new")}, capture_output=True, check=False
    )
    assert damaged.returncode != 0


@pytest.mark.skipif(sys.platform == "win32", reason="the machine has bash")
def test_two_packs_do_not_meet(data: Path, tmp_path: Path) -> None:
    """The second pack finds other data unpacked in the same place."""
    for name in ("one", "two"):
        lists = json.loads((data / "datalist.json").read_text())
        lists["train"][0]["patient"] = name
        (data / "datalist.json").write_text(json.dumps(lists))
        pack_experiment("cardiac", data, tmp_path / name, wheels=False)
    script = (tmp_path / "one" / "run.sh").read_text()
    assert script == (tmp_path / "two" / "run.sh").read_text() and 'sha256sum < "$pack/SHA256SUMS"' in script
    sums = {(tmp_path / name / "SHA256SUMS").read_text() for name in ("one", "two")}
    assert len(sums) == 2


def test_shapes_that_blood_is_painted_with_are_packed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("x.png", "x_mask.png", "s.png"):
        (folder / name).write_bytes(b"a picture")
    lists = {
        "expert": [{"image": "x.png", "label": "x_mask.png", "id": "x", "source": "a"}],
        "cq500_shapes": [{"patient": "CT1", "shape": "s.png"}],
    }
    (folder / "datalist.json").write_text(json.dumps(lists))
    pack_experiment("hemorrhage", folder, tmp_path / "pack", wheels=False)
    with tarfile.open(tmp_path / "pack" / "part0001.bin", "r:xz") as archive:
        assert "data/s.png" in archive.getnames()
        kept = json.load(archive.extractfile("data/datalist.json"))
    assert kept["cq500_shapes"] == lists["cq500_shapes"]


def test_refusals(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InputRefused, match="full is not an empty folder"):
        pack_experiment("cardiac", data, tmp_path / "full", wheels=False)
    (data / "y.nii.gz").unlink()
    with pytest.raises(InputRefused, match=r"y\.nii\.gz does not exist"):
        pack_experiment("cardiac", data, tmp_path / "new", wheels=False)
    (data / "datalist.json").write_text('{"test": []}')
    assert main(["experiment", "pack", "--task", "cardiac", "--data", str(data), "-o", str(tmp_path / "p")]) == 2
    assert "has none of the lists train, val" in capsys.readouterr().err
