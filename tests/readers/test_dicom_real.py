"""Real scans, which are not part of the repository: see `data_dir`."""

from pathlib import Path

import numpy as np
import pytest
from dicom_checks import check_refused, lps, read_series
from pydicom import dcmread


@pytest.fixture(scope="module")
def scans(data_dir: Path) -> Path:
    folder = data_dir / "dicom"
    if not folder.is_dir():
        pytest.skip(f"needs the real DICOM files, and there are none at {folder}")
    return folder


def test_tilted_uneven_head(scans: Path) -> None:
    """GE head CT, tilted by 18.5 degrees; 14 slices 4.22 mm apart (along the table), a step of 1.14 mm, then 7.4 mm."""
    folder = scans / "head_ct_gantry_tilt"
    check_refused(folder, "UNEVEN_SPACING", "--resample-uneven", modality="CT")
    series = read_series(folder, modality="CT", resample_uneven=True)
    assert series.image.shape[:3] == (1, 512, 512) and series.modality == "CT" and series.warnings
    step = series.affine[:3, 2]
    np.testing.assert_allclose(step / np.linalg.norm(step), [0, 0, 1], atol=1e-6)  # the table moves along S
    cosine = np.cross(*series.affine[:3, :2].T) @ [0, 0, 1] / 0.4882812**2
    assert abs(np.degrees(np.arccos(abs(cosine))) - 18.5) < 0.01, "the slices lean as the header says"
    assert len(series.frames[0]) == 28
    for frame in series.frames[0]:
        place = lps(series.affine, np.array([0, 0, frame.slice_index]))
        np.testing.assert_allclose(frame.position, place, atol=1e-3)
        if frame.slice_index == round(frame.slice_index):
            source = dcmread(frame.path)
            hounsfield = source.pixel_array.astype(float) * source.RescaleSlope + source.RescaleIntercept
            hounsfield[source.pixel_array == source.PixelPaddingValue] = -1024
            np.testing.assert_array_equal(series.image[0, :, :, round(frame.slice_index)].numpy(), hounsfield.T)
    assert series.image.min() >= -1024


def test_single_spaced_part_of_the_head(scans: Path, tmp_path: Path) -> None:
    for number in range(1, 15):
        (tmp_path / f"{number}").symlink_to(scans / "head_ct_gantry_tilt" / f"{number:02d}.dcm")
    series = read_series(tmp_path, modality="CT")
    assert series.image.shape == (1, 512, 512, 14)
    np.testing.assert_allclose(series.affine[:3, 2], [0, 0, 4.22], atol=1e-4)


def test_incomplete_cine(scans: Path) -> None:
    """20 phases at one level; at the two others 0 and 322 ms, and the first two."""
    lacking = ("slice 0 has 2 of 20 (without 1-6, 8-19)", "slice 1 has 2 of 20 (without 2-19)")
    for phase in (None, 0, "all"):
        check_refused(scans / "cardiac_cine_one_level", "INCOMPLETE_PHASES", *lacking, phase=phase)


def test_complete_part_of_the_cine(scans: Path, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}").symlink_to(scans / "cardiac_cine_one_level" / f"P09-{number:04d}.dcm")
    series = read_series(tmp_path, phase="all", modality="MR")
    assert series.image.shape == (20, 216, 256, 1)
    np.testing.assert_allclose(series.phase_times_ms, 48.75 * np.arange(20))
    for phase, frames in enumerate(series.frames):
        assert frames[0].path.name == str(phase)


def test_incomplete_levels(scans: Path) -> None:
    """Trigger times 348 and 929 ms at the four middle levels; the first lacks the one, the last the other."""
    folder = scans / "cardiac_cine_levels"
    check_refused(folder, "INCOMPLETE_PHASES", "slice 0 has 1 of 2", "slice 5 has 1 of 2", phase="all")


def test_complete_levels(scans: Path, tmp_path: Path) -> None:
    numbers = {348: (28, 48, 68, 88), 929: (40, 60, 80, 100)}
    for number in (*numbers[348], *numbers[929]):
        name = f"IM-0009-{number:04d}.dcm"
        (tmp_path / name).symlink_to(scans / "cardiac_cine_levels" / name)
    series = read_series(tmp_path, phase="all", modality="MR")
    assert series.image.shape == (2, 256, 256, 4) and series.phase_times_ms == (348, 929)
    assert np.linalg.norm(series.affine[:3, :3], axis=0) == pytest.approx([1.3672, 1.3672, 8.0], abs=1e-3)
    found = [{int(frame.path.stem[-4:]) for frame in frames} for frames in series.frames]
    assert found == [set(numbers[348]), set(numbers[929])]


def test_levels_of_one_time_are_a_volume_only_if_they_are_of_one_time(scans: Path, tmp_path: Path) -> None:
    """One file a level, but the first of them at another time: a heart that never was."""
    for number in (20, 28, 48, 68, 88, 108):
        name = f"IM-0009-{number:04d}.dcm"
        (tmp_path / name).symlink_to(scans / "cardiac_cine_levels" / name)
    check_refused(tmp_path, "INCOMPLETE_PHASES")
    (tmp_path / "IM-0009-0020.dcm").unlink()
    assert read_series(tmp_path).image.shape == (1, 256, 256, 5)


def test_mosaic(scans: Path) -> None:
    check_refused(scans / "mosaic", "MOSAIC", "tiled", "dcm2niix", modality="MR")
