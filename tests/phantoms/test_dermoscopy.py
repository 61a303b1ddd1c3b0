"""The dermoscopy phantom: its lesion is exactly known, the same at every size, and looks like one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from scipy import ndimage

from convformer_monai.cli import main
from convformer_monai.phantoms.dermoscopy import DermoscopyPhantom, LesionOutline, dermoscopy_phantom
from convformer_monai.phantoms.dicom.kinds import write_kind
from convformer_monai.readers import read_series

SMALL = {"size": (256, 192)}
PLAIN = {**SMALL, "hair": False, "vignette": False}


def upright(path: Path) -> NDArray[np.uint8]:
    """What the package's reader makes of a photograph, (H, W, 3)."""
    return read_series(path).image.numpy().transpose(2, 1, 0)


def changed(phantom: DermoscopyPhantom, other: DermoscopyPhantom, above: int = 25) -> NDArray[np.bool_]:
    return np.abs(phantom.image.astype(int) - other.image).max(axis=-1) > above


@pytest.mark.parametrize("seed", range(8))
def test_pixels_count_up_to_the_true_area(seed: int) -> None:
    phantom = dermoscopy_phantom(**PLAIN, seed=seed)
    assert phantom.label.sum() == pytest.approx(phantom.area_px, rel=0.01)
    assert 0.02 < phantom.area_px / phantom.label.size < 0.5
    _, pieces = ndimage.label(phantom.label)
    assert pieces == 1
    assert not np.concatenate([phantom.label[[0, -1]].ravel(), phantom.label[:, [0, -1]].ravel()]).any()


def test_areas_and_outlines_worked_out_by_hand() -> None:
    circle = LesionOutline(semi_axes=(0.25, 0.25))
    assert circle.area((400, 200)) == pytest.approx(np.pi * 50**2)
    x = np.array([199.5, 199.5 + 49, 199.5 + 51, 199.5 - 51])
    assert circle.distance(x, np.full(4, 99.5), (400, 200)) == pytest.approx([-50, -1, 1, 1], abs=1e-5)
    wavy = replace(circle, waves=((1, 0.3, 0.0), (3, 0.4, 1.0)))
    assert wavy.area((400, 200)) == pytest.approx(np.pi * 50**2 * (1 + 0.045 + 0.08))
    # the ellipse's first axis points down when turned by a quarter
    turned = LesionOutline(semi_axes=(0.4, 0.1), angle=np.pi / 2)
    inside = turned.distance(np.array([199.5, 259.5]), np.array([169.5, 99.5]), (400, 200)) < 0
    assert inside.tolist() == [True, False]


def test_same_seed_same_phantom_other_seed_another() -> None:
    first, again, other = (dermoscopy_phantom(**SMALL, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.label, again.label)
    assert not np.array_equal(first.label, other.label)
    assert first.image.shape == (192, 256, 3) and first.label.shape == (192, 256)
    assert first.image.dtype == first.label.dtype == np.uint8
    assert set(np.unique(first.label)) == {0, 1}


def test_other_size_shows_the_same_scene() -> None:
    small, large = (dermoscopy_phantom(size=size, seed=1) for size in ((256, 192), (768, 576)))
    assert small.area_px * 9 == pytest.approx(large.area_px)
    assert (large.label[1::3, 1::3] == small.label).mean() > 0.999
    shrunk = np.asarray(Image.fromarray(large.image).resize((256, 192), Image.Resampling.BOX)).astype(float)
    assert np.abs(ndimage.gaussian_filter(shrunk - small.image, (2, 2, 0))).mean() < 4


@pytest.mark.parametrize("seed", range(10))
def test_lesion_is_darker_and_its_border_is_at_the_outline(seed: int) -> None:
    phantom = dermoscopy_phantom(**PLAIN, seed=seed)
    y, x = np.indices(phantom.label.shape)
    distance = phantom.outline.distance(x, y, phantom.size)
    green = phantom.image[..., 1].astype(float)
    bands = [np.median(green[(distance > at - 1) & (distance <= at + 1)]) for at in (-12, 0, 12)]
    assert bands[0] + 12 < bands[2], "darker than the skin"
    low, high = bands[0] + 0.15 * (bands[2] - bands[0]), bands[0] + 0.9 * (bands[2] - bands[0])
    assert low < bands[1] < high, "half-way on the outline"
    red, _, blue = phantom.image[phantom.label == 1].mean(axis=0)
    assert red > blue


def test_skins_differ_and_lesions_have_several_colours() -> None:
    phantoms = [dermoscopy_phantom(size=(128, 96), hair=False, vignette=False, seed=seed) for seed in range(12)]
    skins = np.array([np.median(p.image[p.label == 0], axis=0) for p in phantoms])
    assert np.ptp(skins, axis=0).min() > 40 and skins.min() > 60
    spread = np.array([ndimage.gaussian_filter(p.image, (2, 2, 0))[p.label == 1].std(axis=0).max() for p in phantoms])
    assert np.median(spread) > 10


def test_hair_ruler_and_vignette_change_the_photograph_and_not_the_truth() -> None:
    plain = dermoscopy_phantom(**PLAIN, seed=2)
    hairy, ruled, round_ = (
        dermoscopy_phantom(**{**PLAIN, **extra}, seed=2)
        for extra in ({"hair": True}, {"ruler": True}, {"vignette": True})
    )
    for other in (hairy, ruled, round_):
        assert np.array_equal(plain.label, other.label)
    assert 0.003 < changed(hairy, plain).mean() < 0.25
    below = np.argwhere(changed(ruled, plain))[:, 0]
    assert len(below) > 30 and below.min() > 0.78 * 192, "under the lesion"
    corners = round_.image[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners.max(axis=-1) < 60).all()
    assert not changed(round_, plain)[80:112, 100:156].any()


def test_ruler_has_a_tick_each_millimetre() -> None:
    size = (500, 400)
    ruled, plain = (
        dermoscopy_phantom(size=size, hair=False, vignette=False, ruler=ruler, spacing_mm=0.05, seed=1)
        for ruler in (True, False)
    )
    columns = np.where(changed(ruled, plain), 1, 0)[340:].sum(axis=0)
    ticks = np.flatnonzero((columns >= 5) & (columns >= ndimage.maximum_filter1d(columns, 7)))
    ticks = ticks[np.diff(ticks, prepend=-9) > 3]
    assert len(ticks) >= 8
    assert np.median(np.diff(ticks)) == pytest.approx(1 / 0.05, abs=1)


def test_area_in_mm2_needs_a_spacing() -> None:
    known = dermoscopy_phantom(**PLAIN, spacing_mm=0.1)
    assert known.area_mm2 == pytest.approx(known.area_px * 0.01)
    assert dermoscopy_phantom(**PLAIN).area_mm2 is None


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_saved_files_are_read_back(tmp_path: Path, suffix: str) -> None:
    phantom = dermoscopy_phantom(**SMALL, seed=5)
    photo, truth = phantom.save(tmp_path / "new" / "folder", "case", suffix)
    assert [photo.name, truth.name] == [f"case{suffix}", "case_truth.png"]
    read = upright(photo)
    assert read.shape == phantom.image.shape
    if suffix == ".png":
        assert np.array_equal(read, phantom.image)
    assert np.abs(read.astype(int) - phantom.image).mean() < 3
    assert not read_series(photo).spacing_known
    mask = np.asarray(Image.open(truth))
    assert mask.dtype == np.uint8 and np.array_equal(mask, 255 * phantom.label)


def test_dicom_photograph_is_read_with_its_spacing(tmp_path: Path) -> None:
    image, truth = write_kind("dermoscopy", tmp_path, seed=3)
    phantom = dermoscopy_phantom(seed=3, spacing_mm=0.02)
    assert dcmread(image).PixelSpacing == [0.02, 0.02]
    series = read_series(image)
    assert series.spacing_known and np.linalg.norm(series.affine[:3, 0]) == pytest.approx(0.02)
    assert np.abs(upright(image).astype(int) - phantom.image).mean() < 3
    assert np.array_equal(np.asarray(Image.open(truth)), 255 * phantom.label)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (10, 10)}, "size"),
        ({"size": (100.5, 100)}, "size"),
        ({"size": (100, 100, 3)}, "size"),
        ({"seed": -1}, "seed"),
        ({"spacing_mm": 0.0}, "spacing_mm"),
        ({"spacing_mm": float("nan")}, "spacing_mm"),
    ],
)
def test_wrong_arguments_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message} must"):
        dermoscopy_phantom(**options)


def test_wrong_outlines_and_suffixes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="waves must have different whole k"):
        LesionOutline(waves=((2, 0.1, 0.0), (2, 0.1, 1.0)))
    with pytest.raises(ValueError, match="waves must have amplitudes"):
        LesionOutline(waves=((2, 0.6, 0.0), (3, -0.5, 1.0)))
    with pytest.raises(ValueError, match="semi_axes must be positive"):
        LesionOutline(semi_axes=(0.1, 0.0))
    with pytest.raises(ValueError, match=r"suffix must be one of .jpg, .png, got '.gif'"):
        dermoscopy_phantom(**PLAIN).save(tmp_path, "case", ".gif")


def test_command_writes_the_pair(tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    command = ["phantom", "dermoscopy", "--output_dir", str(out), "--seed", "4", "--size", "256", "192", "--ruler"]
    assert main([*command, "--no_hair", "--suffix", ".png"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["dermoscopy_phantom.png", "dermoscopy_phantom_truth.png"]
    same = dermoscopy_phantom(**SMALL, seed=4, hair=False, ruler=True)
    assert np.array_equal(np.asarray(Image.open(out / "dermoscopy_phantom.png")), same.image)


@pytest.mark.parametrize("arguments", [["--seed", "-3"], ["--size", "5", "5"], ["--suffix", ".gif"], ["--size", "9"]])
def test_command_refuses_in_one_line(tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["phantom", "dermoscopy", "--output_dir", str(tmp_path / "out"), *arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error[") and error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))
