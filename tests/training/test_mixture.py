import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convformer_monai.training.mixture import assign_folds, read_mixture

SOURCES = {"a": {"extent_mm": 200, "window": [0, 80]}, "normal": {"extent_mm": 150, "window": [0, 255]}}


def cases(*patients: tuple[str, str, int]) -> list[dict[str, str]]:
    return [{"source": source, "patient": patient} for source, patient, count in patients for _ in range(count)]


def test_folds_keep_patients_together_and_spread_sources():
    many = cases(*[("a", f"a{i}", 1 + i % 3) for i in range(30)], *[("b", f"b{i}", 2) for i in range(10)])
    folds = assign_folds(many, 5)
    owners = defaultdict(set)
    for case, fold in zip(many, folds, strict=True):
        owners[case["source"], case["patient"]].add(fold)
    assert all(len(found) == 1 for found in owners.values())
    for source, total in (("a", 60), ("b", 20)):
        sizes = Counter(fold for case, fold in zip(many, folds, strict=True) if case["source"] == source)
        assert set(sizes) == set(range(5))
        assert max(sizes.values()) - min(sizes.values()) <= 3 and sum(sizes.values()) == total


def test_folds_are_the_same_again_and_differ_by_seed():
    many = cases(*[("a", f"a{i}", 1) for i in range(30)])
    assert assign_folds(many, 5, 1) == assign_folds(many, 5, 1) != assign_folds(many, 5, 2)


def test_order_of_the_datalist_does_not_matter():
    many = cases(*[("a", f"a{i}", 2) for i in range(12)])
    found = {case["patient"]: fold for case, fold in zip(many, assign_folds(many, 3), strict=True)}
    again = {case["patient"]: fold for case, fold in zip(many[::-1], assign_folds(many[::-1], 3), strict=True)}
    assert found == again


def test_neighbours_without_a_patient_stay_together():
    assert assign_folds(cases(("", "", 10)), 5) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "x.png")
    gold = [{"id": f"g{i}", "patient": f"p{i}", "source": "a", "image": "x.png", "label": "x.png"} for i in range(10)]
    normal = [{"id": f"n{i}", "image": "x.png", "label": None} for i in range(10)]
    (tmp_path / "datalist.json").write_text(json.dumps({"gold": gold, "normal": normal}))
    return tmp_path


def test_each_fold_is_tested_by_weights_that_never_saw_it(data):
    parts = [{"section": "gold", "folds": 5, "weight": 3}, {"section": "normal", "folds": 5}]
    tested = []
    for fold in range(5):
        train = read_mixture(data, [{**part, "fold": fold} for part in parts], SOURCES)
        test = read_mixture(data, [{**part, "fold": fold, "held_out": True} for part in parts], SOURCES)
        assert not {case["id"] for case in train} & {case["id"] for case in test}
        assert len(train) + len(test) == 20
        tested += [case["id"] for case in test]
    assert sorted(tested) == sorted([f"g{i}" for i in range(10)] + [f"n{i}" for i in range(10)])


def test_without_a_fold_everything_is_taken_with_what_is_known_of_it(data):
    found = read_mixture(
        data, [{"section": "gold", "folds": 5, "fold": None, "weight": 3}, {"section": "normal"}], SOURCES
    )
    assert [case["weight"] for case in found] == [3] * 10 + [1] * 10
    assert (found[0]["extent_mm"], found[-1]["window"], found[-1]["label"]) == (200, [0, 255], "")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"section": "gold", "wieght": 2}, "parts must"),
        ({"weight": 2}, "parts must"),
        ({"section": "gold", "folds": 5, "fold": 5}, "0 to 4"),
        ({"section": "gold", "folds": 0}, "at least 1"),
    ],
)
def test_wrong_parts(data, part, message):
    with pytest.raises(ValueError, match=message):
        read_mixture(data, [part], SOURCES)


def test_source_that_is_not_described(data):
    with pytest.raises(ValueError, match="must describe 'a'"):
        read_mixture(data, [{"section": "gold"}], {"normal": SOURCES["normal"]})
