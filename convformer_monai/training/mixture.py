"""Slices of several sources as one training set: weights for each, folds that keep patients together, windows.

Published slices of head CT come as 8-bit pictures without spacing. What is known of a source (how much of the patient a
picture shows, and which Hounsfield window its grey levels stand for) is given once, in the bundle's config.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from convformer_monai.datalist import read_cases

__all__ = ["assign_folds", "read_mixture"]


def read_mixture(
    dataset_dir: object, parts: Sequence[Mapping[str, Any]], sources: Mapping[str, Mapping[str, Any]], seed: int = 0
) -> list[dict[str, Any]]:
    """Reads the cases of several sections of a datalist.

    Args:
        dataset_dir: see :func:`convformer_monai.datalist.read_cases`.
        parts: what to take. Each has ``section``, and may have ``weight`` (how often a slice of it is drawn, relative
            to the others; 1), ``folds`` (into how many it is divided) with ``fold`` (which of them is held out;
            ``None`` for none) and ``held_out`` (take that fold instead of the others).
        sources: ``extent_mm`` and ``window`` by the name of a source, or of a section for cases that name no source;
            see :class:`convformer_monai.transforms.LoadWindowedSliced`.
        seed: of the folds.

    Returns:
        The cases, as ``read_cases`` gives them, with ``section``, ``weight``, ``fold``, ``extent_mm`` and ``window``.

    Raises:
        InputRefused: if the datalist or a file is unusable.
        ValueError: if a part's key is unknown, its fold does not exist, or a source is not described.
    """
    cases: list[dict[str, Any]] = []
    for part in parts:
        unknown = set(part) - {"section", "weight", "folds", "fold", "held_out"}
        if unknown or "section" not in part:
            raise ValueError(f"parts must have section, and weight, folds, fold or held_out, got {dict(part)}")
        section, held_out = str(part["section"]), part.get("held_out", False)
        found = read_cases(dataset_dir, section, without_labels=True, patient_from_id=False)
        folds = int(part.get("folds", 1))
        fold = part.get("fold")
        if fold is not None and not 0 <= fold < folds:
            raise ValueError(f"fold of {section!r} must be None or 0 to {folds - 1}, got {fold}")
        for case, number in zip(found, assign_folds(found, folds, seed), strict=True):
            if (number == fold) == held_out:
                about = _about(case["source"] or section, sources)
                cases.append({**case, "section": section, "weight": part.get("weight", 1), "fold": number, **about})
    return cases


def _about(source: str, sources: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    if source not in sources:
        raise ValueError(f"sources must describe {source!r}, got {', '.join(sources)} only")
    return {"source": source, "extent_mm": sources[source]["extent_mm"], "window": sources[source]["window"]}


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
