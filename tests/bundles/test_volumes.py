"""The inference.json of the bundles that take volumes, with random weights: any grid, any order, any phases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from bundle_kinds import VOLUMES, Kind, blobs
from monai.bundle import ConfigWorkflow
from nifti_files import SHORT_AXIS, affine, restored, save, trap

pytestmark = pytest.mark.parametrize("kind", VOLUMES, indirect=True)
Make = Callable[..., ConfigWorkflow]


def volume(kind: Kind, *shape: int) -> np.ndarray:
    """Smooth blobs of grey values that the bundle takes."""
    return (kind.grey[0] + blobs(*shape) * (kind.grey[1] - kind.grey[0])).astype(np.int16)


def segment(workflow: Make, images: list[Path], out: Path, **options: Any) -> list[nib.Nifti1Image]:
    run = workflow(datalist=list(map(str, images)), output_dir=str(out), **options)
    run.run()
    run.finalize()
    return [nib.load(out / f"{path.name.removesuffix('.gz').removesuffix('.nii')}_seg.nii.gz") for path in images]


def test_any_volume_gets_a_mask_on_its_own_grid(kind: Kind, workflow: Make, tmp_path: Path) -> None:
    images = [
        save(tmp_path / "plain.nii.gz", volume(kind, 40, 36, 3)),
        save(tmp_path / "uncompressed and odd.nii", volume(kind, 41, 37, 1), affine((1.3, 1.7, 10.0), SHORT_AXIS)),
        save(tmp_path / "cine.nii.gz", volume(kind, 30, 35, 4, 3), affine((1.8, 1.8, 8.0), SHORT_AXIS)),
        save(tmp_path / "fine.nii.gz", volume(kind, 150, 130, 2), affine((0.2, 0.2, 5.0))),
        save(tmp_path / "coarse.nii.gz", volume(kind, 12, 9, 2), affine((12.0, 12.0, 20.0))),
        save(tmp_path / "tiny.nii.gz", volume(kind, 1, 2, 3), affine((1.0, 1.0, 8.0))),
        save(tmp_path / "flat.nii.gz", np.full((20, 20, 2), 7, np.int16)),
        trap(tmp_path / "trap.nii.gz", volume(kind, 33, 31, 3)),
    ]
    before = [path.read_bytes() for path in images]
    for path, mask in zip(images, segment(workflow, images, tmp_path / "new" / "out"), strict=True):
        image = nib.load(path)
        assert mask.shape == image.shape and mask.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(mask.affine, image.affine)
        np.testing.assert_array_equal(mask.header["pixdim"][:4], image.header["pixdim"][:4])
        assert mask.header["qform_code"] == image.header["qform_code"]
        assert set(np.unique(mask.dataobj)) <= set(range(kind.classes))
    assert before == [path.read_bytes() for path in images]
    assert len(list((tmp_path / "new" / "out").iterdir())) == len(images)


def test_storage_order_does_not_matter(kind: Kind, workflow: Make, tmp_path: Path) -> None:
    data, matrix = volume(kind, 40, 36, 5, 2), affine((1.3, 1.4, 8.0), SHORT_AXIS)
    orders = [((0, 1, 2), ()), ((0, 1, 2), (0, 1)), ((2, 1, 0), (2,)), ((1, 2, 0), (0, 1)), ((2, 0, 1), (0, 1, 2))]
    images = []
    for number, (order, flips) in enumerate(orders):
        stored, stored_matrix = restored(data, matrix, order, flips)
        images.append(save(tmp_path / f"{number}.nii.gz", stored, stored_matrix))
    first, *others = segment(workflow, images, tmp_path / "out")
    plain = np.asanyarray(first.dataobj)
    assert len(np.unique(plain)) > 1
    for mask, (order, flips) in zip(others, orders[1:], strict=True):
        np.testing.assert_array_equal(np.asanyarray(mask.dataobj), restored(plain, matrix, order, flips)[0])


def test_phases_are_independent(kind: Kind, workflow: Make, tmp_path: Path) -> None:
    data = volume(kind, 40, 36, 3, 3)
    images = [save(tmp_path / "cine.nii.gz", data)]
    images += [save(tmp_path / f"phase{t}.nii.gz", np.ascontiguousarray(data[..., t])) for t in range(3)]
    whole, *alone = segment(workflow, images, tmp_path / "out", slice_batch_size=4)
    assert len(np.unique(whole.dataobj)) > 1
    for t, mask in enumerate(alone):
        np.testing.assert_array_equal(np.asanyarray(whole.dataobj)[..., t], np.asanyarray(mask.dataobj))


def test_only_what_the_network_is_made_for_decides(kind: Kind, workflow: Make, tmp_path: Path) -> None:
    """Cardiac MRI has no scale of intensities; CT has, and what lies beyond the bone window counts no more."""
    data = volume(kind, 40, 36, 3).astype(np.float32)
    if kind.name == "cardiac":
        other = data * 4096 - 1024
    else:
        data[:5] = 1000
        other = np.where(data >= 1000, 3000, data)
    grid = affine((1.0, 1.0, 8.0))
    images = [save(tmp_path / "a.nii.gz", data, grid), save(tmp_path / "b.nii.gz", other, grid)]
    first, second = (np.asanyarray(mask.dataobj) for mask in segment(workflow, images, tmp_path / "out"))
    assert len(np.unique(first)) > 1
    assert (first != second).mean() < 1e-3
