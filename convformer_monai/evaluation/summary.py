"""Statistics over volumes: mean, SD, median and a 95% confidence interval of the mean, per phase and structure.

Volumes of one patient (end diastole and end systole, or the phases of a cine) resemble each other, so counting them as
independent would make the interval too narrow. The bootstrap therefore draws *patients* with replacement, each with all
of its volumes, and takes the mean over the volumes drawn (percentile interval, fixed seed: the same scores give the
same interval). With a handful of patients such intervals are known to be somewhat too narrow still.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convformer_monai.evaluation.metrics import VolumeScore

__all__ = ["Statistics", "SummaryRow", "bootstrap_interval", "summarise"]

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0
ALL_PHASES = "all"
MEAN_STRUCTURE = "mean"
METRICS = ("dice", "hd95_mm", "asd_mm", "volume_error_ml")
MEAN_METRICS = METRICS[:3]  # a mean of signed volume errors over structures says nothing
KNOWN_PHASES = ("ED", "ES")
CHUNK = 1_000_000  # numbers drawn at once; bounds the memory


@dataclass(frozen=True)
class Statistics:
    """What the values of one metric are like.

    Attributes:
        volumes: how many have a value.
        patients: of how many patients.
        mean: over volumes.
        std: sample standard deviation over volumes; NaN below two.
        median: over volumes.
        ci95: lower and upper bound of the mean; NaN below two patients.
    """

    volumes: int
    patients: int
    mean: float
    std: float
    median: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class SummaryRow:
    """One phase and structure.

    Attributes:
        phase: ``ED``, ``ES``, ..., or ``all``.
        structure: name, or ``mean``, the mean over structures of each volume.
        volumes: how many there are.
        one_empty: in how many the structure (for ``mean``: any) was missed or invented, so distances are undefined.
        both_empty: in how many the structure (for ``mean``: each) is in neither prediction nor reference.
        metrics: by name ``dice``, ``hd95_mm``, ``asd_mm``, and, but for ``mean``, ``volume_error_ml``.
    """

    phase: str
    structure: str
    volumes: int
    one_empty: int
    both_empty: int
    metrics: dict[str, Statistics]


def bootstrap_interval(
    values: Sequence[float], patients: Sequence[str], resamples: int = RESAMPLES, level: float = LEVEL, seed: int = SEED
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, by drawing patients with replacement.

    Args:
        values: one for each volume, without NaN.
        patients: to whom each value belongs.
        resamples: how often to draw.
        level: coverage aimed at.
        seed: of the draws.

    Returns:
        Lower and upper bound; NaN with fewer than two patients, who tell nothing about others.
    """
    _, owners = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    count = int(owners.max()) + 1 if len(values) else 0
    if count < 2:
        return float("nan"), float("nan")
    sums = np.bincount(owners, weights=np.asarray(values, dtype=np.float64))
    sizes = np.bincount(owners)
    random = np.random.default_rng(seed)
    means: list[NDArray[np.float64]] = []
    step = max(1, CHUNK // count)
    for start in range(0, resamples, step):
        drawn = random.integers(count, size=(min(step, resamples - start), count))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def describe(values: Sequence[float], patients: Sequence[str]) -> Statistics:
    """Describes the values of one metric; NaN values are left out.

    Args:
        values: one for each volume.
        patients: to whom each value belongs.
    """
    kept = [(value, patient) for value, patient in zip(values, patients, strict=True) if not np.isnan(value)]
    numbers = [value for value, _ in kept]
    owners = [patient for _, patient in kept]
    nan = float("nan")
    return Statistics(
        volumes=len(numbers),
        patients=len(set(owners)),
        mean=float(np.mean(numbers)) if numbers else nan,
        std=float(np.std(numbers, ddof=1)) if len(numbers) > 1 else nan,
        median=float(np.median(numbers)) if numbers else nan,
        ci95=bootstrap_interval(numbers, owners),
    )


def summarise(scores: Sequence[VolumeScore]) -> list[SummaryRow]:
    """Summarises scores for each phase and all together, for each structure and their mean.

    Args:
        scores: of all volumes; the structures are those of the first.

    Returns:
        A row for each phase and structure, phases first; ``all`` is the last phase, and the only one if the volumes
        have none.

    Raises:
        ValueError: if there is no score.
    """
    if not scores:
        raise ValueError("scores must not be empty")
    rows: list[SummaryRow] = []
    for phase in _phases(scores):
        chosen = [score for score in scores if phase in (ALL_PHASES, score.phase)]
        rows.extend(_structure_row(phase, index, chosen) for index in range(len(scores[0].structures)))
        rows.append(_mean_row(phase, chosen))
    return rows


def _phases(scores: Sequence[VolumeScore]) -> list[str]:
    found = {score.phase for score in scores} - {"", ALL_PHASES}
    known = [phase for phase in KNOWN_PHASES if phase in found]
    return [*known, *sorted(found.difference(known)), ALL_PHASES]


def _structure_row(phase: str, index: int, scores: Sequence[VolumeScore]) -> SummaryRow:
    parts = [score.structures[index] for score in scores]
    patients = [score.patient for score in scores]
    return SummaryRow(
        phase=phase,
        structure=parts[0].structure,
        volumes=len(parts),
        one_empty=sum(part.state in ("missed", "invented") for part in parts),
        both_empty=sum(part.state == "both_empty" for part in parts),
        metrics={name: describe([getattr(part, name) for part in parts], patients) for name in METRICS},
    )


def _mean_row(phase: str, scores: Sequence[VolumeScore]) -> SummaryRow:
    states = [{part.state for part in score.structures} for score in scores]
    patients = [score.patient for score in scores]
    return SummaryRow(
        phase=phase,
        structure=MEAN_STRUCTURE,
        volumes=len(scores),
        one_empty=sum(bool(state & {"missed", "invented"}) for state in states),
        both_empty=sum(state == {"both_empty"} for state in states),
        metrics={name: describe([getattr(score, name) for score in scores], patients) for name in MEAN_METRICS},
    )
