"""NIfTI as a series: phases, times, the header geometry that masks get, and what a hostile header cannot do."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_files import SHORT_AXIS, affine, save, trap

from convformer_monai.errors import InputRefused
from convformer_monai.readers.nifti import check_nifti, read_nifti

CINE = np.arange(7 * 6 * 5 * 3, dtype=np.int16).reshape(7, 6, 5, 3)


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(InputRefused) as caught:
        read_nifti(path, **options)
    assert "\n" not in str(caught.value) and str(path) in caught.value.message
    return caught.value.code


def test_volume(tmp_path: Path) -> None:
    matrix = affine((1.4, 1.2, 8.0), SHORT_AXIS)
    series = read_nifti(save(tmp_path / "x.nii.gz", CINE[..., 0], matrix))
    assert (series.format, series.modality, series.phases, series.phase_times_ms) == ("nifti", None, (0,), ())
    assert series.image.shape == (1, 7, 6, 5) and str(series.image.dtype) == "torch.float32"
    np.testing.assert_array_equal(series.image.numpy()[0], CINE[..., 0])
    np.testing.assert_allclose(series.affine, matrix, atol=1e-5)
    np.testing.assert_array_equal(series.image.meta["nifti"]["shape"], (7, 6, 5))


def test_phases(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz", CINE, pixdim=[1, 1.4, 1.4, 8, 0.04, 0, 0, 0])
    assert refusal(path) == "SEVERAL_PHASES"
    assert refusal(path, phase=3) == "PHASE_NOT_FOUND"
    every, second = read_nifti(path, phase="all"), read_nifti(path, phase=1)
    np.testing.assert_array_equal(every.image.numpy(), np.moveaxis(CINE, -1, 0))
    np.testing.assert_array_equal(second.image.numpy()[0], CINE[..., 1])
    assert (every.phases, second.phases) == ((0, 1, 2), (1,))
    np.testing.assert_allclose(every.phase_times_ms, (0, 40, 80), rtol=1e-6)
    np.testing.assert_allclose(second.phase_times_ms, (40,), rtol=1e-6)
    np.testing.assert_array_equal(second.image.meta["nifti"]["shape"], (7, 6, 5))
    with pytest.raises(ValueError, match="phase"):
        read_nifti(path, phase="ed")


def test_unknown_times_are_not_made_up(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz", CINE, xyzt_units=2, pixdim=[1, 1.4, 1.4, 8, 1, 0, 0, 0])
    assert read_nifti(path, phase="all").phase_times_ms == ()


def test_sform_without_scale_is_a_warning_of_the_series(tmp_path: Path) -> None:
    series = read_nifti(trap(tmp_path / "x.nii.gz", CINE[..., 0]))
    assert "pixdim" in series.warnings[0]
    np.testing.assert_allclose(series.affine, np.diag([-1.68, -1.68, 5.0, 1.0]), atol=1e-6)


def test_sheared_sform_is_kept(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", CINE[..., 0], qform_code=0, srow_y=[0, -1.4, 2.0, 55], srow_z=[0, 0, 8, -20])
    image = nib.load(path)
    image.header["pixdim"][3] = np.hypot(2.0, 8.0)
    nib.save(nib.Nifti1Image(CINE[..., 0], None, image.header), path)
    np.testing.assert_allclose(read_nifti(path).affine[:3, 2], (0, 2, 8), atol=1e-6)


def test_refuses_pairs(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(CINE[..., 0], affine()), tmp_path / "x.hdr")
    assert refusal(tmp_path / "x.hdr") == "NOT_NIFTI"
    (tmp_path / "x.nii").write_bytes((tmp_path / "x.hdr").read_bytes() + (tmp_path / "x.img").read_bytes())
    assert refusal(tmp_path / "x.nii") == "NOT_NIFTI"


def test_content_decides_whether_it_is_compressed(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", CINE[..., 0])
    path.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(read_nifti(path).image.numpy()[0], CINE[..., 0])


def test_nifti_2(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(CINE[..., 0], affine()), tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "x.nii.gz").image.numpy()[0], CINE[..., 0])


def test_extensions_are_not_parsed(tmp_path: Path) -> None:
    image = nib.Nifti1Image(CINE[..., 0], affine())
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE"))
    nib.save(image, tmp_path / "x.nii")
    content = bytearray((tmp_path / "x.nii").read_bytes())
    content[352:356] = (-8).to_bytes(4, "little", signed=True)  # a size that makes nibabel read to the end
    (tmp_path / "x.nii").write_bytes(content)
    series = read_nifti(tmp_path / "x.nii")
    np.testing.assert_array_equal(series.image.numpy()[0], CINE[..., 0])
    assert "DOE" not in repr(series.image.meta)


@pytest.mark.parametrize("offset", [np.nan, np.inf, -16.0, 0.0, 1e12])
def test_refuses_absurd_places_of_the_voxels(tmp_path: Path, offset: float) -> None:
    assert refusal(save(tmp_path / "x.nii.gz", CINE[..., 0], vox_offset=offset)) == "NIFTI_UNREADABLE"


def test_the_header_alone_can_be_checked(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", CINE[..., 0])
    path.write_bytes(path.read_bytes()[:400])
    check_nifti(path)
    with pytest.raises(InputRefused, match="SPACING"):
        check_nifti(save(tmp_path / "y.nii", CINE[..., 0], affine((0.01, 1, 1))))
