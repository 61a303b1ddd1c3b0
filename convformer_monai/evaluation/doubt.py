"""Which number tells a bad mask? Measures of doubt beside the Dice of every validation case, and the calibration.

Risk-coverage curves (Geifman and El-Yaniv, "Selective classification for deep neural networks", NeurIPS 2017): leave
out the most doubtful cases one by one, and see how the mean of 1 - Dice over the others falls. The area under the curve
is the smaller, the better a measure puts the cases in order.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from convformer_monai.bundle import Bundle
from convformer_monai.datalist import read_cases, read_lists
from convformer_monai.evaluation.calibration import (
    VoxelSample,
    draw_reliability,
    expected_calibration_error,
    fit_temperature,
    held_out_temperatures,
    reliability,
    sample_voxels,
)
from convformer_monai.evaluation.head_folds import ALL_FOLDS, fold_of_patients, fold_weights
from convformer_monai.evaluation.report import output_folder
from convformer_monai.evaluation.summary import Statistics, describe
from convformer_monai.measurements.overlap import dice
from convformer_monai.measurements.values import csv_of
from convformer_monai.outputs.atomic import write_text
from convformer_monai.readers import read_series
from convformer_monai.readers.memory import series_from
from convformer_monai.readers.series import ImageSeries
from convformer_monai.segmenter import Segmenter
from convformer_monai.tasks.task import PHOTOGRAPH
from convformer_monai.training.head_ct_case import read_picture
from convformer_monai.training.head_ct_pool import head_ct_cases
from convformer_monai.transforms.doubt import expected_dice
from convformer_monai.transforms.photo import LoadPictureMaskd

__all__ = ["MEASURES", "DoubtfulCase", "area_under_risk", "measure_doubt", "report_doubt", "summarise_doubt"]

logger = logging.getLogger(__name__)

FLAGGED_SHARE = 0.1
SECTION, SLICES = "val", "expert"
SAID = 50  # cases from one line of the log to the next
MEASURES = {
    "expected_dice": "expected Dice",
    "expected_dice_uncalibrated": "expected Dice, temperature 1",
    "entropy": "entropy",
    "flips": "disagreement of flips",
}


@dataclass(frozen=True)
class DoubtfulCase:
    """One case. Every measure is the larger, the more doubt.

    Attributes:
        case: identifier.
        patient: identifier.
        dice: of the mask, mean over structures; of a structure that neither mask nor reference has, 1.
        expected_dice: 1 - :func:`convformer_monai.transforms.doubt.expected_dice`, calibrated.
        expected_dice_uncalibrated: likewise, of the scores as they are.
        entropy: of the calibrated probabilities, summed over the image, for each voxel of the mask.
        flips: 1 - Dice between the mask and that averaged over flips.
    """

    case: str
    patient: str
    dice: float
    expected_dice: float
    expected_dice_uncalibrated: float
    entropy: float
    flips: float


@dataclass(frozen=True)
class _Labelled:
    """A case to measure, and what segments it."""

    case: str
    patient: str
    series: ImageSeries
    label: MetaTensor
    segmenters: tuple[Segmenter, Segmenter]  # without and with flips


@dataclass(frozen=True)
class _Seen:
    """What was seen of a case."""

    case: str
    patient: str
    dice: float
    flips: float
    scores: Tensor
    voxels: VoxelSample


def measure_doubt(
    bundle: str | Path, dataset_dir: Path, runs: Path | None = None
) -> tuple[list[DoubtfulCase], list[VoxelSample], list[float]]:
    """Segments the validation cases of a bundle without and with flips.

    Args:
        bundle: see :class:`convformer_monai.bundle.Bundle`.
        dataset_dir: as for ``convformer-monai evaluate``.
        runs: of a bundle that is cross-validated, the folder that holds each fold's ``fold{fold}/best.pt``.

    Returns:
        The cases, voxels of each, and for each the temperature that was fitted without its patient.

    Raises:
        InputRefused: if the data or the weights cannot be used.
    """
    labelled = _validation(bundle, dataset_dir) if runs is None else _slices_of_folds(bundle, dataset_dir, runs)
    modes = {"image_keys": ["image", "label"], "image_modes": ["bilinear", "nearest"]}
    prepare = Bundle(bundle).get("preparation", "inference", modes)
    seen: list[_Seen] = []
    for one in labelled:
        if len(seen) % SAID == 0:
            logger.info("case %d", len(seen) + 1)
        seen.append(_look(one, prepare))
    samples = [one.voxels for one in seen]
    temperatures = held_out_temperatures(samples)
    cases = [_measured(one, number) for one, number in zip(seen, temperatures, strict=True)]
    return cases, samples, temperatures


def _validation(bundle: str | Path, dataset_dir: Path) -> Iterator[_Labelled]:
    cases = read_cases(dataset_dir, SECTION, patient_from_id=Bundle(bundle).task.image != PHOTOGRAPH)
    segmenters = Segmenter(bundle), Segmenter(bundle, flips=True)
    for case in cases:
        series = segmenters[0].read(Path(case["image"]))
        if series.is_photo:
            label = LoadPictureMaskd("label")({"image": series.image, "label": case["label"]})["label"]
        else:
            label = read_series(case["label"]).image
        yield _Labelled(str(case["id"]), str(case["patient"] or case["id"]), series, label, segmenters)


def _slices_of_folds(bundle: str | Path, dataset_dir: Path, runs: Path) -> Iterator[_Labelled]:
    """Slices that experts drew on, each with the network of the fold that has not seen the patient."""
    sources, fold_of = Bundle(bundle).read("train")["sources"], fold_of_patients(bundle, dataset_dir)
    files = [fold_weights(runs, fold) for fold in ALL_FOLDS]
    of_fold = [(Segmenter(bundle, weights=file), Segmenter(bundle, weights=file, flips=True)) for file in files]
    keep = ("blood", "spacing", "mask_complete")
    for case in head_ct_cases(dataset_dir, SLICES, keep):
        if case["mask_complete"] is not False and (case["label"] or not case["blood"]):
            data, patient = read_picture(SLICES, case, sources), str(case["patient"])
            series = series_from(data["image"])
            yield _Labelled(str(case["id"]), patient, series, data["label"], of_fold[fold_of(patient)])


def _look(one: _Labelled, prepare: Callable[[dict[str, MetaTensor]], dict[str, MetaTensor]]) -> _Seen:
    """Segments a case, whose image and label ``prepare`` brings to the network's grid."""
    plain, flipping = one.segmenters
    data = prepare({"image": one.series.image.clone(), "label": one.label.clone()})
    scores, truth = plain.scores(data["image"]).float(), data["label"].as_tensor()[0].round().long()
    mask, reference = plain.run(one.series).labels.numpy(), one.label.numpy().round()
    found = [dice(mask.reshape(reference.shape) == k, reference == k) for k in range(1, len(scores))]
    flips = flipping.run(one.series).disagreement
    assert flips is not None
    voxels = sample_voxels(one.patient, scores, truth)
    return _Seen(one.case, one.patient, float(np.mean(found)), flips, scores.half(), voxels)


def _measured(seen: _Seen, temperature: float) -> DoubtfulCase:
    scores = seen.scores.float()
    calibrated, uncalibrated = (_doubt(expected_dice(scores, number)) for number in (temperature, 1.0))
    logarithms = (scores / temperature).log_softmax(0)
    entropy = -float((logarithms.exp() * logarithms).sum()) / max(1, int((scores.argmax(0) > 0).sum()))
    return DoubtfulCase(seen.case, seen.patient, seen.dice, calibrated, uncalibrated, entropy, seen.flips)


def _doubt(promised: float | None) -> float:
    """1 - the expected Dice; none, of an empty mask."""
    return 0.0 if promised is None else 1 - promised


def area_under_risk(doubt: Sequence[float], dice_of: Sequence[float]) -> float:
    """Mean over coverages of 1 - Dice of the least doubtful cases; the curve is that of :func:`_risks`."""
    return float(_risks(doubt, dice_of).mean())


def _risks(doubt: Sequence[float], dice_of: Sequence[float]) -> NDArray[np.float64]:
    """1 - Dice of the n least doubtful cases, n from 1; of cases with equal doubt, which have no order, their mean."""
    _, place, count = np.unique(np.asarray(doubt), return_inverse=True, return_counts=True)
    means = np.bincount(place, 1 - np.asarray(dice_of)) / count
    risks = np.repeat(means, count)
    return np.asarray(np.cumsum(risks) / np.arange(1, len(risks) + 1))


def summarise_doubt(cases: Sequence[DoubtfulCase], measure: str = "expected_dice") -> dict[str, Any]:
    """Compares the cases that a measure would flag, the most doubtful tenth, with the others.

    Args:
        cases: at least two.
        measure: one of :data:`MEASURES`.

    Returns:
        ``threshold``; ``flagged`` and ``others``, the statistics of their Dice (``None`` without a case);
        ``spearman`` and ``spearman_p`` between doubt and Dice, p NaN of two cases; ``area``, that under the
        risk-coverage curve.
    """
    found = np.array([getattr(case, measure) for case in cases])
    dice_of = [case.dice for case in cases]
    limit = float(np.quantile(found, 1 - FLAGGED_SHARE))
    groups: dict[str, Statistics | None] = {}
    for name, chosen in (("flagged", found > limit), ("others", found <= limit)):
        picked = [case for case, one in zip(cases, chosen, strict=True) if one]
        groups[name] = describe([case.dice for case in picked], [case.patient for case in picked]) if picked else None
    varies = np.ptp(found) > 0 and np.ptp(dice_of) > 0
    correlation, p_value = stats.spearmanr(found, dice_of) if varies else (0.0, 1.0)
    return {
        "threshold": limit,
        **{name: asdict(group) if group else None for name, group in groups.items()},
        "spearman": float(correlation),
        "spearman_p": float(p_value),
        "area": area_under_risk(found.tolist(), dice_of),
    }


def report_doubt(bundle: str | Path, dataset_dir: Path, output_dir: Path, runs: Path | None = None) -> str:
    """Calls :func:`measure_doubt`, and writes what came of it.

    ``doubt.csv`` has the cases, ``doubt.json`` the measures and the calibration, ``calibration.csv`` the bins;
    ``reliability.png`` and ``risk_coverage.png`` show them, where matplotlib is installed.

    Args:
        bundle: see :func:`measure_doubt`.
        dataset_dir: see there.
        output_dir: folder for the files; made if missing.
        runs: see :func:`measure_doubt`.

    Returns:
        The summary for people, as Markdown.

    Raises:
        InputRefused: see :func:`measure_doubt`.
    """
    opened = Bundle(bundle)
    read_lists(dataset_dir)
    folder = output_folder(output_dir)
    cases, samples, temperatures = measure_doubt(bundle, dataset_dir, runs)
    names = [label.name for label in opened.labels]
    ordered = sorted(cases, key=lambda case: -case.expected_dice)
    write_text(folder / "doubt.csv", csv_of([asdict(case) for case in ordered]), overwrite=True)
    before = reliability(samples, [1.0] * len(samples))
    after = reliability(samples, temperatures)
    rows = [
        {"temperature": kind, **asdict(one), "structure": names[one.structure - 1]}
        for kind, bins in (("1", before), ("fitted", after))
        for one in bins
    ]
    write_text(folder / "calibration.csv", csv_of(rows), overwrite=True)
    promised = [case.expected_dice for case in cases]
    content = {
        "temperature": fit_temperature(samples),
        "expected_dice_threshold": 1 - float(np.quantile(promised, 1 - FLAGGED_SHARE)),
        "expected_dice_error": float(np.mean([abs(1 - case.expected_dice - case.dice) for case in cases])),
        "calibration_error": {
            name: {
                "before": expected_calibration_error(before, number),
                "after": expected_calibration_error(after, number),
            }
            for number, name in enumerate(names, start=1)
        },
        "measures": {measure: summarise_doubt(cases, measure) for measure in MEASURES},
        "perfect_area": area_under_risk([-case.dice for case in cases], [case.dice for case in cases]),
    }
    write_text(folder / "doubt.json", json.dumps(_with_null(content), indent=2, allow_nan=False) + "\n", overwrite=True)
    draw_reliability(before, after, names, folder / "reliability.png")
    _draw_curves(cases, folder / "risk_coverage.png")
    return as_text(content)


def _with_null(content: Any) -> Any:
    """The same with ``None`` for what is not a number, as p of two cases: JSON has only null for it."""
    if isinstance(content, Mapping):
        return {name: _with_null(one) for name, one in content.items()}
    if isinstance(content, (list, tuple)):
        return [_with_null(one) for one in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def as_text(content: Mapping[str, Any]) -> str:
    """The summary as Markdown; its temperature and threshold are what ``metadata.json`` takes."""
    lines = [
        f"Temperature {content['temperature']:.2f}. Expected calibration error near the structures, before and after "
        "(fitted without the patient):",
        "",
        "| structure | before | after |",
        "|---|---:|---:|",
    ]
    for name, errors in content["calibration_error"].items():
        lines.append(f"| {name} | {errors['before']:.4f} | {errors['after']:.4f} |")
    lines += [
        "",
        f"The expected Dice is {content['expected_dice_error']:.3f} from the Dice on average; a tenth of the cases is "
        f"below {content['expected_dice_threshold']:.3f}.",
        "",
        f"| doubt by | area under risk-coverage (perfect: {content['perfect_area']:.4f}) | rank correlation with Dice "
        "| Dice of the flagged tenth (95% CI) | Dice of the others (95% CI) |",
        "|---|---:|---:|---:|---:|",
    ]
    for measure, title in MEASURES.items():
        row = content["measures"][measure]
        groups = " | ".join(_cell(row[name]) for name in ("flagged", "others"))
        lines.append(f"| {title} | {row['area']:.4f} | {row['spearman']:.2f} | {groups} |")
    return "\n".join(lines)


def _cell(group: Mapping[str, Any] | None) -> str:
    if group is None:
        return "-"
    low, high = group["ci95"]
    interval = "" if math.isnan(low) else f" ({low:.3f} to {high:.3f})"
    return f"{group['mean']:.3f}{interval}, {group['volumes']} cases"


def _draw_curves(cases: Sequence[DoubtfulCase], path: Path) -> None:
    """Draws the risk-coverage curves."""
    if find_spec("matplotlib") is None:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    dice_of = [case.dice for case in cases]
    coverage = np.arange(1, len(cases) + 1) / len(cases)
    for measure, title in MEASURES.items():
        axes.plot(coverage, _risks([getattr(case, measure) for case in cases], dice_of), label=title)
    axes.plot(coverage, _risks([-number for number in dice_of], dice_of), color="0.6", linestyle="--", label="perfect")
    axes.set(xlabel="share of the cases that are kept, the least doubtful", ylabel="1 - Dice of those", ylim=(0, None))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
