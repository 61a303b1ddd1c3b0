"""Volumes, ejection fractions and mass of hearts whose truth is known from formulas or by counting."""

from __future__ import annotations

from functools import cache
from itertools import permutations, product

import numpy as np
import pytest
from numpy.typing import NDArray
from result_series import centred, positions, volume_series

from convformer_monai.errors import InputRefused
from convformer_monai.measurements.measure import measure
from convformer_monai.measurements.values import Measurements
from convformer_monai.measurements.ventricles import choose_phases
from convformer_monai.phantoms import CardiacAnatomy
from convformer_monai.readers.series import ImageSeries
from convformer_monai.tasks.cardiac import CARDIAC

TIMES = (0.6, 0.0, 1 / 3)  # of the beat: end diastole is not where a default would look for it
AT_ED, AT_ES = 1, 2
SHAPE = (64, 60, 82)
SPACING = np.array([2.6, 2.6, 1.4])


@cache
def heart() -> tuple[CardiacAnatomy, NDArray[np.uint8], NDArray[np.float64]]:
    """An oblique heart on a grid fine enough for 2%: the anatomy, its labels and their affine."""
    anatomy = CardiacAnatomy(rotation=(12.0, -8.0, 25.0))
    affine = centred(anatomy.pose() @ np.diag([-1.0, -1.0, 1.0]) * SPACING, SHAPE)
    affine[:3, 3] += anatomy.pose() @ [20.0, 0.0, -5.0]  # the heart in the middle
    points = positions(affine, SHAPE)
    labels = np.stack([anatomy.label(points, time) for time in TIMES])
    rim = np.ones(SHAPE, dtype=bool)
    rim[1:-1, 1:-1, 1:-1] = False
    assert not labels[:, rim].any()  # the whole heart is in
    return anatomy, labels, affine


def cubes(*sizes: tuple[int, int, int], phases: tuple[int, ...] | None = None) -> tuple[NDArray[np.uint8], ImageSeries]:
    """Phases with that many voxels of RV, MYO and LV, each of 0.05 mL."""
    labels = np.zeros((len(sizes), 400), dtype=np.uint8)
    for phase, counts in enumerate(sizes):
        labels[phase, : sum(counts)] = np.repeat([1, 2, 3], counts)
    shape = (len(sizes), 20, 10, 2)
    spacing = np.diag([2.5, 2.5, 8.0, 1.0])
    return labels.reshape(shape), volume_series(shape, spacing, phases=phases or tuple(range(len(sizes))))


def measured(*sizes: tuple[int, int, int], phases: tuple[int, ...] | None = None, **options: int) -> Measurements:
    labels, series = cubes(*sizes, phases=phases)
    return measure(labels, series, CARDIAC, case="x", **options)


def value(measurements: Measurements, name: str) -> float | None:
    item = measurements.get(name)
    assert item is not None, name
    return item.value


class TestPhantom:
    def test_numbers_are_those_of_the_anatomy(self) -> None:
        anatomy, labels, affine = heart()
        found = measure(labels, volume_series(labels.shape, affine), CARDIAC, case="x")
        ed, es = anatomy.volumes_ml(TIMES[AT_ED]), anatomy.volumes_ml(TIMES[AT_ES])
        truth = {"myocardial_mass": 1.05 * ed["MYO"]}
        for side in ("LV", "RV"):
            name = side.lower()
            truth |= {f"{name}_edv": ed[side], f"{name}_esv": es[side], f"{name}_sv": ed[side] - es[side]}
            truth[f"{name}_ef"] = 100 * (ed[side] - es[side]) / ed[side]
        assert {name: value(found, name) for name in truth} == pytest.approx(truth, rel=0.02)
        assert value(found, "lv_ef") == pytest.approx(100 * anatomy.ejection_fraction, rel=0.02)
        assert found.details["ed"] == {"phase": AT_ED, "chosen": "found"}
        assert found.details["es"] == {"phase": AT_ES, "chosen": "found"}
        assert [item.value for item in found.items if item.name == "rv_volume"] == pytest.approx(
            [anatomy.volumes_ml(time)["RV"] for time in TIMES], rel=0.02
        )

    def test_storage_order_changes_nothing(self) -> None:
        _, labels, affine = heart()
        labels = labels[:, ::3, ::3, ::8]
        affine = affine @ np.diag([3, 3, 8, 1])
        plain = measure(labels, volume_series(labels.shape, affine), CARDIAC, case="x")
        for order, flips in product(permutations(range(3)), ((1, 1, 1), (-1, 1, -1))):
            steps = tuple(slice(None, None, flip) for flip in flips)
            stored = labels.transpose(0, *(axis + 1 for axis in order))[(slice(None), *steps)]
            matrix = centred(affine[:3, list(order)] * flips, stored.shape[1:])
            again = measure(stored, volume_series(stored.shape, matrix), CARDIAC, case="x")
            assert [item.value for item in again.items] == pytest.approx([item.value for item in plain.items])


class TestNumbers:
    def test_items_units_codes_and_order(self) -> None:
        found = measured((30, 40, 60), (15, 44, 24))
        rows = [(item.name, item.unit, item.structure, item.phase) for item in found.items]
        assert rows[:9] == [
            ("lv_ef", "%", 3, None),
            ("lv_edv", "mL", 3, 0),
            ("lv_esv", "mL", 3, 1),
            ("lv_sv", "mL", 3, None),
            ("rv_ef", "%", 1, None),
            ("rv_edv", "mL", 1, 0),
            ("rv_esv", "mL", 1, 1),
            ("rv_sv", "mL", 1, None),
            ("myocardial_mass", "g", 2, 0),
        ]
        volumes = [("rv_volume", 1), ("myo_volume", 2), ("lv_volume", 3)]
        assert rows[9:] == [(name, "mL", index, phase) for phase in (0, 1) for name, index in volumes]
        values = [60, 3.0, 1.2, 1.8, 50, 1.5, 0.75, 0.75, 2.1, 1.5, 2.0, 3.0, 0.75, 2.2, 1.2]
        assert [item.value for item in found.items] == pytest.approx(values)
        assert all(item.code is not None for item in found.items)
        assert len({(item.name, item.phase, item.structure) for item in found.items}) == len(found.items)

    def test_details(self) -> None:
        labels, series = cubes((30, 40, 60), (15, 44, 24), phases=(4, 9))
        series = volume_series(labels.shape, series.affine, phases=(4, 9), phase_times_ms=(160.5, 360.0))
        details = measure(labels, series, CARDIAC, case="x").details
        assert details["voxel_volume_ml"] == pytest.approx(0.05)
        assert details["myocardial_density_g_per_ml"] == 1.05 and details["notes"] == []
        assert [(phase["phase"], phase["time_ms"]) for phase in details["phases"]] == [(4, 160.5), (9, 360.0)]
        assert details["phases"][1]["volumes_ml"] == pytest.approx({"RV": 0.75, "MYO": 2.2, "LV": 1.2})

    def test_the_right_ventricle_is_measured_at_the_phases_of_the_left_one(self) -> None:
        found = measured((20, 1, 50), (60, 1, 30), (10, 1, 40))
        assert value(found, "rv_edv") == pytest.approx(1.0) and value(found, "rv_esv") == pytest.approx(3.0)
        assert value(found, "rv_ef") == pytest.approx(-200)

    @pytest.mark.parametrize("empty", ["lv", "rv"])
    def test_ejection_fraction_of_an_empty_ventricle_is_undefined(self, empty: str) -> None:
        size = (0, 5, 20) if empty == "rv" else (20, 5, 0)
        found = measured(size, size)
        other = {"lv": "rv", "rv": "lv"}[empty]
        assert value(found, f"{empty}_ef") is None and value(found, f"{other}_ef") == 0
        assert [value(found, f"{empty}_{key}") for key in ("edv", "esv", "sv")] == [0, 0, 0]

    def test_ventricle_that_empties(self) -> None:
        assert value(measured((0, 1, 40), (0, 1, 0)), "lv_ef") == 100


class TestPhases:
    def test_of_the_user(self) -> None:
        found = measured((1, 10, 60), (1, 20, 50), (1, 30, 20), ed=1, es=0)
        assert found.details["ed"] == {"phase": 1, "chosen": "user"}
        assert found.details["es"] == {"phase": 0, "chosen": "user"}
        assert value(found, "lv_edv") == pytest.approx(2.5) and value(found, "lv_esv") == pytest.approx(3.0)
        assert value(found, "lv_ef") == pytest.approx(-20) and value(found, "myocardial_mass") == pytest.approx(1.05)

    @pytest.mark.parametrize(
        ("given", "ed", "es"),
        [
            ({"ed": 2}, (2, "user"), (3, "found")),
            ({"es": 0}, (1, "found"), (0, "user")),
            ({"ed": 3}, (3, "user"), (2, "found")),  # the smallest is taken: the next one
            ({"es": 1}, (0, "found"), (1, "user")),  # the largest is taken: the next one
        ],
    )
    def test_one_of_the_user_and_one_found(
        self, given: dict[str, int], ed: tuple[int, str], es: tuple[int, str]
    ) -> None:
        details = measured((1, 1, 50), (1, 1, 60), (1, 1, 30), (1, 1, 20), **given).details
        assert details["ed"] == dict(zip(("phase", "chosen"), ed, strict=True))
        assert details["es"] == dict(zip(("phase", "chosen"), es, strict=True))

    def test_numbers_are_those_of_the_source(self) -> None:
        sizes = ((1, 1, 50), (1, 1, 20), (1, 9, 60))
        found = measured(*sizes, phases=(3, 7, 12))
        assert (found.details["ed"]["phase"], found.details["es"]["phase"]) == (12, 7)
        phases = {item.name: item.phase for item in found.items}
        assert (phases["lv_edv"], phases["lv_esv"], phases["myocardial_mass"]) == (12, 7, 12)
        assert [item.phase for item in found.items if item.name == "lv_volume"] == [3, 7, 12]
        assert value(found, "lv_edv") == pytest.approx(3) and value(found, "lv_esv") == pytest.approx(1)
        chosen = measured(*sizes, phases=(3, 7, 12), ed=3, es=12)
        assert value(chosen, "lv_edv") == pytest.approx(2.5) and value(chosen, "lv_esv") == pytest.approx(3)

    def test_equal_volumes_still_give_two_phases(self) -> None:
        for volumes in ([5.0, 5.0, 5.0], [0.0, 0.0]):
            choice = choose_phases(volumes, range(2, 2 + len(volumes)), None, None)
            assert choice["ed"]["phase"] != choice["es"]["phase"]
        assert choose_phases([5.0, 5.0], (0, 1), 1, None)["es"] == {"phase": 0, "chosen": "found"}

    def test_single_phase(self) -> None:
        found = measured((10, 20, 30))
        assert [item.name for item in found.items] == ["myocardial_mass", "rv_volume", "myo_volume", "lv_volume"]
        assert [item.value for item in found.items] == pytest.approx([1.05, 0.5, 1.0, 1.5])
        assert found.details["ed"] == found.details["es"] == {"phase": None, "chosen": "only phase"}
        assert len(found.details["notes"]) == 2 and "may not be end diastole" in found.details["notes"][1]

    @pytest.mark.parametrize(("given", "other"), [("ed", "es"), ("es", "ed")])
    def test_single_phase_of_the_user(self, given: str, other: str) -> None:
        found = measured((10, 20, 30), phases=(6,), **{given: 6})
        assert found.details[given] == {"phase": 6, "chosen": "user"}
        assert found.details[other] == {"phase": None, "chosen": "only phase"}
        assert found.get("lv_ef") is None and value(found, "myocardial_mass") == pytest.approx(1.05)
        assert any("may not be end diastole" in note for note in found.details["notes"]) == (given == "es")

    def test_refused(self) -> None:
        sizes = ((1, 1, 50), (1, 1, 20))
        for given in ({"ed": 0}, {"es": 2}, {"ed": -1}):
            with pytest.raises(InputRefused, match=r"case\.nii\.gz has no phase .* \(from 0\): 3, 7") as refused:
                measured(*sizes, phases=(3, 7), **given)
            assert refused.value.code == "PHASE_NOT_FOUND" and "\n" not in str(refused.value)
        with pytest.raises(InputRefused, match="phase 1 cannot be both") as refused:
            measured(*sizes, ed=1, es=1)
        assert refused.value.code == "OPTION"
