"""Masks of series: the geometry as other readers see it, sheared ones too, and the PNG of photographs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nifti_files import SHORT_AXIS, affine, save, trap
from PIL import Image

from convformer_monai.errors import InputRefused
from convformer_monai.outputs.nifti import write_mask
from convformer_monai.outputs.png import write_png_mask
from convformer_monai.readers import SeriesReader
from convformer_monai.readers.nifti import read_nifti
from convformer_monai.readers.series import ImageSeries

GEOMETRY = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "pixdim")
GEOMETRY += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")
OBLIQUE = affine((1.4, 1.2, 8.0), SHORT_AXIS)
SHEARED = OBLIQUE @ np.array([[1, 0, 0, 0], [0, 1, 0.9, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
SIZE = (7, 6, 5)


def series_of(shape: tuple[int, ...] = (1, *SIZE), matrix: np.ndarray = OBLIQUE, **fields: object) -> ImageSeries:
    image = MetaTensor(torch.zeros(shape), affine=torch.from_numpy(matrix))
    options: dict = {"format": "dicom", "path": Path("case"), "phases": tuple(range(shape[0]))}
    return ImageSeries(image, **(options | fields))


def photo(spacing: float = 1.0, known: bool = False) -> ImageSeries:
    image = MetaTensor(torch.zeros(3, 9, 4, dtype=torch.uint8), affine=torch.diag(torch.tensor([spacing] * 3 + [1.0])))
    return ImageSeries(image, format="photo", path=Path("photo.jpg"), spacing_known=known)


def from_nifti(path: Path, phases: tuple[int, ...] | None = None) -> ImageSeries:
    series = read_nifti(path, phase="all")
    if phases is None:
        return series
    image = MetaTensor(series.image.as_tensor()[list(phases)]).copy_meta_from(series.image)
    return replace(series, image=image, phases=phases)


def labels_of(series: ImageSeries, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, classes + 1, series.image.shape).astype(np.uint8)


class TestVolumes:
    def test_affine_is_sform_and_qform(self, tmp_path: Path) -> None:
        series = series_of()
        write_mask(tmp_path / "x.nii.gz", labels_of(series), series)
        mask = nib.load(tmp_path / "x.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(mask.dataobj), labels_of(series)[0])
        for matrix, code in (mask.get_sform(coded=True), mask.get_qform(coded=True)):
            assert code == 1
            np.testing.assert_allclose(matrix, OBLIQUE, atol=1e-5)
        assert mask.get_data_dtype() == np.uint8 and mask.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(mask.header.get_zooms(), (1.4, 1.2, 8.0), rtol=1e-6)

    def test_a_sheared_affine_is_kept_and_is_no_qform(self, tmp_path: Path) -> None:
        series = series_of(matrix=SHEARED)
        write_mask(tmp_path / "x.nii", labels_of(series), series)
        mask = nib.load(tmp_path / "x.nii")
        np.testing.assert_array_equal(mask.affine, SHEARED.astype(np.float32))
        assert mask.header["sform_code"] == 1 and mask.header["qform_code"] == 0
        np.testing.assert_allclose(mask.header.get_zooms(), np.linalg.norm(SHEARED[:3, :3], axis=0), rtol=1e-6)
        np.testing.assert_allclose(SeriesReader().get_data(tmp_path / "x.nii")[1]["affine"], SHEARED, atol=1e-5)

    def test_phases_come_last(self, tmp_path: Path) -> None:
        series = series_of((3, *SIZE))
        write_mask(tmp_path / "x.nii.gz", labels_of(series), series)
        mask = nib.load(tmp_path / "x.nii.gz")
        np.testing.assert_array_equal(np.moveaxis(np.asanyarray(mask.dataobj), -1, 0), labels_of(series))
        assert mask.header.get_xyzt_units() == ("mm", "sec")

    def test_one_slice_of_one_phase(self, tmp_path: Path) -> None:
        series = series_of((1, 7, 6, 1))
        write_mask(tmp_path / "x.nii.gz", labels_of(series), series)
        assert nib.load(tmp_path / "x.nii.gz").shape == (7, 6, 1)

    def test_spaces_and_unicode_in_the_path(self, tmp_path: Path) -> None:
        folder = tmp_path / "Übung 1 $@%#"
        folder.mkdir()
        write_mask(folder / "心臓 a.b.nii.gz", labels_of(series_of()), series_of())
        assert nib.load(folder / "心臓 a.b.nii.gz").shape == SIZE and len(list(folder.iterdir())) == 1

    def test_exists(self, tmp_path: Path) -> None:
        path = tmp_path / "x.nii.gz"
        write_mask(path, labels_of(series_of()), series_of())
        before = path.read_bytes()
        with pytest.raises(InputRefused, match="EXISTS.*--overwrite"):
            write_mask(path, np.zeros_like(labels_of(series_of())), series_of())
        assert path.read_bytes() == before
        write_mask(path, np.zeros_like(labels_of(series_of())), series_of(), overwrite=True)
        assert not np.asanyarray(nib.load(path).dataobj).any()

    def test_wrong_arguments(self, tmp_path: Path) -> None:
        series = series_of()
        for wrong in (labels_of(series)[0], labels_of(series).swapaxes(1, 2)):
            with pytest.raises(ValueError, match=r"shape of the series, \(1, 7, 6, 5\), got"):
                write_mask(tmp_path / "x.nii", wrong, series)
        with pytest.raises(ValueError, match="whole numbers"):
            write_mask(tmp_path / "x.nii", labels_of(series) * 0.5, series)
        with pytest.raises(ValueError, match=r"\.nii or \.nii\.gz, got 'x\.mha'"):
            write_mask(tmp_path / "x.mha", labels_of(series), series)
        assert not list(tmp_path.iterdir())


class TestNiftiInputs:
    @pytest.mark.parametrize("name", ["oblique", "qform only", "trap", "cine", "one phase"])
    def test_header_of_the_input(self, tmp_path: Path, name: str) -> None:
        voxels = np.random.default_rng(0).integers(0, 1000, (*SIZE, 3)).astype(np.int16)
        source = {
            "oblique": lambda path: save(path, voxels[..., 0], OBLIQUE, qform_code=1, sform_code=2),
            "qform only": lambda path: save(path, voxels[..., 0], OBLIQUE, sform_code=0),
            "trap": lambda path: trap(path, voxels[..., 0]),
            "cine": lambda path: save(path, voxels, OBLIQUE, xyzt_units=2 | 16),
            "one phase": lambda path: save(path, voxels[..., :1], OBLIQUE),
        }[name](tmp_path / "in.nii.gz")
        series = from_nifti(source)
        write_mask(tmp_path / "x.nii.gz", labels_of(series), series)
        mask, image = nib.load(tmp_path / "x.nii.gz"), nib.load(source)
        assert mask.shape == image.shape
        np.testing.assert_array_equal(mask.affine, image.affine)
        for field in GEOMETRY:
            found, wanted = (np.atleast_1d(one.header[field])[:5] for one in (mask, image))
            np.testing.assert_array_equal(found, wanted, err_msg=field)
        assert mask.header.get_xyzt_units()[0] == "mm"

    @pytest.mark.parametrize("phases", [(1,), (0, 2)])
    def test_chosen_phases_of_a_cine(self, tmp_path: Path, phases: tuple[int, ...]) -> None:
        source = save(tmp_path / "in.nii.gz", np.zeros((*SIZE, 3), np.int16), OBLIQUE)
        series = from_nifti(source, phases)
        write_mask(tmp_path / "x.nii.gz", labels_of(series), series)
        mask = nib.load(tmp_path / "x.nii.gz")
        assert mask.shape == (SIZE if len(phases) == 1 else (*SIZE, 2))
        np.testing.assert_array_equal(mask.affine, nib.load(source).affine)


class TestPhotographs:
    def test_png(self, tmp_path: Path) -> None:
        labels = np.random.default_rng(0).integers(0, 2, (9, 4)).astype(np.uint8)
        write_png_mask(tmp_path / "x.png", labels, photo())
        with Image.open(tmp_path / "x.png") as image:
            assert image.mode == "L" and image.size == (9, 4) and image.format == "PNG"
            np.testing.assert_array_equal(np.asarray(image), labels.T * 255)

    @pytest.mark.parametrize("known", [True, False])
    def test_nifti_by_option(self, tmp_path: Path, known: bool) -> None:
        series = photo(0.1, known)
        labels = np.random.default_rng(0).integers(0, 2, (9, 4)).astype(np.uint8)
        write_mask(tmp_path / "x.nii.gz", labels, series)
        mask = nib.load(tmp_path / "x.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(mask.dataobj), labels[..., None])
        assert mask.header.get_xyzt_units()[0] == ("mm" if known else "unknown")

    def test_wrong_arguments(self, tmp_path: Path) -> None:
        labels = np.zeros((9, 4), np.uint8)
        with pytest.raises(ValueError, match=r"\(9, 4\), got \(4, 9\)"):
            write_png_mask(tmp_path / "x.png", labels.T, photo())
        with pytest.raises(ValueError, match="0 and 1 for a PNG mask, got 2"):
            write_png_mask(tmp_path / "x.png", labels + np.uint8(2), photo())
        with pytest.raises(ValueError, match=r"\.png, got 'x\.jpg'"):
            write_png_mask(tmp_path / "x.jpg", labels, photo())
        with pytest.raises(ValueError, match="must be a photograph"):
            write_png_mask(tmp_path / "x.png", labels, series_of())
        write_png_mask(tmp_path / "x.png", labels, photo())
        with pytest.raises(InputRefused, match="EXISTS"):
            write_png_mask(tmp_path / "x.png", labels, photo())
