"""Dice on validation images that are changed as other scanners and protocols might have made them.

One centre's validation images say little about another's. Each change here is a fixed one, stronger than what the
network mostly meets at home: tone and contrast, blur, noise (Rician, as in magnitude images), uneven coils, and pixels
that are said to be smaller or larger than they are, so that the heart has another size. It stands for, and does not
replace, images of other scanners.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import AdjustContrast, RandBiasField, RandRicianNoise
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from convformer_monai.bundle import Bundle
from convformer_monai.datalist import read_cases
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.evaluation.report import output_folder, table_of
from convformer_monai.evaluation.summary import describe
from convformer_monai.measurements.overlap import dice
from convformer_monai.measurements.values import csv_of
from convformer_monai.outputs.atomic import write_text
from convformer_monai.readers import ImageSeries, read_series
from convformer_monai.segmenter import Segmenter
from convformer_monai.tasks.task import VOLUME

__all__ = ["SHIFTS", "report_shifts"]

logger = logging.getLogger(__name__)

SECTION = "val"
PERCENTILE = 99.5
BLUR_MM = 1.8  # standard deviation
NOISE = 0.06  # of the range
COILS = 0.6  # coefficient of a bias field of the first degree
KNOTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
FLAT, STEEP = (0.0, 0.35, 0.45, 0.55, 0.65, 1.0), (0.0, 0.05, 0.15, 0.6, 0.9, 1.0)
SEED = 0

Values = NDArray[np.float32]


def _gamma(gamma: float) -> Callable[[Values, Values], Values]:
    return lambda values, _mm: np.asarray(AdjustContrast(gamma)(torch.from_numpy(values)))


def _curve(heights: tuple[float, ...]) -> Callable[[Values, Values], Values]:
    return lambda values, _mm: np.interp(values, KNOTS, heights).astype(np.float32)


def _blurred(values: Values, mm: Values) -> Values:
    blurred: Values = gaussian_filter(values, (0, BLUR_MM / mm[0], BLUR_MM / mm[1], 0))
    return blurred


def _noisy(values: Values, _mm: Values) -> Values:
    noise = RandRicianNoise(prob=1.0, std=NOISE, sample_std=False)
    noise.set_random_state(SEED)
    return np.asarray(noise(torch.from_numpy(values)), dtype=np.float32)


def _uneven(values: Values, _mm: Values) -> Values:
    field = RandBiasField(degree=1, coeff_range=(COILS, COILS), prob=1.0)
    field.set_random_state(SEED)
    return np.asarray(field(torch.from_numpy(values)), dtype=np.float32)


# Changes of values (phases, X, Y, Z) between 0 and 1, given the spacing in mm; or a factor of the pixels' size.
SHIFTS: Mapping[str, Callable[[Values, Values], Values] | float | None] = {
    "none": None,
    "gamma 0.5": _gamma(0.5),
    "gamma 2": _gamma(2.0),
    "flat tone curve": _curve(FLAT),
    "steep tone curve": _curve(STEEP),
    f"blur of {BLUR_MM} mm": _blurred,
    f"noise of {NOISE:.0%}": _noisy,
    "uneven coils": _uneven,
    "pixels of 0.75 times the size": 0.75,
    "pixels of 1.3 times the size": 1.3,
}


def shifted(series: ImageSeries, name: str) -> ImageSeries:
    """Returns a volume changed by one of :data:`SHIFTS`; values are clipped at their 99.5th percentile before."""
    change = SHIFTS[name]
    if change is None:
        return series
    affine = torch.as_tensor(series.affine).clone()
    if isinstance(change, float):
        affine[:3, :2] *= change
        return replace(series, image=MetaTensor(series.image.as_tensor(), affine=affine))
    values = np.asarray(series.image.as_tensor(), dtype=np.float32)
    low, high = float(values.min()), float(np.percentile(values, PERCENTILE))
    unit = np.clip((values - low) / ((high - low) or 1.0), 0, 1).astype(np.float32)
    mm = np.linalg.norm(series.affine[:3, :3], axis=0).astype(np.float32)
    return replace(series, image=MetaTensor(torch.from_numpy(change(unit, mm).copy()), affine=affine))


def report_shifts(bundle: str | Path, dataset_dir: Path, output_dir: Path, weights: Path | None = None) -> str:
    """Segments the list ``val`` under each change; writes ``shifts.csv``.

    Args:
        bundle: see :class:`convformer_monai.bundle.Bundle`; of volumes whose values have no unit, as those of MRI.
        dataset_dir: see :func:`convformer_monai.datalist.read_cases`.
        output_dir: folder for the file.
        weights: in place of the bundle's.

    Returns:
        The table: mean Dice over cases and structures with its interval, and the mean over all changes.

    Raises:
        InputRefused: if the bundle, the data or the weights cannot be used.
    """
    opened = Bundle(bundle)
    if opened.task.image != VOLUME or opened.task.modality == "CT":
        raise InputRefused(RefusalCode.OPTION, f"--shifts is for volumes of MRI, not for {opened.task.name}")
    segmenter = Segmenter(opened, weights=weights)
    found: dict[str, list[float]] = {name: [] for name in SHIFTS}
    patients = []
    for number, case in enumerate(read_cases(str(dataset_dir), SECTION), 1):
        series = segmenter.read(Path(case["image"]))
        truth = read_series(case["label"], phase="all").image.numpy().round()
        patients.append(str(case["patient"]))
        for name, values in found.items():
            mask = segmenter.run(shifted(series, name)).labels.numpy()
            values.append(float(np.mean([dice(mask == one.index, truth == one.index) for one in opened.labels])))
        logger.info("case %d", number)
    rows = [(name, describe(values, patients)) for name, values in found.items()]
    mean = float(np.mean([statistics.mean for name, statistics in rows if SHIFTS[name] is not None]))
    cells = [
        {"change": name, "dice": one.mean, "ci95_low": one.ci95[0], "ci95_high": one.ci95[1]} for name, one in rows
    ]
    write_text(output_folder(output_dir) / "shifts.csv", csv_of(cells), overwrite=True)
    lines = [[name, f"{one.mean:.4f}", f"{one.ci95[0]:.3f} to {one.ci95[1]:.3f}"] for name, one in rows]
    return "\n".join([*table_of([["change", "Dice", "95% CI"], *lines]), "", f"Mean over the changes: {mean:.4f}"])
