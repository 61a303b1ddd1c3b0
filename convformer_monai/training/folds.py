"""Folds that keep patients together."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

__all__ = ["assign_folds"]


def assign_folds(cases: Sequence[Mapping[str, str]], folds: int, seed: int = 0) -> list[int]:
    """Divides cases into folds so that no patient is in two, and each source is spread over all.

    Patients are taken source by source, in an order that the seed shuffles, those with most cases first, each into the
    fold that has the fewest cases so far. Cases whose patient is unknown may be neighbours of one scan; they are
    divided into runs of consecutive ones.

    Args:
        cases: ``source`` and ``patient`` of each; both may be empty.
        folds: how many.
        seed: of the order.

    Returns:
        The fold of each case.
    """
    if folds < 1:
        raise ValueError(f"folds must be at least 1, got {folds}")
    nameless = [index for index, case in enumerate(cases) if not case["patient"]]
    result = [0] * len(cases)
    for number, index in enumerate(nameless):
        result[index] = number * folds // len(nameless)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        if case["patient"]:
            groups[case["source"], case["patient"]].append(index)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda key: (key[0], -len(groups[key])))
    sizes = {source: [0] * folds for source, _ in order}
    total = [0] * folds
    for key in order:
        fold = min(range(folds), key=lambda one: (sizes[key[0]][one], total[one]))
        for index in groups[key]:
            result[index] = fold
        sizes[key[0]][fold] += len(groups[key])
        total[fold] += len(groups[key])
    return result
