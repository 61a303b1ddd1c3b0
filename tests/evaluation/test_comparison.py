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
        assert scores.dice == pytest.approx({"a ED": 0.8, "a ES": 0.2})
        assert scores.patients == {"a ED": "p", "a ES": "p"}

    def test_pictures_have_neither_phase_nor_structure(self, tmp_path: Path) -> None:
        path = tmp_path / "pictures.csv"
        path.write_text("case,patient,source,dice\na,p,kit,0.25\n")
        assert read_scores([path]).dice == {"a": 0.25}

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


def scores_of(values: dict[str, float]) -> CaseScores:
    return CaseScores(values, {case: case.split("_")[0] for case in values})


class TestCompare:
    def test_constant_gain_has_a_narrow_interval_and_a_small_p(self) -> None:
        cases = {f"p{i}_{phase}": 0.5 + 0.04 * i for i in range(10) for phase in ("ED", "ES")}
        better = scores_of({case: dice + 0.05 for case, dice in cases.items()})
        found = compare(better, scores_of(cases))
        assert found.difference.mean == pytest.approx(0.05)
        assert found.difference.ci95 == pytest.approx((0.05, 0.05))
        assert found.difference.patients == 10
        assert found.p == pytest.approx(2 / 2**10), "ten patients, not twenty cases, all in one direction"

    def test_p_is_that_of_wilcoxon_on_patients(self) -> None:
        random = np.random.default_rng(0)
        first = {f"p{i}": float(random.uniform()) for i in range(15)}
        second = {f"p{i}": float(random.uniform()) for i in range(15)}
        expected = stats.wilcoxon([first[case] - second[case] for case in first]).pvalue
        assert compare(scores_of(first), scores_of(second)).p == pytest.approx(expected)

    def test_equal_scores(self) -> None:
        scores = scores_of({"a": 0.5, "b": 0.6})
        found = compare(scores, scores)
        assert found.difference.mean == 0 and math.isnan(found.p)

    def test_other_cases_are_refused(self) -> None:
        with pytest.raises(InputRefused, match="different cases"):
            compare(scores_of({"a": 0.5}), scores_of({"b": 0.5}))


def test_holm() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": math.nan})
    assert adjusted["a"] == pytest.approx(0.03)
    assert adjusted["c"] == pytest.approx(0.06)
    assert adjusted["b"] == pytest.approx(0.06), "never smaller than the one before"
    assert math.isnan(adjusted["d"])
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
