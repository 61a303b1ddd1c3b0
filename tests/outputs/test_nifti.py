"""Masks on disk: the input's geometry to the bit, uint8, all or nothing."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import EnsureChannelFirst, LoadImage, SaveImaged
from nifti_files import SHORT_AXIS, affine, save, trap

from convformer_monai.readers import SeriesReader
from convformer_monai.saving import MaskWriter

NAMES = ["plain", "oblique", "qform only", "sform only", "codes", "trap", "cine", "one slice", "cine of one slice"]
NAMES += ["one phase", "one voxel", "dots and spaces"]
GEOMETRY = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d")
GEOMETRY += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")


def write_mask_of(path: Path, folder: Path) -> Path:
    """Loads an image, and saves a mask of it as the bundle does."""
    image = EnsureChannelFirst()(LoadImage(reader=SeriesReader)(path))
    labels = MetaTensor((image.as_tensor() % 4).to(torch.uint8)).copy_meta_from(image)
    saver = SaveImaged(
        "pred",
        output_dir=folder,
        output_postfix="seg",
        output_dtype="uint8",
        separate_folder=False,
        print_log=False,
        writer="convformer_monai.saving.MaskWriter",
    )
    saver({"pred": labels})
    return folder / f"{path.name.removesuffix('.nii.gz')}_seg.nii.gz"


def volume(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, shape).astype(np.int16)


def inputs(folder: Path) -> dict[str, Path]:
    oblique = affine((1.4, 1.2, 8.0), SHORT_AXIS)
    return {
        "plain": save(folder / "plain.nii.gz", volume(7, 6, 5)),
        "oblique": save(folder / "oblique.nii.gz", volume(7, 6, 5), oblique),
        "qform only": save(folder / "q.nii.gz", volume(7, 6, 5), oblique, sform_code=0, srow_x=[0, 0, 0, 0]),
        "sform only": save(folder / "s.nii.gz", volume(7, 6, 5), oblique, qform_code=0, quatern_b=0.1),
        "codes": save(folder / "codes.nii.gz", volume(7, 6, 5), oblique, qform_code=1, sform_code=2),
        "trap": trap(folder / "trap.nii.gz", volume(7, 6, 5)),
        "cine": save(folder / "cine.nii.gz", volume(7, 6, 5, 3), oblique),
        "one slice": save(folder / "slice.nii.gz", volume(7, 6, 1)),
        "cine of one slice": save(folder / "cine1.nii.gz", volume(7, 6, 1, 3)),
        "one phase": save(folder / "phase.nii.gz", volume(7, 6, 5, 1)),
        "one voxel": save(folder / "voxel.nii.gz", volume(1, 1, 1)),
        "dots and spaces": save(folder / "a b.c d.nii.gz", volume(7, 6, 5)),
    }


@pytest.mark.parametrize("name", NAMES)
def test_geometry_of_the_input(tmp_path: Path, name: str) -> None:
    source = inputs(tmp_path)[name]
    image, mask = nib.load(source), nib.load(write_mask_of(source, tmp_path / "out"))
    assert mask.shape == image.shape and mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), np.asanyarray(image.dataobj) % 4)
    np.testing.assert_array_equal(mask.affine, image.affine)
    for field in GEOMETRY:
        np.testing.assert_array_equal(mask.header[field], image.header[field], err_msg=field)
    np.testing.assert_array_equal(mask.header["pixdim"][:5], image.header["pixdim"][:5])
    assert mask.header.get_xyzt_units()[0] == "mm"
    if len(image.shape) > 3:
        assert mask.header.get_xyzt_units()[1] == "sec"


def test_time_unit_of_a_cine_is_kept(tmp_path: Path) -> None:
    pixdim = [1, 1.4, 1.4, 8, 33, 0, 0, 0]
    source = save(tmp_path / "x.nii.gz", volume(7, 6, 5, 3), pixdim=pixdim, xyzt_units=2 | 16)
    mask = nib.load(write_mask_of(source, tmp_path / "out"))
    assert mask.header.get_xyzt_units() == ("mm", "msec") and mask.header["pixdim"][4] == 33


def test_images_of_other_readers_get_their_affine(tmp_path: Path) -> None:
    writer = MaskWriter()
    writer.set_data_array(torch.ones(1, 4, 3, 2))
    writer.set_metadata({"affine": torch.from_numpy(affine((1.4, 1.2, 8.0), SHORT_AXIS))})
    writer.write(tmp_path / "x.nii.gz")
    mask = nib.load(tmp_path / "x.nii.gz")
    for matrix in (mask.get_sform(), mask.get_qform()):
        np.testing.assert_allclose(matrix, affine((1.4, 1.2, 8.0), SHORT_AXIS), atol=1e-5)
    assert mask.header["sform_code"] == mask.header["qform_code"] == 1


def test_nothing_else_of_the_input_leaks(tmp_path: Path) -> None:
    source = save(tmp_path / "x.nii.gz", volume(4, 4, 4), descrip=b"DOE^JANE", aux_file=b"DOE^JANE", db_name=b"DOE")
    path = write_mask_of(source, tmp_path / "out")
    assert b"DOE" not in gzip.decompress(path.read_bytes()) and b"partial" not in path.read_bytes()


def test_same_mask_same_bytes(tmp_path: Path) -> None:
    source = save(tmp_path / "x.nii.gz", volume(4, 4, 4))
    first, second = (write_mask_of(source, tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def writer_of(data: np.ndarray, source: Path) -> MaskWriter:
    _, meta = SeriesReader().get_data(source)
    writer = MaskWriter()
    writer.set_data_array(data, channel_dim=None)
    writer.set_metadata(meta)
    return writer


@pytest.mark.parametrize("data", [np.full((4, 4, 4), 256), np.full((4, 4, 4), -1), np.full((4, 4, 4), 0.5)])
def test_only_labels_are_written(tmp_path: Path, data: np.ndarray) -> None:
    writer = writer_of(data, save(tmp_path / "x.nii.gz", volume(4, 4, 4)))
    with pytest.raises(ValueError, match="whole numbers"):
        writer.write(tmp_path / "y.nii.gz")
    assert not (tmp_path / "y.nii.gz").exists()


def test_mask_must_be_on_the_grid_of_its_input(tmp_path: Path) -> None:
    source = save(tmp_path / "x.nii.gz", volume(4, 6, 5))
    with pytest.raises(ValueError, match="shape"):
        writer_of(np.zeros((6, 4, 5)), source).write(tmp_path / "y.nii.gz")
    moved = writer_of(np.zeros((4, 6, 5)), source)
    moved.meta = {**moved.meta, "affine": affine((1.5, 1.5, 8.0))}
    with pytest.raises(ValueError, match="grid"):
        moved.write(tmp_path / "y.nii.gz")
    with pytest.raises(ValueError, match="resample"):
        moved.set_metadata({}, resample=True)


@pytest.mark.parametrize("failing", ["os.replace", "os.fsync", "nibabel.Nifti1Image.from_filename"])
def test_a_failure_leaves_nothing_and_keeps_the_old(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, old = save(tmp_path / "x.nii.gz", volume(4, 4, 4)), tmp_path / "out" / "y.nii.gz"
    old.parent.mkdir()
    old.write_bytes(b"old")
    writer = writer_of(np.ones((4, 4, 4)), source)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match="no space"):
        writer.write(old)
    assert [path.name for path in old.parent.iterdir()] == ["y.nii.gz"] and old.read_bytes() == b"old"


def test_what_was_written_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "x.nii.gz", volume(4, 4, 4))
    other = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    writer = writer_of(np.ones((4, 4, 4)), source)
    monkeypatch.setattr("nibabel.Nifti1Image.from_filename", lambda path: other)
    with pytest.raises(OSError, match="what was written"):
        writer.write(tmp_path / "y.nii.gz")
    assert not list(tmp_path.glob("*y.nii*"))
