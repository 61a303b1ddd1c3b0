import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from convformer_monai.evaluation import StructureScore, VolumeScore, score_structure, score_volume
from convformer_monai.tasks.cardiac import CARDIAC

SPACING = (0.7, 1.5, 10.0)


def score(predicted: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...] = SPACING) -> StructureScore:
    return score_structure("LV", predicted, reference, spacing, float(np.prod(spacing)) / 1000)


def mask(*places: tuple[int, int, int], shape: tuple[int, int, int] = (30, 12, 6)) -> np.ndarray:
    result = np.zeros(shape, dtype=bool)
    for place in places:
        result[place] = True
    return result


def box(
    start: tuple[int, int, int], size: tuple[int, int, int], shape: tuple[int, int, int] = (30, 12, 9)
) -> np.ndarray:
    result = np.zeros(shape, dtype=bool)
    result[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return result


@pytest.mark.parametrize("offset", [(1, 0, 0), (0, 2, 0), (0, 0, 1), (3, 4, 2)])
def test_two_voxels_are_as_far_apart_as_their_centres(offset: tuple[int, int, int]) -> None:
    result = score(mask((2, 3, 1)), mask(tuple(a + b for a, b in zip((2, 3, 1), offset, strict=True))))
    distance = math.hypot(*(n * mm for n, mm in zip(offset, SPACING, strict=True)))
    assert result.hd95_mm == pytest.approx(distance, rel=1e-6)
    assert result.asd_mm == pytest.approx(distance, rel=1e-6)
    assert result.dice == 0


def test_percentile_is_interpolated_and_the_mean_takes_both_directions_together() -> None:
    point, rod = mask((0, 3, 1)), mask(*((x, 3, 1) for x in range(20)))
    for result in (score(point, rod), score(rod, point)):
        # from the rod: 0 to 19 voxels; from the point: 0
        assert result.hd95_mm == pytest.approx(0.95 * 19 * 0.7, rel=1e-6)
        assert result.asd_mm == pytest.approx(190 * 0.7 / 21, rel=1e-6)
        assert result.dice == pytest.approx(2 / 21)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shifted_boxes(axis: int) -> None:
    """By one voxel along the axis of the smallest spacing: both end faces lie that far from the other box."""
    size = (8, 7, 5)
    spacing = tuple(np.roll(SPACING, axis))  # 0.7 mm along the axis of the shift
    start = [3, 2, 1]
    predicted = box(tuple(start), size)
    start[axis] += 1
    result = score(predicted, box(tuple(start), size), spacing)
    across = [n for i, n in enumerate(size) if i != axis]
    moved = math.prod(across) + math.prod(n - 2 for n in across)  # the rest of either surface is on the other one
    surface = math.prod(size) - math.prod(n - 2 for n in size)
    assert result.hd95_mm == pytest.approx(0.7, rel=1e-6)
    assert result.asd_mm == pytest.approx(0.7 * moved / surface, rel=1e-6)
    assert result.dice == pytest.approx((size[axis] - 1) / size[axis])


def surface_points(volume: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Voxels with a face towards the outside, where outside is also beyond the border."""
    padded = np.pad(volume, 1)
    inside = padded.copy()
    for axis in range(3):
        for step in (-1, 1):
            inside &= np.roll(padded, step, axis)
    return np.argwhere((padded & ~inside)[1:-1, 1:-1, 1:-1]) * np.asarray(spacing)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_brute_force_on_irregular_shapes(seed: int) -> None:
    random = np.random.default_rng(seed)
    noise = gaussian_filter(random.normal(size=(2, 24, 20, 8)), (0, 3, 3, 1))
    predicted, reference = noise > np.quantile(noise, 0.6)  # reaches the borders of the volume
    between = cdist(surface_points(predicted, SPACING), surface_points(reference, SPACING))
    there, back = between.min(axis=1), between.min(axis=0)
    result = score(predicted, reference)
    assert result.hd95_mm == pytest.approx(max(np.quantile(there, 0.95), np.quantile(back, 0.95)), rel=1e-5)
    assert result.asd_mm == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)
    assert result.dice == pytest.approx(2 * (predicted & reference).sum() / (predicted.sum() + reference.sum()))
    assert result.predicted_ml == pytest.approx(predicted.sum() * 0.0105)
    assert result.volume_error_ml == pytest.approx((int(predicted.sum()) - int(reference.sum())) * 0.0105)


def test_identical_volumes_are_perfect() -> None:
    result = score(box((3, 2, 1), (8, 7, 5)), box((3, 2, 1), (8, 7, 5)))
    assert (result.dice, result.hd95_mm, result.asd_mm, result.state) == (1, 0, 0, "scored")


def test_empty_structures_have_no_distances() -> None:
    something, nothing = mask((1, 1, 1)), mask()
    results = [score(*pair) for pair in ((nothing, nothing), (nothing, something), (something, nothing))]
    assert [result.dice for result in results] == [1, 0, 0]
    assert [result.state for result in results] == ["both_empty", "missed", "invented"]
    assert all(math.isnan(result.hd95_mm) and math.isnan(result.asd_mm) for result in results)


def test_mean_distance_of_a_volume_leaves_out_absent_structures_but_is_undefined_with_missed_ones() -> None:
    something, shifted, nothing = mask((1, 1, 1)), mask((2, 1, 1)), mask()
    good, absent, missed = score(something, shifted), score(nothing, nothing), score(nothing, something)
    with_absent = VolumeScore("a", "a", "", (good, absent))
    assert (with_absent.hd95_mm, with_absent.dice) == (pytest.approx(0.7), 0.5)
    assert math.isnan(VolumeScore("a", "a", "", (good, missed)).hd95_mm)
    assert math.isnan(VolumeScore("a", "a", "", (absent, absent)).asd_mm)


def test_spacing_and_voxel_volume_come_from_an_oblique_affine() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn * SPACING
    predicted, reference = np.zeros((2, 10, 10, 4), dtype=np.uint8)
    predicted[2, 3, 1] = reference[2, 3, 2] = 3
    predicted[5, 5, 1] = reference[6, 5, 1] = 1
    rv, myo, lv = score_volume(predicted, reference, affine, CARDIAC.labels)
    assert [one.structure for one in (rv, myo, lv)] == ["RV", "MYO", "LV"]
    assert (lv.hd95_mm, rv.hd95_mm) == (pytest.approx(10), pytest.approx(0.7))
    assert myo.state == "both_empty"
    assert lv.reference_ml == pytest.approx(0.0105)


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="alike"):
        score(mask(), mask(shape=(30, 12, 5)))
    with pytest.raises(ValueError, match="alike"):
        score(mask()[0], mask()[0])
