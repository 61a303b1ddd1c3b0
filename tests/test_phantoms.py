"""Phantoms: the truth is exact, follows the geometry, and the images look like what the nets were trained on."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from convformer_monai.cli import main
from convformer_monai.phantoms import CardiacAnatomy, Phantom, cardiac_phantom

RV, MYO, LV = 1, 2, 3
COARSE = {"shape": (80, 72, 8), "spacing": (2.5, 2.5, 12.0)}  # the whole heart, quick to make


def centroid_mm(phantom: Phantom, structure: int) -> NDArray[np.float64]:
    index = np.argwhere(phantom.label == structure).mean(axis=0)
    return nib.affines.apply_affine(phantom.affine, index)


@pytest.fixture(scope="module")
def default() -> Phantom:
    return cardiac_phantom()


@pytest.fixture(scope="module")
def fine() -> Phantom:
    return cardiac_phantom(shape=(86, 76, 58), spacing=(2.0, 2.0, 2.0))


@pytest.fixture(scope="module")
def cine() -> Phantom:
    return cardiac_phantom(**COARSE, num_phases=6)


def test_same_seed_same_phantom_other_seed_another() -> None:
    first, again, other = (cardiac_phantom(**COARSE, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.label, again.label)
    assert not np.array_equal(first.label, other.label)
    assert first.volume_ml("LV") != other.volume_ml("LV")


def test_default_is_like_the_data(default: Phantom) -> None:
    assert default.image.shape == default.label.shape == (216, 256, 10)
    assert default.image.dtype == np.int16 and default.label.dtype == np.uint8
    assert np.array_equal(default.affine[:3, :3], np.diag([-1.5, -1.5, 10.0]))
    assert default.image.min() == 0 and default.image.max() == 1000
    mean = [default.image[default.label == structure].mean() for structure in (RV, MYO, LV)]
    # between the 5th and 95th percentile of the ACDC patients
    assert 320 < mean[0] < 770 and 157 < mean[1] < 458 and 413 < mean[2] < 828
    assert mean[1] < 0.5 * min(mean[0], mean[2])
    x, y = np.argwhere(default.label == LV).mean(axis=0)[:2] * 1.5 - (np.array([215, 255]) / 2) * 1.5
    assert abs(x) < 25 and abs(y) < 25


@pytest.mark.parametrize(("name", "structure"), [("RV", RV), ("MYO", MYO), ("LV", LV)])
def test_voxels_count_up_to_the_true_volume(fine: Phantom, name: str, structure: int) -> None:
    counted = (fine.label == structure).sum() * 8.0 / 1000
    assert counted == pytest.approx(fine.volume_ml(name), rel=0.02)
    assert 50 < fine.volume_ml(name) < 250


def test_true_volumes_at_end_systole_match_the_truth_anywhere_in_the_patient() -> None:
    anatomy = replace(CardiacAnatomy.sample(1), rotation=(20.0, -30.0, 40.0))
    line = np.arange(-96, 96, 3.0)
    labels = anatomy.label(np.stack(np.meshgrid(line, line, line), axis=-1), time=1 / 3)
    for name, structure in (("RV", RV), ("MYO", MYO), ("LV", LV)):
        sampled = (labels == structure).sum() * 27 / 1000
        assert sampled == pytest.approx(anatomy.volumes_ml(1 / 3)[name], rel=0.02)


@pytest.mark.parametrize(
    "grid",
    [
        {"axcodes": "RAS"},
        {"axcodes": "SLP", "shape": (39, 58, 51)},
        {"shape": (76, 67, 20), "spacing": (2.3, 2.3, 6.0)},
        {"shape": (44, 40, 58), "spacing": (4.0, 3.7, 2.0)},
        {"affine": np.array([[3.0, 0.5, 0, -95], [-0.5, 3.0, 0.3, -70], [0, 0.2, 2.5, -66], [0, 0, 0, 1]])},
    ],
    ids=["flipped", "permuted", "thick", "thin", "oblique"],
)
def test_heart_stays_where_it_is_on_every_grid(fine: Phantom, grid: dict) -> None:
    other = cardiac_phantom(**({"shape": (58, 51, 50), "spacing": (3.0, 3.0, 3.0)} | grid))
    # through the slices, the flat base may fall anywhere between two of them
    slack = np.array([0.5, 0.5, 0.45 * np.linalg.norm(other.affine[:3, :3], axis=0).max()])
    for structure in (RV, MYO, LV):
        assert (np.abs(centroid_mm(other, structure) - centroid_mm(fine, structure)) < slack).all()


def test_axcodes_only_reorder_the_voxels() -> None:
    plain = cardiac_phantom(**COARSE)
    turned = cardiac_phantom(shape=(8, 80, 72), spacing=(12.0, 2.5, 2.5), axcodes="IRP")
    assert nib.aff2axcodes(turned.affine) == ("I", "R", "P")
    assert np.array_equal(turned.label[::-1, ::-1].transpose(1, 2, 0), plain.label)


def test_rotation_turns_patient_and_grid_together() -> None:
    plain, turned = cardiac_phantom(**COARSE), cardiac_phantom(**COARSE, rotation=(20.0, -35.0, 10.0))
    assert np.array_equal(plain.label, turned.label)
    assert np.abs(plain.image.astype(int) - turned.image).max() <= 1
    assert turned.affine[:3, :3].T @ turned.affine[:3, :3] == pytest.approx(np.diag([6.25, 6.25, 144.0]))
    assert np.abs(turned.affine[:3, :3]).min() > 0.1
    at_voxels = nib.affines.apply_affine(turned.affine, np.argwhere(turned.label == LV))
    assert (turned.anatomy.label(at_voxels) == LV).all()


def test_muscle_is_a_closed_ring_and_the_right_ventricle_lies_to_the_right(default: Phantom) -> None:
    levels = np.flatnonzero((default.label == LV).any(axis=(0, 1)))
    assert len(levels) >= 7
    for level in levels[1:-1]:
        plane = default.label[..., level]
        filled = ndimage.binary_fill_holes(plane == MYO)
        assert filled[plane == LV].all(), f"the ring leaks in slice {level}"
        assert not ndimage.binary_dilation(plane == LV)[plane == RV].any()
    assert centroid_mm(default, RV)[0] > centroid_mm(default, LV)[0] + 20  # patient's right is +x in RAS
    areas = (default.label == RV).sum(axis=(0, 1))[levels]
    assert areas[0] > areas[len(areas) // 2] > areas[-2]
    assert np.argwhere(default.label == RV)[:, 2].max() < levels[-1], "the RV ends before the apex"


def test_cavity_contains_dark_papillary_muscles(default: Phantom) -> None:
    middle = int(np.median(np.flatnonzero((default.label == LV).any(axis=(0, 1)))))
    core = ndimage.binary_erosion(default.label[..., middle] == LV, iterations=2)
    values = default.image[..., middle][core]
    assert 0.03 < (values < 0.6 * np.median(values)).mean() < 0.3


def test_heart_beats(cine: Phantom) -> None:
    assert cine.image.shape == cine.label.shape == (80, 72, 8, 6)
    assert cine.end_systole == 2
    true = [cine.volume_ml("LV", phase) for phase in range(6)]
    counted = (cine.label == LV).sum(axis=(0, 1, 2)).tolist()
    for volumes in (true, counted):
        assert volumes[0] > volumes[1] > volumes[2] < volumes[3] < volumes[4] < volumes[5] < volumes[0]
    assert 1 - true[2] / true[0] == pytest.approx(cine.anatomy.ejection_fraction)
    assert cine.volume_ml("MYO", 2) == pytest.approx(cine.volume_ml("MYO", 0), rel=1e-3)
    assert cine.volume_ml("RV", 2) < 0.7 * cine.volume_ml("RV", 0)
    inner, outer = (cine.anatomy.radii(np.array([0.4]), c) for c in (0.0, 1.0))
    assert outer[1] - outer[0] > 1.2 * (inner[1] - inner[0]), "the wall thickens"
    blood, muscle = (cine.image[cine.label == structure].mean() for structure in (LV, MYO))
    assert blood > 2 * muscle


def test_thick_slices_and_noise_blur_the_edges_but_not_the_truth() -> None:
    quiet = cardiac_phantom(shape=(80, 72, 1), spacing=(2.5, 2.5, 12.0))
    cavity = quiet.label[..., 0] == LV
    edge = cavity ^ ndimage.binary_erosion(cavity)
    assert quiet.image[..., 0][edge].mean() < 0.9 * quiet.image[..., 0][ndimage.binary_erosion(cavity)].mean()
    assert set(np.unique(quiet.label)) <= {0, RV, MYO, LV}


@pytest.mark.parametrize("num_phases", [1, 3])
def test_files_hold_the_geometry(tmp_path: Path, num_phases: int) -> None:
    phantom = cardiac_phantom(shape=(20, 18, 4), spacing=(7.0, 8.0, 20.0), num_phases=num_phases, rotation=(10, 20, 30))
    paths = phantom.save(tmp_path / "new" / "folder", "case")
    assert [path.name for path in paths] == ["case.nii.gz", "case_truth.nii.gz"]
    for path, data in zip(paths, (phantom.image, phantom.label), strict=True):
        image = nib.load(path)
        assert np.array_equal(np.asarray(image.dataobj), data) and image.get_data_dtype() == data.dtype
        assert image.header.get_zooms() == pytest.approx((7.0, 8.0, 20.0, 0.9 / 3)[: data.ndim])
        assert image.header.get_xyzt_units() == ("mm", "sec")
        for affine, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
            assert code == 1
            assert affine == pytest.approx(phantom.affine, abs=1e-3)


def test_header_trap_is_the_genuine_one(tmp_path: Path) -> None:
    phantom = cardiac_phantom(shape=(20, 18, 4), spacing=(7.0, 8.0, 20.0))
    for path in phantom.save(tmp_path, "trap", header_trap=True):
        image = nib.load(path)
        assert np.array_equal(image.affine, np.diag([-1, -1, 1, 1]))
        assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (0, 2)
        assert image.header["pixdim"].tolist() == [1, 7, 8, 20, 1, 1, 1, 1]
        assert image.header.get_xyzt_units() == ("unknown", "unknown")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (10, 10)}, "shape"),
        ({"shape": (10, 0, 10)}, "shape"),
        ({"shape": (10.5, 10, 10)}, "shape"),
        ({"spacing": (1, 1, -1)}, "spacing"),
        ({"spacing": (1, float("nan"), 1)}, "spacing"),
        ({"axcodes": "LLS"}, "axcodes"),
        ({"axcodes": "XYZ"}, "axcodes"),
        ({"num_phases": 0}, "num_phases"),
        ({"seed": -1}, "seed"),
        ({"rotation": (0, float("inf"), 0)}, "rotation"),
        ({"affine": np.zeros((4, 4))}, "affine"),
    ],
)
def test_wrong_arguments_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message} must"):
        cardiac_phantom(**options)


def test_wrong_anatomy_structure_and_phase_are_named(default: Phantom) -> None:
    with pytest.raises(ValueError, match="ejection_fraction must be between"):
        CardiacAnatomy(ejection_fraction=1.2)
    with pytest.raises(ValueError, match="structure must be one of RV, MYO, LV, got 'LA'"):
        default.volume_ml("LA")
    with pytest.raises(ValueError, match="phase must be between 0 and 0"):
        default.volume_ml("LV", 1)


def test_command_writes_the_pair(tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    command = [sys.executable, "-m", "convformer_monai.cli", "phantom", "cardiac", "--output_dir", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["cardiac_phantom.nii.gz", "cardiac_phantom_truth.nii.gz"]
    assert nib.load(out / "cardiac_phantom.nii.gz").shape == (216, 256, 10)


@pytest.mark.parametrize(
    "arguments",
    [["--seed", "-3"], ["--seed", "one"], ["--num_phases", "0"], ["--colour", "red"], ["--output_dir", "FILE/sub"]],
)
def test_command_refuses_in_one_line(tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "FILE").write_text("in the way")
    arguments = [word.replace("FILE", str(tmp_path / "FILE")) for word in arguments]
    code = main(["phantom", "cardiac", "--output_dir", str(tmp_path / "out"), *arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error[") and error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


def test_module_does_not_import_torch() -> None:
    code = "import sys, convformer_monai.phantoms; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
