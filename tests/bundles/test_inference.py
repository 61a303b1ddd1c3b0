"""Each bundle's inference.json as users run it, with random weights: loading, refusals, names, the command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_kinds import Kind
from monai.bundle import ConfigWorkflow, load
from nifti_files import save

from convformer_monai.errors import InputRefused, find_refusal

Make = Callable[..., ConfigWorkflow]


def test_properties(workflow: Make) -> None:
    assert workflow().check_properties() == []


def test_every_image_gets_a_mask_of_its_size(kind: Kind, workflow: Make, tmp_path: Path) -> None:
    sizes = {"a": (40, 36), "odd and of a long name": (41, 37), "narrow": (90, 20)}
    images = [kind.write(tmp_path, name, size=size) for name, size in sizes.items()]
    workflow(datalist=list(map(str, images)), output_dir=str(tmp_path / "new" / "out")).run()
    masks = [kind.read_mask(tmp_path / "new" / "out", name) for name in sizes]
    for mask, size in zip(masks, sizes.values(), strict=True):
        assert mask.shape[:2] == size
        assert set(np.unique(mask)) <= set(range(kind.classes))
    assert any(len(np.unique(mask)) > 1 for mask in masks)
    assert len(list((tmp_path / "new" / "out").iterdir())) == len(images)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"datalist": []}, "NO_IMAGES"),
        ({"datalist": ["missing.nii.gz"]}, "FILE_NOT_FOUND"),
        ({"datalist": ["missing.png"]}, "FILE_NOT_FOUND"),
        ({"dataset_dir": "missing"}, "FOLDER_NOT_FOUND"),
        ({"dataset_dir": "empty"}, "NO_IMAGES"),
        ({"dataset_dir": 2024}, "FOLDER_NOT_FOUND"),
        ({"weights": "missing.pt", "datalist": ["x"]}, "WEIGHTS_NOT_FOUND"),
        ({"weights_sha256": "0" * 64, "datalist": ["x"]}, "WEIGHTS_HASH"),
        ({"datalist": ["nan.nii.gz"], "output_dir": "out"}, "NOT_FINITE"),
    ],
)
def test_refusals(
    kind: Kind, workflow: Make, tmp_path: Path, options: dict, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = kind.write(tmp_path, "x").name
    save(tmp_path / "nan.nii.gz", np.full((4, 4, 2), np.nan))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    options = {key: [image] if value == ["x"] else value for key, value in options.items()}
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps it
        workflow(**options).run()
    refusal = find_refusal(caught.value)
    assert isinstance(refusal, InputRefused) and refusal.code == code


def test_output_folder_whose_name_is_a_number(
    kind: Kind, workflow: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--output_dir 2024` reaches the config as an integer."""
    monkeypatch.chdir(tmp_path)
    workflow(datalist=[kind.write(tmp_path, "x").name], output_dir=2024).run()
    assert kind.read_mask(tmp_path / "2024", "x").size


def run_bundle(bundle_root: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m monai.bundle run` from a folder that is neither the bundle nor the repository."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"{bundle_root}/configs/inference.json"]
    command += ["--bundle_root", str(bundle_root), "--weights_sha256", "", "--device", "cpu", *arguments]
    path = os.pathsep.join([str(bundle_root.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_command(kind: Kind, bundle_root: Path, weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    kind.write(folder, "ünï cödé")
    ended = run_bundle(bundle_root, tmp_path, "--weights", str(weights), "--dataset_dir", "with a space",
                       "--output_dir", "with a space/out")  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert kind.read_mask(folder / "out", "ünï cödé").shape[:2] == (40, 36)
    assert "NvImgCodec" not in ended.stderr and "nvImageCodec" not in ended.stderr


@pytest.mark.slow
def test_command_that_is_refused_before_and_while_it_runs(bundle_root: Path, weights: Path, tmp_path: Path) -> None:
    data = np.zeros((20, 20, 2), np.float32)
    data[3, 4, 1] = np.nan  # not seen before the voxels are read
    save(tmp_path / "nan.nii.gz", data)
    files = [("nan", "NOT_FINITE")] + [("missing", "FILE_NOT_FOUND")] * bundle_root.name.startswith("cardiac")
    for name, code in files:
        ended = run_bundle(
            bundle_root, tmp_path, "--weights", str(weights), "--datalist", f"['{name}.nii.gz']", "--output_dir", "out"
        )
        assert ended.returncode == 2
        assert ended.stderr.splitlines()[-1].startswith(f"error[{code}]: ")
        assert not list(tmp_path.glob("out/*"))


def test_loads_by_name_from_anywhere(
    bundle_root: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "bundles" / bundle_root.name
    shutil.copytree(bundle_root / "configs", copy / "configs")
    (copy / "models").mkdir()
    shutil.copy(weights, copy / "models" / "model.pt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    net = load(bundle_root.name, bundle_dir=str(tmp_path / "bundles"), workflow_type="inference")
    expected = torch.load(weights, weights_only=True)
    assert net.state_dict().keys() == expected.keys()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, expected[name].to(value.dtype), rtol=0, atol=0)
