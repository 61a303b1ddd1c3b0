"""Two networks on the same cases: is the difference more than chance?

The difference of a case is that of its scores, each averaged over the seeds of a network. Cases of one patient
resemble each other, so the interval draws patients, and the test is on one difference a patient: Wilcoxon's signed
ranks, two-sided, the p-values of a family adjusted by Holm's step-down method (Scandinavian Journal of Statistics,
1979).
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.evaluation.summary import Statistics, describe

__all__ = ["CaseScores", "PairedDifference", "compare", "holm", "read_scores"]


@dataclass(frozen=True)
class CaseScores:
    """Dice of the same cases from one network, trained once or with several seeds.

    Attributes:
        dice: by case, 0-1; mean over structures, then over seeds.
        patients: to whom each case belongs.
    """

    dice: dict[str, float]
    patients: dict[str, str]

    def statistics(self) -> Statistics:
        """Mean over cases, and its interval."""
        return describe(list(self.dice.values()), [self.patients[case] for case in self.dice])


@dataclass(frozen=True)
class PairedDifference:
    """One network minus another, on the same cases.

    Attributes:
        difference: mean over cases, with an interval that draws patients.
        p: of Wilcoxon's signed-rank test over patients; NaN if no patient differs.
    """

    difference: Statistics
    p: float


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
    return CaseScores({case: float(np.mean(dice)) for case, dice in values.items()}, patients)


def compare(scores: CaseScores, reference: CaseScores) -> PairedDifference:
    """Returns ``scores`` minus ``reference``.

    Raises:
        InputRefused: if they are not of the same cases.
    """
    if scores.dice.keys() != reference.dice.keys():
        raise InputRefused(
            RefusalCode.SCORES, "two networks were evaluated on different cases, so they cannot be compared"
        )
    differences = {case: dice - reference.dice[case] for case, dice in scores.dice.items()}
    of_patient: dict[str, list[float]] = defaultdict(list)
    for case, difference in differences.items():
        of_patient[scores.patients[case]].append(difference)
    means = np.array([np.mean(values) for values in of_patient.values()])
    p = float(stats.wilcoxon(means).pvalue) if means.any() else float("nan")
    return PairedDifference(describe(list(differences.values()), [scores.patients[case] for case in differences]), p)


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
