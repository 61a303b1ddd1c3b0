"""The cardiac bundle's inference.json as users run it, with random weights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, load
from nifti_files import SHORT_AXIS, affine, restored, save, trap
from torch import nn

from convformer_monai.bundles import component
from convformer_monai.errors import InputRefused, find_refusal


@pytest.fixture
def weights(bundle_root: Path, tmp_path: Path, randomise: Callable[..., nn.Module]) -> Path:
    """Random weights, so that no test depends on the trained ones, whose classes all win somewhere."""
    net = randomise(component(bundle_root, "inference", "network_def")).eval()
    with torch.no_grad():
        logits = net(torch.from_numpy(cine(40, 36, 1)).float().permute(2, 0, 1)[None] / 400 - 1.5)
        net.heads[-1][-1].bias -= logits.mean(dim=(0, 2, 3))
    path = tmp_path / "random.pt"
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}, path)
    return path


def cine(*shape: int) -> np.ndarray:
    """Smooth blobs of different brightness, a new pattern in each phase."""
    grid = np.meshgrid(*(np.linspace(0, 6, n) for n in shape[:3]), indexing="ij")
    phases = [
        np.sin(grid[0] + k) * np.cos(1.3 * grid[1] - k) + 0.3 * np.sin(grid[2] + 2 * k) + np.exp(-((grid[0] - 2) ** 2))
        for k in range(shape[3] if len(shape) == 4 else 1)
    ]
    data = np.stack(phases, axis=-1) * 400 + 500
    return (data if len(shape) == 4 else data[..., 0]).astype(np.int16)


def workflow(bundle_root: Path, random_weights: Path, **options: Any) -> ConfigWorkflow:
    configs = bundle_root / "configs"
    defaults = {"bundle_root": str(bundle_root), "weights": str(random_weights), "weights_sha256": "", "device": "cpu"}
    options = {**defaults, **options}
    made = ConfigWorkflow(
        str(configs / "inference.json"), str(configs / "metadata.json"), False, workflow_type="infer", **options
    )
    made.initialize()
    return made


def segment(bundle_root: Path, weights: Path, images: list[Path], out: Path, **options: Any) -> list[nib.Nifti1Image]:
    run = workflow(bundle_root, weights, datalist=list(map(str, images)), output_dir=str(out), **options)
    run.run()
    run.finalize()
    return [nib.load(out / f"{path.name.removesuffix('.gz').removesuffix('.nii')}_seg.nii.gz") for path in images]


def test_properties(bundle_root: Path, weights: Path) -> None:
    assert workflow(bundle_root, weights).check_properties() == []


def test_any_volume_gets_a_mask_on_its_own_grid(bundle_root: Path, weights: Path, tmp_path: Path) -> None:
    images = [
        save(tmp_path / "plain.nii.gz", cine(40, 36, 3)),
        save(tmp_path / "uncompressed and odd.nii", cine(41, 37, 1), affine((1.3, 1.7, 10.0), SHORT_AXIS)),
        save(tmp_path / "cine.nii.gz", cine(30, 35, 4, 3), affine((1.8, 1.8, 8.0), SHORT_AXIS)),
        save(tmp_path / "fine.nii.gz", cine(150, 130, 2), affine((0.2, 0.2, 5.0))),
        save(tmp_path / "coarse.nii.gz", cine(12, 9, 2), affine((12.0, 12.0, 20.0))),
        save(tmp_path / "tiny.nii.gz", cine(1, 2, 3), affine((1.0, 1.0, 8.0))),
        save(tmp_path / "flat.nii.gz", np.full((20, 20, 2), 7, np.int16)),
        trap(tmp_path / "trap.nii.gz", cine(33, 31, 3)),
    ]
    before = [path.read_bytes() for path in images]
    for path, mask in zip(images, segment(bundle_root, weights, images, tmp_path / "new" / "out"), strict=True):
        image = nib.load(path)
        assert mask.shape == image.shape and mask.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(mask.affine, image.affine)
        np.testing.assert_array_equal(mask.header["pixdim"][:4], image.header["pixdim"][:4])
        assert mask.header["qform_code"] == image.header["qform_code"]
        assert set(np.unique(mask.dataobj)) <= {0, 1, 2, 3}
    assert before == [path.read_bytes() for path in images]
    assert len(list((tmp_path / "new" / "out").iterdir())) == len(images)


def test_storage_order_does_not_matter(bundle_root: Path, weights: Path, tmp_path: Path) -> None:
    data, matrix = cine(40, 36, 5, 2), affine((1.3, 1.4, 8.0), SHORT_AXIS)
    orders = [((0, 1, 2), ()), ((0, 1, 2), (0, 1)), ((2, 1, 0), (2,)), ((1, 2, 0), (0, 1)), ((2, 0, 1), (0, 1, 2))]
    images = []
    for number, (order, flips) in enumerate(orders):
        stored, stored_matrix = restored(data, matrix, order, flips)
        images.append(save(tmp_path / f"{number}.nii.gz", stored, stored_matrix))
    first, *others = segment(bundle_root, weights, images, tmp_path / "out")
    plain = np.asanyarray(first.dataobj)
    assert len(np.unique(plain)) > 1
    for mask, (order, flips) in zip(others, orders[1:], strict=True):
        np.testing.assert_array_equal(np.asanyarray(mask.dataobj), restored(plain, matrix, order, flips)[0])


def test_phases_are_independent(bundle_root: Path, weights: Path, tmp_path: Path) -> None:
    data = cine(40, 36, 3, 3)
    images = [save(tmp_path / "cine.nii.gz", data)]
    images += [save(tmp_path / f"phase{t}.nii.gz", np.ascontiguousarray(data[..., t])) for t in range(3)]
    whole, *alone = segment(bundle_root, weights, images, tmp_path / "out", slice_batch_size=4)
    assert len(np.unique(whole.dataobj)) > 1
    for t, mask in enumerate(alone):
        np.testing.assert_array_equal(np.asanyarray(whole.dataobj)[..., t], np.asanyarray(mask.dataobj))


def test_scale_of_intensities_does_not_matter(bundle_root: Path, weights: Path, tmp_path: Path) -> None:
    data = cine(40, 36, 3).astype(np.float32)
    images = [save(tmp_path / "a.nii.gz", data), save(tmp_path / "b.nii.gz", data * 4096 - 1024)]
    first, second = (np.asanyarray(mask.dataobj) for mask in segment(bundle_root, weights, images, tmp_path / "out"))
    assert (first != second).mean() < 1e-3


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"datalist": []}, "NO_IMAGES"),
        ({"datalist": ["missing.nii.gz"]}, "FILE_NOT_FOUND"),
        ({"dataset_dir": "missing"}, "FOLDER_NOT_FOUND"),
        ({"dataset_dir": "empty"}, "NO_IMAGES"),
        ({"dataset_dir": 2024}, "FOLDER_NOT_FOUND"),
        ({"weights": "missing.pt", "datalist": ["x.nii.gz"]}, "WEIGHTS_NOT_FOUND"),
        ({"weights_sha256": "0" * 64, "datalist": ["x.nii.gz"]}, "WEIGHTS_HASH"),
        ({"datalist": ["nan.nii.gz"], "output_dir": "out"}, "NOT_FINITE"),
    ],
)
def test_refusals(
    bundle_root: Path, weights: Path, tmp_path: Path, options: dict, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x", "nan"):
        save(tmp_path / f"{name}.nii.gz", np.full((4, 4, 2), np.nan if name == "nan" else 1.0))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    run = workflow(bundle_root, weights, **options)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps it
        run.run()
    refusal = find_refusal(caught.value)
    assert isinstance(refusal, InputRefused) and refusal.code == code


def test_output_folder_whose_name_is_a_number(
    bundle_root: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--output_dir 2024` reaches the config as an integer."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "x.nii.gz", cine(20, 20, 2))
    workflow(bundle_root, weights, datalist=["x.nii.gz"], output_dir=2024).run()
    assert (tmp_path / "2024" / "x_seg.nii.gz").is_file()


def run_bundle(bundle_root: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`python -m monai.bundle run` from a folder that is neither the bundle nor the repository."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", f"{bundle_root}/configs/inference.json"]
    command += ["--bundle_root", str(bundle_root), "--weights_sha256", "", "--device", "cpu", *arguments]
    path = os.pathsep.join([str(bundle_root.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_command(bundle_root: Path, weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "with a space"
    folder.mkdir()
    save(folder / "ünï cödé.nii.gz", cine(40, 36, 3, 2), affine((1.3, 1.4, 8.0), SHORT_AXIS))
    ended = run_bundle(bundle_root, tmp_path, "--weights", str(weights), "--dataset_dir", "with a space",
                       "--output_dir", "with a space/out")  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert nib.load(folder / "out" / "ünï cödé_seg.nii.gz").shape == (40, 36, 3, 2)
    assert "NvImgCodec" not in ended.stderr and "nvImageCodec" not in ended.stderr


@pytest.mark.slow
def test_command_that_is_refused_before_and_while_it_runs(bundle_root: Path, weights: Path, tmp_path: Path) -> None:
    data = cine(20, 20, 2).astype(np.float32)
    data[3, 4, 1] = np.nan  # not seen before the voxels are read
    save(tmp_path / "nan.nii.gz", data)
    for datalist, code in (("['missing.nii.gz']", "FILE_NOT_FOUND"), ("['nan.nii.gz']", "NOT_FINITE")):
        ended = run_bundle(
            bundle_root, tmp_path, "--weights", str(weights), "--datalist", datalist, "--output_dir", "out"
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
