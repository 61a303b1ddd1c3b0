"""How sure must the network be somewhere in a part of the mask? Chosen on validation slices.

For each peak of :class:`convformer_monai.transforms.KeepConfidentPartsd` the held-out slices of a bundle's training
(``val_parts`` of its ``train.json``) are segmented with the weights of every fold, none of which saw them: Dice where
there is blood, and the share of blood-free slices with a finding. The peak to take is the smallest that brings that
share to the bar. Neither expert masks nor normal slices are looked at.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from monai.utils import convert_to_numpy

from convformer_monai.bundle import Bundle, load_weights
from convformer_monai.evaluation.crossvalidation import PIXELS, SIDE
from convformer_monai.evaluation.overlap import score_picture
from convformer_monai.evaluation.report import output_folder, table_of
from convformer_monai.transforms import KeepConfidentPartsd

__all__ = ["PeakResult", "choose_peak", "measure_peaks", "report_peaks"]

PEAKS = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998)
UNCHANGED = {"peak": 0.5, "threshold": 0.5}
BAR = 0.05


@dataclass(frozen=True)
class PeakResult:
    """What one peak does.

    Attributes:
        peak: probability that a part must reach somewhere.
        dice: mean over slices with blood and folds.
        missed: share of these in which nothing is found.
        false_positives: share of blood-free slices with a finding.
    """

    peak: float
    dice: float
    missed: float
    false_positives: float


def measure_peaks(
    bundle: str | Path, dataset_dir: Path, runs: Path, peaks: Sequence[float] = PEAKS
) -> list[PeakResult]:
    """Segments the held-out slices with every fold's weights.

    Args:
        bundle: see :class:`convformer_monai.bundle.Bundle`; one that is cross-validated.
        dataset_dir: as for ``convformer-monai train``.
        runs: folder that holds ``fold{fold}/best.pt``.
        peaks: to try.

    Raises:
        InputRefused: if the data or the weights cannot be used.
    """
    opened = Bundle(bundle)
    cases = opened.get("validate#dataset#data", "train", {"dataset_dir": str(dataset_dir)})
    ids = ("network", "labelled_preprocessing", "inferer", "native_labels", "folds")
    parts = opened.get(ids, ["inference", "crossvalidate"], UNCHANGED)
    network, preprocessing, inferer, postprocessing, folds = (parts[key] for key in ids)
    threshold = opened.get("threshold")
    filters = {peak: KeepConfidentPartsd("pred", peak, threshold) for peak in peaks}
    dice: dict[float, list[float]] = {peak: [] for peak in peaks}
    missed: dict[float, list[bool]] = {peak: [] for peak in peaks}
    found: dict[float, list[bool]] = {peak: [] for peak in peaks}
    prepared = [preprocessing(dict(case)) for case in cases]
    for fold in range(folds):
        load_weights(network, runs / f"fold{fold}" / "best.pt").eval()
        for case, data in zip(cases, prepared, strict=True):
            with torch.inference_mode():
                scores = inferer(data["image"].as_tensor()[None], network)[0].float()
            reference = convert_to_numpy(data["label"])[0] > 0
            for peak, confident in filters.items():
                labels = postprocessing({**data, **confident({"pred": scores})})["pred"]
                score = score_picture(case["id"], "", "", convert_to_numpy(labels)[0] > 0, reference)
                if score.reference_pixels:
                    dice[peak].append(score.dice)
                    missed[peak].append(score.predicted_pixels == 0)
                else:
                    found[peak].append(score.predicted_pixels * SIDE**2 > PIXELS * reference.size)
    return [
        PeakResult(peak, float(np.mean(dice[peak])), float(np.mean(missed[peak])), float(np.mean(found[peak])))
        for peak in peaks
    ]


def choose_peak(results: Sequence[PeakResult], bar: float = BAR) -> float:
    """The smallest peak at which the share of blood-free slices with a finding is within the bar.

    Args:
        results: of several peaks.
        bar: that share.

    Raises:
        ValueError: if there is none.
    """
    within = [result.peak for result in results if result.false_positives <= bar]
    if not within:
        raise ValueError(f"no peak brings the findings in blood-free slices to {bar:.0%}")
    return min(within)


def report_peaks(bundle: str | Path, dataset_dir: Path, output_dir: Path, runs: Path) -> str:
    """Calls :func:`measure_peaks`, writes ``peaks.csv`` and returns the table for people."""
    folder = output_folder(output_dir)
    results = measure_peaks(bundle, dataset_dir, runs)
    with open(folder / "peaks.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(results[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(result) for result in results)
    cells = [["peak", "Dice", "nothing found, of slices with blood", "a finding, of blood-free slices"]]
    cells += [
        [f"{one.peak:g}", f"{one.dice:.3f}", f"{one.missed:.1%}", f"{one.false_positives:.1%}"] for one in results
    ]
    within = any(result.false_positives <= BAR for result in results)
    closing = (
        f"Within {BAR:.0%} from a peak of {choose_peak(results):g} on." if within else f"None is within {BAR:.0%}."
    )
    return "\n".join([*table_of(cells), closing])
