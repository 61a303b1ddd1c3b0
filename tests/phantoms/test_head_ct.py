"""The head CT phantom: its blood is exactly known and its tissues have their Hounsfield units."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from convformer_monai.cli import main
from convformer_monai.phantoms.dicom import kinds as dicom_kinds
from convformer_monai.phantoms.dicom.kinds import write_kind
from convformer_monai.phantoms.head_ct import (
    KINDS,
    Epidural,
    HeadAnatomy,
    HeadCtPhantom,
    Intraparenchymal,
    Intraventricular,
    Subdural,
    head_ct_phantom,
)
from convformer_monai.phantoms.head_ct.surfaces import Surfaces
from convformer_monai.readers import read_series

COARSE = {"shape": (60, 60, 24), "spacing": (3.6, 3.6, 5.0)}  # the whole head, quick to make

LIKELY_ML = {"intraparenchymal": (4, 40), "subdural": (15, 110), "intraventricular": (1, 20), "epidural": (5, 40)}


def points_of(phantom: HeadCtPhantom) -> NDArray[np.float64]:
    return nib.affines.apply_affine(phantom.affine, np.moveaxis(np.indices(phantom.image.shape), 0, -1))


def counted_ml(anatomy: HeadAnatomy, step: float) -> float:
    """Volume by counting points, in a box around the blood."""
    line = np.arange(-96.0, 96, 4)
    coarse = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1)
    found = coarse[anatomy.label(coarse) == 1]
    axes = [np.arange(low - 6, high + 6, step) for low, high in zip(found.min(0), found.max(0), strict=True)]
    return float((anatomy.label(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)) == 1).sum() * step**3 / 1000)


@pytest.fixture(scope="module")
def quiet() -> HeadCtPhantom:
    return head_ct_phantom(shape=(128, 128, 24), spacing=(1.7, 1.7, 5.0), bleeds=KINDS, noise=0)


@pytest.fixture(scope="module")
def tilted() -> HeadCtPhantom:
    return head_ct_phantom(**COARSE, bleeds=KINDS, tilt_degrees=18)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 4])
def test_points_count_up_to_the_true_volume(kind: str, seed: int) -> None:
    anatomy = HeadAnatomy.sample(seed, (kind,))
    true = anatomy.volumes_ml()
    assert list(true) == [kind]
    assert counted_ml(anatomy, 0.9) == pytest.approx(true[kind], rel=0.01)
    low, high = LIKELY_ML[kind]
    assert low < true[kind] < high


def test_bodies_of_known_volume() -> None:
    ellipsoid = Intraparenchymal((1.0, 2.0, 3.0), (10.0, 20.0, 30.0), yaw=0.4)
    assert ellipsoid.volume_ml() == pytest.approx(4 / 3 * np.pi * 6)
    # by hand: the mean of (1 + a P1)**3 over the sphere is 1 + a**2
    lobed = Intraparenchymal((0.0, 0.0, 0.0), (10.0, 10.0, 10.0), lobes=((1, 0.5, (0.0, 0.0, 2.0)),))
    assert lobed.volume_ml() == pytest.approx(4 / 3 * np.pi * 1.25)
    on_axis = np.array([[0.0, 0, 0, 0], [0, 0, 0, 0], [14.9, 15.1, -4.9, -5.1]])
    assert np.array_equal(lobed.distance(on_axis) < 0, [True, False, True, False])
    none = Subdural(HeadAnatomy().vault, 1, thickness=0.0)
    assert none.volume_ml() == 0
    assert Epidural(HeadAnatomy().vault, 1, thickness=0.0).volume_ml() == 0
    left = HeadAnatomy().ventricles[0]
    assert Intraventricular((left,), (70.0,)).volume_ml() == 0
    whole, half = (Intraventricular((left,), (level,)).volume_ml() for level in (-40.0, 40.0))
    assert 0 < half < whole < 25


@pytest.mark.parametrize("seed", range(6))
def test_bleeds_lie_apart_from_each_other_and_inside_the_skull(seed: int) -> None:
    anatomy = HeadAnatomy.sample(seed, KINDS)
    line = np.arange(-90.0, 90, 2.5)
    points = np.stack(np.meshgrid(line, line, line, indexing="ij")).reshape(3, -1)
    near = points[:, np.linalg.norm(points, axis=0) < 95]
    inside = [bleed.distance(near) < 0 for bleed in anatomy.bleeds]
    assert max(np.sum(inside, axis=0)) == 1
    middles = [near[0, blood].mean() for blood in inside[:2]]
    assert middles[0] * middles[1] < 0, "the subdural bleed lies on the other side"
    assert anatomy.shift * middles[1] < 0, "and pushes the brain away"
    blood = near[:, np.any(inside, axis=0)]
    assert Surfaces.of(anatomy, blood).cavity.max() < 1e-6


def test_voxels_count_up_on_a_fine_grid_and_on_a_tilted_one(tilted: HeadCtPhantom) -> None:
    voxel = abs(np.linalg.det(tilted.affine[:3, :3])) / 1000
    assert tilted.label.sum() * voxel == pytest.approx(tilted.volume_ml(), rel=0.05)
    anatomy = replace(tilted.anatomy, bleeds=tilted.anatomy.bleeds[:1])
    fine = head_ct_phantom(shape=(40, 60, 50), spacing=(1.0, 1.0, 1.0), affine=_box_around(anatomy), anatomy=anatomy)
    assert fine.label.sum() / 1000 == pytest.approx(fine.volume_ml("intraparenchymal"), rel=0.015)


def _box_around(anatomy: HeadAnatomy) -> NDArray[np.float64]:
    """Grid of 1 mm voxels, 40 x 60 x 50, with the brain's bleed in its middle."""
    line = np.arange(-96.0, 96, 3)
    grid = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1)
    affine = np.eye(4)
    affine[:3, 3] = grid[anatomy.label(grid) == 1].mean(axis=0) - np.array([19.5, 29.5, 24.5])
    return affine


def test_same_seed_same_phantom_other_seed_another() -> None:
    first, again, other = (head_ct_phantom(**COARSE, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.label, again.label)
    assert not np.array_equal(first.label, other.label)
    assert first.volume_ml() != other.volume_ml()


def test_default_is_like_a_scan() -> None:
    phantom = head_ct_phantom(shape=(256, 256, 2), spacing=(0.9, 0.9, 5.0))
    assert phantom.image.dtype == np.int16 and phantom.label.dtype == np.uint8
    assert np.array_equal(phantom.affine[:3, :3], np.diag([-0.9, -0.9, 5.0]))
    assert nib.affines.apply_affine(phantom.affine, [127.5, 127.5, 0.5]) == pytest.approx([0, 0, 0])
    assert phantom.image.min() >= -1024 and phantom.image.max() <= 3071


def test_head_without_blood() -> None:
    without, bled = (head_ct_phantom(**COARSE, bleeds=bleeds, seed=2) for bleeds in ((), KINDS))
    assert not without.label.any() and without.volume_ml() == 0
    assert without.anatomy.vault == bled.anatomy.vault and without.anatomy.pose == bled.anatomy.pose
    frame = bled.anatomy.to_frame(points_of(bled)).reshape(3, -1)
    outside = (Surfaces.of(bled.anatomy, frame).cavity > 12).reshape(bled.image.shape)
    assert np.array_equal(without.image[outside], bled.image[outside])
    assert np.median(bled.image[bled.label == 1]) > 50
    assert (np.median(without.image[bled.label == 1])) < 40


def test_hounsfield_units_of_the_tissues(quiet: HeadCtPhantom) -> None:
    frame = quiet.anatomy.to_frame(points_of(quiet)).reshape(3, -1)
    surfaces = Surfaces.of(quiet.anatomy, frame)
    values, blood = quiet.image.ravel(), quiet.label.ravel() == 1
    outside = surfaces.rho - surfaces.radius
    clot = ndimage.binary_erosion(quiet.label, np.ones((3, 3, 1))).ravel()
    assert 60 < np.median(values[clot]) < 75
    assert (np.percentile(values[clot], [5, 95]) > [50, 60]).all()
    fluid = np.min([v.distance(*frame) for v in quiet.anatomy.ventricles], axis=0) < -2.5
    assert 0 < np.median(values[fluid & ~blood & (frame[1] < 0)]) < 15
    vault = (np.abs(frame[2] - 25) < 15) & (outside > 2) & (outside < surfaces.bone - 2)
    assert 700 < np.median(values[vault]) < 1000, "marrow"
    assert 500 < np.percentile(values[vault], 5) and np.percentile(values[vault], 95) < 1500
    air = (surfaces.skin > 6) & (np.hypot(frame[0], frame[1]) > 106)
    assert np.median(values[air]) == -1000
    brain = (surfaces.cavity < -8) & ~blood & (frame[2] > 0)
    assert 26 < np.median(values[brain]) < 40
    deep = (np.abs(np.abs(frame[0]) - 24) < 5) & (np.abs(frame[1] + 1) < 10) & (np.abs(frame[2] - 4) < 7)
    white = (np.abs(np.abs(frame[0]) - 22) < 6) & (np.abs(frame[1]) < 15) & (np.abs(frame[2] - 34) < 4)
    far = np.min([b.distance(frame) for b in quiet.anatomy.bleeds], axis=0) > 22
    assert 33 < np.median(values[deep & far]) < 41 and 26 < np.median(values[white & far]) < 33


def test_scalp_has_fat_under_the_skin() -> None:
    affine = np.diag([0.5, 0.5, 1.0, 1.0])
    affine[:3, 3] = 55, -20, 25  # beside the right parietal bone
    anatomy = HeadAnatomy.sample(0, ())
    thick = replace(anatomy, vault=replace(anatomy.vault, scalp=10.0))
    phantom = head_ct_phantom(shape=(80, 40, 2), affine=affine, noise=0, anatomy=thick)
    surfaces = Surfaces.of(phantom.anatomy, phantom.anatomy.to_frame(points_of(phantom)).reshape(3, -1))
    outside = surfaces.rho - surfaces.radius - surfaces.bone
    fat = (outside > 1.5) & (surfaces.skin < -6) & (surfaces.skin > -7)
    assert fat.sum() > 20 and -130 < np.median(phantom.image.ravel()[fat]) < -60
    skin = np.abs(surfaces.skin + 1.6) < 0.3
    assert 30 < np.median(phantom.image.ravel()[skin]) < 80


def test_calcifications_are_brighter_than_blood_and_are_none(quiet: HeadCtPhantom) -> None:
    frame = quiet.anatomy.to_frame(points_of(quiet))
    middle = Surfaces.of(quiet.anatomy, frame.reshape(3, -1)).cavity.reshape(frame.shape[1:]) < -12
    calcified = middle & (quiet.image > 120) & (frame[2] > -5)
    assert 3 < calcified.sum() < 400
    assert quiet.image[middle & (frame[2] > -5)].max() > 150
    assert quiet.label[calcified].mean() < 0.3, "only where a clot lies next to the choroid plexus"


def test_clot_has_a_dark_ring_of_edema() -> None:
    phantom = head_ct_phantom(shape=(96, 96, 8), spacing=(1.7, 1.7, 5.0), noise=0, seed=7)
    (bleed,) = phantom.anatomy.bleeds
    distance = bleed.distance(phantom.anatomy.to_frame(points_of(phantom)).reshape(3, -1)).reshape(phantom.image.shape)
    ring, beyond = ((distance > low) & (distance < high) for low, high in ((1.5, 3.5), (14, 18)))
    assert np.median(phantom.image[ring]) < np.median(phantom.image[beyond]) - 5


def test_noise_is_what_was_asked_for() -> None:
    noisy, quiet = (head_ct_phantom(shape=(80, 80, 3), spacing=(1.0, 1.0, 5.0), noise=noise) for noise in (4.0, 0.0))
    difference = (noisy.image.astype(float) - quiet.image)[quiet.image > 0]
    assert 3.0 < difference.std() < 4.6
    assert abs(difference.mean()) < 0.3


def test_tilt_shows_the_same_patient_on_leaning_slices(tilted: HeadCtPhantom) -> None:
    plain = head_ct_phantom(**COARSE, bleeds=KINDS)
    assert tilted.anatomy == plain.anatomy
    assert not np.array_equal(tilted.label, plain.label)
    axes = tilted.affine[:3, :3]
    assert np.linalg.norm(axes, axis=0) == pytest.approx([3.6, 3.6, 5.0])
    assert axes[:, 2] == pytest.approx([0, 0, 5.0]), "the table moves as before"
    normal = np.cross(axes[:, 0], axes[:, 1])
    assert np.degrees(np.arccos(normal[2] / np.linalg.norm(normal))) == pytest.approx(18)
    assert abs(axes[:, 0] @ axes[:, 1]) < 1e-9, "pixels stay rectangular"
    assert np.array_equal(tilted.label, plain.anatomy.label(points_of(tilted)))
    # the images agree too, where both have a voxel near the same place
    nearest = np.rint(nib.affines.apply_affine(np.linalg.inv(plain.affine), points_of(tilted))).astype(int)
    within = ((nearest >= 0) & (nearest < plain.image.shape)).all(axis=-1)
    there = plain.image[tuple(nearest[within].T)]
    assert np.corrcoef(np.clip(there, -100, 300), np.clip(tilted.image[within], -100, 300))[0, 1] > 0.9


@pytest.mark.parametrize("tilt_degrees", [0.0, -20.0])
def test_saved_files_are_read_with_their_geometry(tmp_path: Path, tilt_degrees: float) -> None:
    phantom = head_ct_phantom(**COARSE, tilt_degrees=tilt_degrees)
    paths = phantom.save(tmp_path / "new" / "folder", "case")
    assert [path.name for path in paths] == ["case.nii.gz", "case_truth.nii.gz"]
    for path, data in zip(paths, (phantom.image, phantom.label), strict=True):
        series = read_series(path)
        assert np.array_equal(series.image[0].numpy(), data)
        assert series.affine == pytest.approx(phantom.affine, abs=1e-4)
        assert series.warnings == ()
        assert nib.load(path).get_data_dtype() == data.dtype
        assert nib.load(path).header.get_xyzt_units() == ("mm", "sec")


def test_dicom_series_is_read_with_its_tilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_kinds, "head_ct_phantom", partial(head_ct_phantom, **COARSE))
    folder, truth = write_kind("head-ct", tmp_path, seed=1, tilt_degrees=15)
    series, label = read_series(folder, modality="CT"), nib.load(truth)
    phantom = head_ct_phantom(**COARSE, seed=1, tilt_degrees=15)
    assert series.affine == pytest.approx(phantom.affine, abs=1e-3)
    assert np.array_equal(series.image[0].numpy(), phantom.image)
    assert np.array_equal(np.asarray(label.dataobj), phantom.label) and phantom.label.any()
    assert label.affine == pytest.approx(phantom.affine, abs=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head_ct_dicom", "head_ct_truth.nii.gz"]
    with pytest.raises(ValueError, match="tilt_degrees must be 0 for mr"):
        write_kind("mr", tmp_path / "mr", tilt_degrees=15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (10, 10)}, "shape"),
        ({"shape": (10.5, 10, 10)}, "shape"),
        ({"spacing": (1, 1, 0)}, "spacing"),
        ({"bleeds": ("subgaleal",)}, "bleeds"),
        ({"bleeds": "subdural"}, "bleeds"),
        ({"bleeds": ("subdural", "subdural")}, "bleeds"),
        ({"tilt_degrees": 60}, "tilt_degrees"),
        ({"tilt_degrees": float("nan")}, "tilt_degrees"),
        ({"noise": -1}, "noise"),
        ({"seed": -1}, "seed"),
        ({"affine": np.zeros((4, 4))}, "affine"),
    ],
)
def test_wrong_arguments_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message} must"):
        head_ct_phantom(**options)


def test_unknown_bleed_and_too_lobed_one_are_named(tilted: HeadCtPhantom) -> None:
    with pytest.raises(ValueError, match="kind must be a bleed of this head .*, got 'subgaleal'"):
        tilted.volume_ml("subgaleal")
    with pytest.raises(ValueError, match="lobes must have amplitudes"):
        Intraparenchymal(
            (0.0, 0.0, 0.0), (9.0, 9.0, 9.0), lobes=((2, 0.6, (0.0, 0.0, 1.0)), (3, -0.5, (1.0, 0.0, 0.0)))
        )


def test_command_writes_the_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convformer_monai.phantoms.head_ct_phantom", partial(head_ct_phantom, **COARSE))
    out = tmp_path / "made" / "here"
    assert (
        main(["phantom", "head-ct", "--output_dir", str(out), "--seed", "2", "--bleeds", "subdural", "--tilt", "12"])
        == 0
    )
    assert sorted(path.name for path in out.iterdir()) == ["head_ct_phantom.nii.gz", "head_ct_phantom_truth.nii.gz"]
    image = nib.load(out / "head_ct_phantom.nii.gz")
    assert image.shape == (60, 60, 24)
    assert image.affine[2, 1] == pytest.approx(3.6 * np.sin(np.radians(12)), abs=1e-4)
    truth = np.asarray(nib.load(out / "head_ct_phantom_truth.nii.gz").dataobj)
    voxel = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    true = HeadAnatomy.sample(2, ("subdural",)).volumes_ml()["subdural"]
    assert truth.sum() * voxel == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize(
    "arguments", [["--seed", "-3"], ["--bleeds", "subgaleal"], ["--tilt", "steep"], ["--output_dir", "FILE/sub"]]
)
def test_command_refuses_in_one_line(tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "FILE").write_text("in the way")
    arguments = [word.replace("FILE", str(tmp_path / "FILE")) for word in arguments]
    code = main(["phantom", "head-ct", "--output_dir", str(tmp_path / "out"), *arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error[") and error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))
