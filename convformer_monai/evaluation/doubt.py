"""Does the flag of doubt tell bad masks? Flip disagreement of every validation case, beside how good its mask is.

The disagreement is 1 - Dice between the mask of an image and its flip-averaged mask (all structures together), as
:class:`convformer_monai.segmenter.Segmenter` reports it. The threshold flags a tenth of the validation cases. It is set
without looking at any label, so the labels can then tell whether the flagged ones are worse.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from convformer_monai.bundle import Bundle
from convformer_monai.evaluation.handlers import ScoredVolume
from convformer_monai.evaluation.report import output_folder
from convformer_monai.evaluation.summary import Statistics, describe
from convformer_monai.measurements.overlap import dice
from convformer_monai.measurements.values import safe_cell

__all__ = ["DoubtfulCase", "disagreement_of", "measure_doubt", "report_doubt", "summarise_doubt"]

FLAGGED_SHARE = 0.1
CROSS_VALIDATION = "crossvalidate"


@dataclass(frozen=True)
class DoubtfulCase:
    """One case.

    Attributes:
        case: identifier.
        patient: identifier.
        disagreement: 1 - Dice between the plain and the flip-averaged mask; 0 if both are empty.
        dice: of the flip-averaged mask, mean over structures.
    """

    case: str
    patient: str
    disagreement: float
    dice: float


def disagreement_of(plain: NDArray[np.uint8], averaged: NDArray[np.uint8]) -> float:
    """Returns 1 - Dice of two label maps of one shape, all structures together; 0 if both are empty."""
    return 1 - dice(plain, averaged)


def measure_doubt(
    bundle: str | Path, dataset_dir: Path, output_dir: Path, runs: Path | None = None
) -> list[DoubtfulCase]:
    """Segments the validation cases of a bundle twice, without and with flips.

    Args:
        bundle: see :class:`convformer_monai.bundle.Bundle`.
        dataset_dir: as for ``convformer-monai evaluate``.
        output_dir: folder for what the evaluations write.
        runs: of a bundle that is cross-validated, the folder that holds each fold's ``fold{fold}/best.pt``.

    Raises:
        InputRefused: if the data or the weights cannot be used.
    """
    masks: list[dict[str, NDArray[np.uint8]]] = []
    scores: dict[str, Any] = {}
    for flips in (False, True):
        results = _evaluated(Bundle(bundle), dataset_dir, output_dir / ("flips" if flips else "plain"), flips, runs)
        masks.append({result.score.case: result.predicted for result in results})
        scores = {result.score.case: result.score for result in results}
    return [
        DoubtfulCase(name, score.patient, disagreement_of(masks[0][name], masks[1][name]), score.dice)
        for name, score in scores.items()
    ]


def _evaluated(bundle: Bundle, dataset_dir: Path, output_dir: Path, flips: bool, runs: Path | None) -> list[Any]:
    """Runs an evaluation; returns its scored masks."""
    options = {} if runs is None else {"weights": str(runs / "fold{fold}" / "best.pt")}
    workflow = bundle.workflow(
        ["inference", "evaluate" if runs is None else CROSS_VALIDATION],
        dataset_dir=str(dataset_dir),
        output_dir=str(output_dir),
        flips=flips,
        **options,
    )
    results: list[ScoredVolume] = []
    if runs is None:
        workflow.parser.get_parsed_content("scores").listeners += (results.append,)
    workflow.run()
    return results if runs is None else list(workflow.parser.get_parsed_content("cross_validation").results)


def summarise_doubt(cases: Sequence[DoubtfulCase], threshold: float | None = None) -> dict[str, Any]:
    """Compares flagged cases with the others.

    Args:
        cases: at least three.
        threshold: a larger disagreement is flagged; ``None`` for the one that flags a tenth of the cases.

    Returns:
        ``threshold``; ``flagged`` and ``others``, the statistics of their Dice (``None`` without a case);
        ``spearman`` and ``spearman_p`` between disagreement and Dice.
    """
    found = np.array([case.disagreement for case in cases])
    limit = float(np.quantile(found, 1 - FLAGGED_SHARE)) if threshold is None else threshold
    groups: dict[str, Statistics | None] = {}
    for name, chosen in (("flagged", found > limit), ("others", found <= limit)):
        picked = [case for case, one in zip(cases, chosen, strict=True) if one]
        groups[name] = describe([case.dice for case in picked], [case.patient for case in picked]) if picked else None
    correlation = stats.spearmanr(found, [case.dice for case in cases])
    return {
        "threshold": limit,
        **{name: asdict(group) if group else None for name, group in groups.items()},
        "spearman": float(correlation.statistic),
        "spearman_p": float(correlation.pvalue),
    }


def as_text(summary: dict[str, Any]) -> str:
    """Returns a summary for people."""
    lines = [f"Flagged above a flip disagreement (1 - Dice) of {summary['threshold']:.4f}."]
    for name in ("flagged", "others"):
        group = summary[name]
        if group:
            low, high = group["ci95"]
            lines.append(
                f"  {name:7}  {group['volumes']:3d} cases of {group['patients']:3d} patients: "
                f"Dice {group['mean']:.3f} (95% CI {low:.3f} to {high:.3f}), median {group['median']:.3f}"
            )
    return "\n".join([*lines, f"  Spearman correlation {summary['spearman']:.2f} (p = {summary['spearman_p']:.2g})"])


def report_doubt(bundle: str | Path, dataset_dir: Path, output_dir: Path, runs: Path | None = None) -> str:
    """Calls :func:`measure_doubt`, writes ``doubt.csv`` and ``doubt.json`` and returns the summary for people."""
    folder = output_folder(output_dir)
    cases = measure_doubt(bundle, dataset_dir, folder, runs)
    with open(folder / "doubt.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(cases[0])))
        writer.writeheader()
        for case in sorted(cases, key=lambda case: -case.disagreement):
            writer.writerow({name: safe_cell(cell) for name, cell in asdict(case).items()})
    summary = summarise_doubt(cases)
    (folder / "doubt.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return as_text(summary)
