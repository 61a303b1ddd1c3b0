from collections import Counter, defaultdict

from convformer_monai.training.folds import assign_folds


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
