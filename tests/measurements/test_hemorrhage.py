"""Volumes of ellipsoids under any affine, and ABC/2 against formulas and brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray
from result_series import TURNED, centred, ellipsoid, tilted, volume_series

from convformer_monai.measurements.geometry import Plane
from convformer_monai.measurements.hemorrhage import abc_of, hemorrhage_flags
from convformer_monai.measurements.measure import measure
from convformer_monai.measurements.values import Measurements
from convformer_monai.tasks.hemorrhage import HEMORRHAGE

SHAPE = (126, 112, 24)
CT = np.diag([-0.5, -0.5, 3.0])
MATRICES = {
    "axial": CT,
    "anisotropic in plane": np.diag([-0.5, -0.6, 3.0]),
    "isotropic": np.diag([-0.7, -0.7, 0.7]),
    "oblique": TURNED @ CT,
    "tilted": tilted((0.5, 0.5, 3.0)),
    "tilted the other way": tilted((0.5, 0.5, 3.0), -25),
    "oblique and tilted": TURNED @ tilted((0.5, 0.5, 3.0)),
    "in-plane axes not perpendicular": CT @ np.array([[1.0, 0.25, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
}
SEMI_AXES = (27.0, 18.0, 23.0)  # along A, along B, across the slices


def measured(mask: NDArray[np.uint8], affine: NDArray[np.float64]) -> Measurements:
    return measure(mask[None], volume_series((1, *mask.shape), affine), HEMORRHAGE, case="x")


def numbers(measurements: Measurements) -> tuple[float, float, float]:
    """Volume, ABC/2 and number of parts."""
    return tuple(item.value for item in measurements.items)  # type: ignore[return-value]


def in_slices(matrix: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    """Directions of A and B in the plane of the slices, and their normal, as columns."""
    first = matrix[:, 0] / np.linalg.norm(matrix[:, 0])
    normal = np.cross(matrix[:, 0], matrix[:, 1])
    normal /= np.linalg.norm(normal)
    second = np.cross(normal, first)
    turn = np.radians(degrees)
    along = first * np.cos(turn) + second * np.sin(turn)
    return np.stack([along, np.cross(normal, along), normal], axis=1)


def lesion(name: str, degrees: float = 0.0) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    matrix = MATRICES[name]
    shape = (88, 74, 74) if name == "isotropic" else SHAPE
    affine = centred(matrix, shape)
    return ellipsoid(affine, shape, SEMI_AXES, in_slices(matrix, degrees), matrix @ [0.2, 0.3, 0.1]), affine


def brute_force(part: NDArray[np.bool_], affine: NDArray[np.float64], axis: int) -> tuple[float, list[float], float]:
    """A, B and C of a part by all pairs of points halfway between voxels, in the patient's space.

    Several B where several pairs of points are A apart.
    """
    rows, columns = (one for one in range(3) if one != axis)
    normal = np.cross(affine[:3, rows], affine[:3, columns])
    normal /= np.linalg.norm(normal)
    areas = [int(part.take(k, axis=axis).sum()) for k in range(part.shape[axis])]
    points = []
    for voxel in np.argwhere(part):
        if voxel[axis] != np.argmax(areas):
            continue
        for along in (rows, columns):
            for step in (-1, 1):
                other = voxel.copy()
                other[along] += step
                outside = not 0 <= other[along] < part.shape[along] or not part[tuple(other)]
                if outside:
                    points.append(affine[:3, :3] @ ((voxel + other) / 2))
    cloud = np.array(points)
    pairs = np.linalg.norm(cloud[:, None] - cloud[None], axis=-1)
    farthest = np.argwhere(pairs > pairs.max() - 1e-9)
    widths = [float(np.ptp(cloud @ np.cross(normal, cloud[i] - cloud[j]))) / pairs.max() for i, j in farthest]
    weight = sum(1.0 if area > 0.75 * max(areas) else 0.5 if area >= 0.25 * max(areas) else 0.0 for area in areas)
    return float(pairs.max()), widths, weight * abs(float(affine[:3, axis] @ normal))


class TestEllipsoids:
    @pytest.mark.parametrize("degrees", [0, 35])
    @pytest.mark.parametrize("name", MATRICES)
    def test_volume_and_diameters(self, name: str, degrees: float) -> None:
        mask, affine = lesion(name, degrees)
        found = measured(mask, affine)
        a, b, c = SEMI_AXES
        assert found.get("volume").value == pytest.approx(4 / 3 * np.pi * a * b * c / 1000, rel=0.02)
        (part,) = found.details["parts"]
        pixel = 1.2 * np.linalg.norm(affine[:3, :2], axis=0).max()  # allowed, where that is more than 2%
        assert (part["a_mm"], part["b_mm"]) == pytest.approx((2 * a, 2 * b), rel=0.02, abs=pixel)
        # the share of a section at a height h is 1 - (h / c)**2
        normal = in_slices(MATRICES[name], 0)[:, 2]
        heights = (np.arange(mask.shape[2]) - (mask.shape[2] - 1) / 2 - 0.1) * (MATRICES[name][:, 2] @ normal)
        shares = 1 - (heights / c) ** 2
        slices = (shares > 0.75).sum() + 0.5 * ((shares >= 0.25) & (shares <= 0.75)).sum()
        assert part["c_mm"] == pytest.approx(slices * abs(MATRICES[name][:, 2] @ normal), rel=1e-6)
        assert part["abc2_ml"] == pytest.approx(part["a_mm"] * part["b_mm"] * part["c_mm"] / 2000)
        assert numbers(found) == pytest.approx((part["volume_ml"], part["abc2_ml"], 1))

    @pytest.mark.parametrize("name", ["axial", "oblique and tilted"])
    def test_storage_order_changes_nothing(self, name: str) -> None:
        mask, affine = lesion(name, 35)
        plain = measured(mask, affine)
        for order in permutations(range(3)):
            stored = np.flip(mask.transpose(order), axis=order[0])
            signs = [-1 if axis == order[0] else 1 for axis in range(3)]
            again = measured(stored, centred(affine[:3, list(order)] * signs, stored.shape))
            assert numbers(again) == pytest.approx(numbers(plain))
            for key in ("a_mm", "b_mm", "c_mm"):
                assert again.details["parts"][0][key] == pytest.approx(plain.details["parts"][0][key])

    def test_a_tilt_keeps_the_slices_apart_by_their_normal(self) -> None:
        mask = np.zeros((20, 20, 5), dtype=np.uint8)
        mask[5:15, 5:15, 1:4] = 1
        found = measured(mask, centred(tilted((1.0, 1.0, 4.0), 30), mask.shape))
        assert found.get("volume").value == pytest.approx(1.2)  # not 1.2 / cos 30 degrees
        assert found.details["parts"][0]["c_mm"] == pytest.approx(12)


class TestAgainstBruteForce:
    @pytest.mark.parametrize("axis", [0, 1, 2])
    @pytest.mark.parametrize("name", ["axial", "oblique and tilted", "in-plane axes not perpendicular"])
    def test_irregular_shapes(self, name: str, axis: int) -> None:
        generator = np.random.default_rng(axis)
        order = np.roll([0, 1, 2], axis + 1)  # the slice axis is stored as this one
        matrix = MATRICES[name][:, order]
        for _ in range(4):
            coarse = generator.random((7, 6, 5)) < 0.45
            part = coarse.repeat(2, axis=(axis + 1) % 3)
            affine = centred(matrix, part.shape)
            a, b, c = abc_of(part, Plane.of(affine, part.shape))
            true_a, possible_b, true_c = brute_force(part, affine, axis)
            assert (a, c) == pytest.approx((true_a, true_c))
            assert any(b == pytest.approx(one) for one in possible_b)


class TestSliceWeights:
    @pytest.mark.parametrize(
        ("share", "weight"), [(100, 1.0), (76, 1.0), (75, 0.5), (26, 0.5), (25, 0.5), (24, 0.0), (1, 0.0)]
    )
    def test_shares_of_the_largest_area(self, share: int, weight: float) -> None:
        mask = np.zeros((10, 10, 4), dtype=np.uint8)
        mask[:, :, 1] = 1
        mask[:, :, 2].flat[:share] = 1
        part = measured(mask, centred(np.diag([1.0, 1.0, 5.0]), mask.shape)).details["parts"][0]
        assert part["c_mm"] == pytest.approx(5 * (1 + weight))
        assert part["volume_ml"] == pytest.approx((100 + share) * 0.005)


class TestParts:
    def test_are_taken_one_by_one_and_sorted(self) -> None:
        affine = centred(CT, SHAPE)
        small = ellipsoid(affine, SHAPE, (9.0, 6.0, 8.0), centre=(-25, 0, -15))
        large = ellipsoid(affine, SHAPE, (14.0, 10.0, 12.0), centre=(15, 5, 10))
        both = measured(small | large, affine)
        alone = [measured(one, affine) for one in (large, small)]
        assert [part["volume_ml"] for part in both.details["parts"]] == [one.items[0].value for one in alone]
        assert numbers(both) == pytest.approx((*np.sum([numbers(one)[:2] for one in alone], axis=0), 2))

    def test_that_touch_by_a_corner_are_one(self) -> None:
        mask = np.zeros((8, 8, 4), dtype=np.uint8)
        mask[1:3, 1:3, 0], mask[3, 3, 1] = 1, 1
        assert numbers(measured(mask, centred(CT, mask.shape)))[2] == 1
        mask[3, 3, 1], mask[4, 4, 1] = 0, 1
        assert numbers(measured(mask, centred(CT, mask.shape)))[2] == 2

    def test_the_largest_twenty_are_listed_and_all_are_counted(self) -> None:
        mask = np.zeros((60, 4, 4), dtype=np.uint8)
        mask[::2, 0, 0] = 1
        mask[40, 1:3, 0] = 1
        found = measured(mask, centred(CT, mask.shape))
        assert len(found.details["parts"]) == 20 and numbers(found)[2] == 30
        assert found.details["parts"][0]["volume_ml"] == pytest.approx(3 * 0.00075)
        assert found.get("volume").value == pytest.approx(32 * 0.00075)


class TestEnds:
    def test_empty(self) -> None:
        found = measured(np.zeros(SHAPE, dtype=np.uint8), centred(CT, SHAPE))
        assert numbers(found) == (0, 0, 0) and found.details["parts"] == []

    def test_one_voxel(self) -> None:
        mask = np.zeros((5, 5, 3), dtype=np.uint8)
        mask[2, 2, 1] = 1
        affine = centred(tilted((0.5, 0.8, 5.0)), mask.shape)
        found = measured(mask, affine)
        assert numbers(found) == pytest.approx((0.002, 0.8 * 0.5 * 5 / 2000, 1))
        part = found.details["parts"][0]
        assert (part["a_mm"], part["b_mm"], part["c_mm"]) == pytest.approx((0.8, 0.5, 5.0))

    def test_one_slice(self) -> None:
        mask = np.zeros((20, 30, 1), dtype=np.uint8)
        mask[4:14, 5:25] = 1
        found = measured(mask, centred(np.diag([1.0, 1.0, 5.0]), mask.shape))
        assert found.get("volume").value == pytest.approx(1.0) and found.details["parts"][0]["c_mm"] == pytest.approx(5)
        assert found.details["parts"][0]["a_mm"] == pytest.approx(np.hypot(20, 10), rel=0.03)

    def test_items(self) -> None:
        found = measured(*lesion("axial"))
        assert [(item.name, item.unit, item.structure, item.phase) for item in found.items] == [
            ("volume", "mL", 1, 0),
            ("abc2_volume", "mL", 1, 0),
            ("components", "1", 1, 0),
        ]
        assert "comparison only" in found.get("abc2_volume").title and "comparison only" in found.details["notes"][0]
        assert found.details["voxel_volume_ml"] == pytest.approx(0.00075)

    def test_of_several_phases_the_first_is_measured_and_this_is_told(self) -> None:
        mask, affine = lesion("axial")
        labels = np.stack([mask, np.zeros_like(mask)])
        found = measure(labels, volume_series(labels.shape, affine, phases=(4, 5)), HEMORRHAGE, case="x")
        assert numbers(found) == numbers(measured(mask, affine))
        assert {item.phase for item in found.items} == {4}
        assert found.details["notes"][-1] == "only the first of 2 phases is measured"


def test_slices_add_up_to_the_volume() -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[40:60, 30:50, 5:8] = 1
    found = measured(mask, np.diag([-0.5, -0.5, 3.0, 1.0]))
    assert [one["slice"] for one in found.details["slices"]] == [5, 6, 7]
    assert sum(one["volume_ml"] for one in found.details["slices"]) == pytest.approx(numbers(found)[0])


@pytest.mark.parametrize(
    ("evidence", "codes"),
    [
        ({}, []),
        ({"highest_probability": 0.04, "skull_found": 1.0}, []),
        ({"highest_probability": 0.06, "skull_found": 1.0}, ["MAYBE_MISSED"]),
        ({"highest_probability": 0.3, "skull_found": 0.0}, ["SKULL_NOT_FOUND", "MAYBE_MISSED"]),
    ],
)
def test_doubt_about_an_empty_mask(evidence: dict[str, float], codes: list[str]) -> None:
    empty = measured(np.zeros(SHAPE, np.uint8), np.diag([-0.5, -0.5, 3.0, 1.0]))
    assert [flag.code for flag in hemorrhage_flags(empty.items, evidence)] == codes


def test_no_doubt_where_blood_was_found() -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[40:60, 30:50, 5:8] = 1
    found = measured(mask, np.diag([-0.5, -0.5, 3.0, 1.0]))
    assert not hemorrhage_flags(found.items, {"highest_probability": 1.0, "skull_found": 1.0})
