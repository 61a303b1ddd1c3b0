"""Paired comparison of two networks."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from convformer_monai.errors import InputRefused
from convformer_monai.evaluation.comparison import CaseScores, compare, holm, read_scores


def write_cases(path: Path, rows: list[tuple[str, str, str, str, float]]) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "patient", "phase", "structure", "dice"])
        writer.writerows(rows)
    return path


class TestReadScores:
    def test_means_over_structures_then_seeds(self, tmp_path: Path) -> None:
        first = write_cases(
            tmp_path / "1.csv",
            [("a", "p", "ED", "RV", 0.5), ("a", "p", "ED", "LV", 0.7), ("a", "p", "ES", "RV", 0.1)],
        )
        second = write_cases(tmp_path / "2.csv", [("a", "p", "ED", "RV", 1.0), ("a", "p", "ES", "RV", 0.3)])
        scores = read_scores([first, second])
        assert scores.dice["a ED"] == pytest.approx((0.6, 1.0)) and scores.dice["a ES"] == pytest.approx((0.1, 0.3))
        assert scores.statistics().mean == pytest.approx(0.5) and scores.of_seeds() == pytest.approx([0.35, 0.65])
        assert scores.patients == {"a ED": "p", "a ES": "p"}

    def test_pictures_have_neither_phase_nor_structure(self, tmp_path: Path) -> None:
        path = tmp_path / "pictures.csv"
        path.write_text("case,patient,source,dice\na,p,kit,0.25\n")
        assert read_scores([path]).dice == {"a": (0.25,)}

    @pytest.mark.parametrize("rows", [[("b", "p", "", "RV", 0.5)], []])
    def test_other_cases_are_refused(self, tmp_path: Path, rows: list) -> None:
        first = write_cases(tmp_path / "1.csv", [("a", "p", "", "RV", 0.5)])
        with pytest.raises(InputRefused, match="same ones"):
            read_scores([first, write_cases(tmp_path / "2.csv", rows)])

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("what,else\n1,2\n")
        for name in ("text", "missing"):
            with pytest.raises(InputRefused, match="not a per_case.csv"):
                read_scores([tmp_path / name])


def scores_of(values: dict[str, float] | dict[str, tuple[float, ...]]) -> CaseScores:
    dice = {case: value if isinstance(value, tuple) else (value,) for case, value in values.items()}
    return CaseScores(dice, {case: case.split("_")[0] for case in values})


def table_of(values: np.ndarray) -> CaseScores:
    return scores_of({f"p{number:03}": tuple(map(float, row)) for number, row in enumerate(values)})


class TestCompare:
    def test_constant_gain_has_a_narrow_interval_and_a_small_p(self) -> None:
        cases = {f"p{i}_{phase}": 0.5 + 0.04 * i for i in range(10) for phase in ("ED", "ES")}
        better = scores_of({case: dice + 0.05 for case, dice in cases.items()})
        found = compare(better, scores_of(cases))
        assert found.mean == pytest.approx(0.05) and found.ci95 == pytest.approx((0.05, 0.05))
        assert found.p < 1e-10 and found.seeds == 1

    def test_one_seed_is_the_paired_t_test_over_patients(self) -> None:
        random = np.random.default_rng(0)
        first, second = random.uniform(size=(2, 15, 1))
        expected = stats.ttest_rel(first[:, 0], second[:, 0])
        found = compare(table_of(first), table_of(second))
        assert found.p == pytest.approx(expected.pvalue)
        assert found.ci95 == pytest.approx(tuple(expected.confidence_interval()))

    def test_cases_of_one_patient_count_once(self) -> None:
        first = {"a_1": 0.5, "a_2": 0.7, "b_1": 0.9}
        found = compare(scores_of(first), scores_of(dict.fromkeys(first, 0.0)))
        assert found.mean == pytest.approx((0.6 + 0.9) / 2)

    def test_seeds_that_disagree_widen_the_interval(self) -> None:
        """By hand: mean squares 0.02 (patients), 0.54 (seeds), 0 (rest) of three patients and two seeds."""
        patients, seeds = np.array([[0.0], [0.1], [0.2]]), np.array([[-0.3, 0.3]])
        values = 0.5 + patients + seeds
        found = compare(table_of(values), table_of(np.zeros((3, 2))))
        error = math.sqrt((0.02 + 0.54) / 6)
        freedom = (0.02 + 0.54) ** 2 / (0.02**2 / 2 + 0.54**2 / 1)
        half = stats.t.ppf(0.975, freedom) * error
        assert found.mean == pytest.approx(0.6) and found.seeds == 2
        assert found.ci95 == pytest.approx((0.6 - half, 0.6 + half))
        assert found.p == pytest.approx(2 * stats.t.sf(0.6 / error, freedom))

    def test_effects_within_the_rest_are_left_out(self) -> None:
        values = np.array([[0.1, -0.1], [-0.1, 0.1], [0.1, -0.1], [-0.1, 0.1]]) + 0.05
        found = compare(table_of(values), table_of(np.zeros_like(values)))
        expected = stats.ttest_1samp(values.ravel(), 0.0)
        assert found.p == pytest.approx(expected.pvalue)
        assert found.ci95 == pytest.approx(tuple(expected.confidence_interval()))

    @pytest.mark.parametrize(("of_patients", "of_seeds"), [(0.05, 0.0), (0.05, 0.02), (0.0, 0.05), (0.0, 0.0)])
    def test_interval_holds_the_truth_about_as_often_as_it_says(self, of_patients: float, of_seeds: float) -> None:
        random = np.random.default_rng(0)
        zero, times, held = table_of(np.zeros((10, 3))), 400, 0
        for _ in range(times):
            values = random.normal(0, of_patients, (10, 1)) + random.normal(0, of_seeds, (1, 3))
            low, high = compare(table_of(values + random.normal(0.1, 0.03, (10, 3))), zero).ci95
            held += low <= 0.1 <= high
        assert 0.9 <= held / times <= 0.99

    def test_equal_scores(self) -> None:
        scores = scores_of({"a": 0.5, "b": 0.6})
        found = compare(scores, scores)
        assert found.mean == 0 and math.isnan(found.p)

    def test_one_patient_says_nothing_about_others(self) -> None:
        found = compare(scores_of({"a": 0.5}), scores_of({"a": 0.4}))
        assert found.mean == pytest.approx(0.1) and math.isnan(found.p) and math.isnan(found.ci95[0])

    def test_other_cases_or_seeds_are_refused(self) -> None:
        with pytest.raises(InputRefused, match="different cases"):
            compare(scores_of({"a": 0.5}), scores_of({"b": 0.5}))
        with pytest.raises(InputRefused, match="1 and 2 seeds"):
            compare(scores_of({"a": 0.5}), scores_of({"a": (0.5, 0.6)}))


def test_holm() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": math.nan})
    assert adjusted["a"] == pytest.approx(0.03)
    assert adjusted["c"] == pytest.approx(0.06)
    assert adjusted["b"] == pytest.approx(0.06), "never smaller than the one before"
    assert math.isnan(adjusted["d"])
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
