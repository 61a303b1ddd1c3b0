"""Two networks on the same cases: is the difference more than chance?

Cases of one patient resemble each other, and so do those of one training. So the difference of patient p with seed s,
the mean over the patient's cases, is taken as ``mean + patient[p] + seed[s] + rest[p, s]`` with crossed random effects
of patients and seeds: the mixed model of a balanced two-way table, solved in closed form by its mean squares
(Searle, Casella and McCulloch, "Variance Components", Wiley 1992), with Satterthwaite's degrees of freedom (Biometrics
Bulletin, 1946). Trained once, it is Student's paired t-test over patients, and says nothing about another training. The
p-values of a family are adjusted by Holm's step-down method (Scandinavian Journal of Statistics, 1979).
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.evaluation.summary import LEVEL, Statistics, describe

__all__ = ["CaseScores", "PairedDifference", "compare", "holm", "read_scores"]


@dataclass(frozen=True)
class CaseScores:
    """Dice of the same cases from one network, trained once or with several seeds.

    Attributes:
        dice: by case, one for each seed, 0-1; mean over structures.
        patients: to whom each case belongs.
    """

    dice: dict[str, tuple[float, ...]]
    patients: dict[str, str]

    def statistics(self) -> Statistics:
        """Mean over cases and seeds, with the interval that draws patients."""
        means = [float(np.mean(dice)) for dice in self.dice.values()]
        return describe(means, [self.patients[case] for case in self.dice])

    def of_seeds(self) -> list[float]:
        """Mean over cases, for each seed."""
        return [float(mean) for mean in np.mean(list(self.dice.values()), axis=0)]

    def of_patients(self) -> NDArray[np.float64]:
        """Mean over the cases of each patient, for each seed: ``(patients, seeds)``, patients in order of names."""
        rows: dict[str, list[tuple[float, ...]]] = defaultdict(list)
        for case, dice in self.dice.items():
            rows[self.patients[case]].append(dice)
        return np.array([np.mean(rows[patient], axis=0) for patient in sorted(rows)])


@dataclass(frozen=True)
class PairedDifference:
    """One network minus another, on the same cases and seeds, by the mixed model of this module.

    Attributes:
        mean: over patients and seeds.
        ci95: lower and upper bound; NaN with one patient.
        p: two-sided, that the mean is 0; NaN with one patient, or if nothing differs.
        seeds: how many trainings of each.
    """

    mean: float
    ci95: tuple[float, float]
    p: float
    seeds: int


def read_scores(files: Sequence[Path]) -> CaseScores:
    """Reads what evaluations of one network left behind.

    Args:
        files: a ``per_case.csv`` for each seed, or a ``slices.csv``, of which the expert slices alone count.

    Raises:
        InputRefused: if a file cannot be read, or they are not of the same cases.
    """
    values: dict[str, list[float]] = defaultdict(list)
    patients: dict[str, str] = {}
    counts = []
    for file in files:
        parts: dict[str, list[float]] = defaultdict(list)
        try:
            with open(file, encoding="utf-8", newline="") as opened:
                for row in csv.DictReader(opened):
                    if row.get("seen_in", "expert") != "expert" or row["dice"] == "nan":
                        continue
                    case = " ".join(filter(None, (row["case"], row.get("phase"))))
                    parts[case].append(float(row["dice"]))
                    patients[case] = row["patient"]
        except (OSError, KeyError, ValueError) as error:
            raise InputRefused(RefusalCode.SCORES, f"{file} is not a per_case.csv of an evaluation: {error}") from error
        for case, dice in parts.items():
            values[case].append(float(np.mean(dice)))
        counts.append(len(parts))
    if not values or any(len(dice) < len(files) for dice in values.values()):
        raise InputRefused(
            RefusalCode.SCORES, f"{', '.join(map(str, files))} hold {counts} cases; they must be the same ones"
        )
    return CaseScores({case: tuple(dice) for case, dice in values.items()}, patients)


def compare(scores: CaseScores, reference: CaseScores) -> PairedDifference:
    """Returns ``scores`` minus ``reference``.

    Raises:
        InputRefused: if they are not of the same cases, or of as many seeds.
    """
    if scores.dice.keys() != reference.dice.keys():
        raise InputRefused(
            RefusalCode.SCORES, "two networks were evaluated on different cases, so they cannot be compared"
        )
    first, second = scores.of_patients(), reference.of_patients()
    if first.shape != second.shape:
        raise InputRefused(
            RefusalCode.SCORES, f"two networks were trained with {first.shape[1]} and {second.shape[1]} seeds"
        )
    differences = first - second
    mean = float(differences.mean())
    variance, freedom = _variance_of_mean(differences)
    if not freedom:
        return PairedDifference(mean, (float("nan"), float("nan")), float("nan"), differences.shape[1])
    error = variance**0.5
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom)) if error else float("nan" if mean == 0 else 0)
    return PairedDifference(mean, (mean - half, mean + half), p, differences.shape[1])


def _variance_of_mean(values: NDArray[np.float64]) -> tuple[float, float]:
    """Variance of the mean of ``(patients, seeds)`` if both are random, and its degrees of freedom; 0 of one patient.

    An effect whose variance would come out negative is left out of the model, and joins the rest.
    """
    patients, seeds = values.shape
    if patients < 2:
        return float("nan"), 0
    if seeds < 2:
        return float(values.var(ddof=1)) / patients, patients - 1
    by_patient, by_seed = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    effects = [
        (seeds * patients * float(by_patient.var()), patients - 1),  # sum of squares, degrees of freedom
        (seeds * patients * float(by_seed.var()), seeds - 1),
    ]
    rest = (float(np.square(values - by_patient - by_seed + values.mean()).sum()), (patients - 1) * (seeds - 1))
    kept: list[tuple[float, int]] = []
    for effect in sorted(effects, key=_mean_square):
        if _mean_square(effect) > _mean_square(rest):
            kept.append(effect)
        else:
            rest = (rest[0] + effect[0], rest[1] + effect[1])
    terms = [*kept, (-rest[0], rest[1])] if len(kept) == 2 else kept or [rest]
    whole = sum(map(_mean_square, terms))
    spread = sum(_mean_square(term) ** 2 / term[1] for term in terms)
    return whole / (patients * seeds), whole**2 / spread if spread else patients - 1


def _mean_square(effect: tuple[float, int]) -> float:
    return effect[0] / effect[1]


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Adjusts the p-values of a family of tests by Holm's method; NaN stays, and does not count.

    Args:
        values: p-values by name.
    """
    known = sorted((p, name) for name, p in values.items() if not np.isnan(p))
    adjusted = dict(values)
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[name] = largest
    return adjusted
