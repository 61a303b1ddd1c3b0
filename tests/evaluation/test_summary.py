import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import bootstrap

from convformer_monai.evaluation import StructureScore, SummaryRow, VolumeScore, bootstrap_interval, summarise

NAN = float("nan")


def volume(patient: str, phase: str, *dices: float, hd: float = 2.0) -> VolumeScore:
    parts = [
        StructureScore(name, dice, hd, hd / 2, 11, 10) for name, dice in zip(("RV", "MYO", "LV"), dices, strict=True)
    ]
    return VolumeScore(f"{patient}_{phase}", patient, phase, tuple(parts))


def row(rows: list[SummaryRow], phase: str, structure: str) -> SummaryRow:
    (found,) = [one for one in rows if (one.phase, one.structure) == (phase, structure)]
    return found


def test_interval_is_that_of_all_possible_draws_of_patients() -> None:
    values, patients = [0.8, 0.9, 0.5, 0.7, 0.6], ["a", "a", "b", "c", "c"]
    groups = {"a": [0.8, 0.9], "b": [0.5], "c": [0.7, 0.6]}
    means = [np.mean(sum((groups[one] for one in draw), [])) for draw in product(groups, repeat=3)]
    low, high = np.quantile(means, [0.1, 0.9])
    assert bootstrap_interval(values, patients, level=0.8) == pytest.approx((low, high), abs=1e-9)


def test_interval_agrees_with_scipy_for_one_volume_a_patient() -> None:
    values = np.random.default_rng(1).beta(8, 2, size=25)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2))
    ours = bootstrap_interval(values, [str(i) for i in range(25)])
    assert ours == pytest.approx((theirs.confidence_interval.low, theirs.confidence_interval.high), abs=0.003)


def test_more_volumes_of_the_same_patients_do_not_narrow_the_interval() -> None:
    few = bootstrap_interval([0.6, 0.8, 0.9], ["a", "b", "c"])
    many = bootstrap_interval([0.6] * 50 + [0.8] * 50 + [0.9] * 50, ["a"] * 50 + ["b"] * 50 + ["c"] * 50)
    assert many == pytest.approx(few)
    assert few[1] - few[0] > 0.2


def test_interval_repeats_and_does_not_depend_on_the_order_of_drawing() -> None:
    values, patients = np.random.default_rng(0).random(40), [str(i // 2) for i in range(40)]
    first = bootstrap_interval(values, patients)
    assert first == bootstrap_interval(values, patients)
    assert first != bootstrap_interval(values, patients, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convformer_monai.evaluation.summary.CHUNK", 100)
        assert bootstrap_interval(values, patients) == first


def test_one_patient_has_no_interval() -> None:
    assert all(math.isnan(bound) for bound in bootstrap_interval([0.8, 0.9], ["a", "a"]))
    assert all(math.isnan(bound) for bound in bootstrap_interval([], []))


def test_summary_by_phase_and_structure() -> None:
    scores = [
        volume("a", "ES", 0.5, 0.6, 0.7),
        volume("a", "ED", 0.8, 0.9, 1.0, hd=4.0),
        volume("b", "ED", 0.6, 0.7, 0.8),
    ]
    rows = summarise(scores)
    assert [(one.phase, one.structure) for one in rows] == list(
        product(("ED", "ES", "all"), ("RV", "MYO", "LV", "mean"))
    )
    ed = row(rows, "ED", "RV")
    assert ed.volumes == 2
    assert ed.metrics["dice"].mean == pytest.approx(0.7)
    assert ed.metrics["dice"].std == pytest.approx(math.sqrt(0.02))
    assert ed.metrics["hd95_mm"].mean == pytest.approx(3)
    assert ed.metrics["volume_error_ml"].mean == pytest.approx(1)
    everything = row(rows, "all", "mean")
    assert everything.metrics["dice"].mean == pytest.approx((0.6 + 0.9 + 0.7) / 3)
    assert everything.metrics["dice"].median == pytest.approx(0.7)
    assert everything.metrics["asd_mm"].median == pytest.approx(1)
    assert (everything.metrics["dice"].volumes, everything.metrics["dice"].patients) == (3, 2)
    single = row(rows, "ES", "LV").metrics["dice"]
    assert single.mean == 0.7 and math.isnan(single.std) and math.isnan(single.ci95[0])


def test_without_phases_there_is_one_group() -> None:
    assert {one.phase for one in summarise([volume("a", "", 1, 1, 1)])} == {"all"}


def test_undefined_distances_are_left_out_and_counted() -> None:
    missed = StructureScore("RV", 0, NAN, NAN, 0, 10)
    absent = StructureScore("RV", 1, NAN, NAN, 0, 0)
    found = StructureScore("RV", 0.8, 3, 1, 9, 10)
    rows = summarise(
        [VolumeScore(str(i), str(i), "", (part,)) for i, part in enumerate((missed, absent, found, found))]
    )
    for structure in ("RV", "mean"):
        one = row(rows, "all", structure)
        assert (one.volumes, one.one_empty, one.both_empty) == (4, 1, 1)
        assert one.metrics["dice"].mean == pytest.approx((0 + 1 + 0.8 + 0.8) / 4)
        assert (one.metrics["hd95_mm"].mean, one.metrics["hd95_mm"].volumes) == (3, 2)


def test_nothing_cannot_be_summarised() -> None:
    with pytest.raises(ValueError, match="empty"):
        summarise([])
