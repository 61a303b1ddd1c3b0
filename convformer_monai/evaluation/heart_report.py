"""Heart function in an evaluation: how far ejection fraction, volumes and mass agree with those of the reference.

Dice says how masks overlap; what a cardiologist reads are these. Agreement as by Bland and Altman, see
:mod:`convformer_monai.evaluation.agreement`.
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convformer_monai.evaluation.agreement import bland_altman, draw_agreement
from convformer_monai.evaluation.metrics import VolumeScore
from convformer_monai.evaluation.report import cell_of, output_folder, table_of, write_report
from convformer_monai.measurements.ventricles import MYOCARDIAL_DENSITY_G_PER_ML, ejection_fraction

__all__ = ["FunctionPair", "function_of", "write_heart_report"]

logger = logging.getLogger(__name__)

UNITS = {
    "lv_ef": "%",
    "lv_edv": "mL",
    "lv_esv": "mL",
    "myocardial_mass": "g",
    "rv_ef": "%",
    "rv_edv": "mL",
    "rv_esv": "mL",
}
DRAWN = {
    "lv_ef": "LV ejection fraction",
    "lv_edv": "LV end-diastolic volume",
    "lv_esv": "LV end-systolic volume",
    "myocardial_mass": "myocardial mass",
}


@dataclass(frozen=True)
class FunctionPair:
    """A measurement of one patient, from the mask and from the reference.

    Attributes:
        patient: identifier.
        measurement: its name, as in ``measurements.csv``.
        unit: of both.
        predicted: from the mask.
        reference: from the reference.
    """

    patient: str
    measurement: str
    unit: str
    predicted: float
    reference: float


def function_of(scores: Sequence[VolumeScore]) -> list[FunctionPair]:
    """Takes the function of each heart from the volumes of its structures at end diastole and end systole.

    Patients without exactly one volume of each phase ``ED`` and ``ES``, and ejection fractions of an empty ventricle,
    are left out. Ejection fraction and mass are those of
    :func:`convformer_monai.measurements.ventricles.measure_ventricles`.
    """
    volumes: dict[str, dict[str, list[VolumeScore]]] = {}
    for score in scores:
        volumes.setdefault(score.patient, {"ED": [], "ES": []}).setdefault(score.phase, []).append(score)
    pairs = []
    for patient, phases in volumes.items():
        if not len(phases["ED"]) == len(phases["ES"]) == 1:
            continue
        ed, es = phases["ED"][0], phases["ES"][0]
        predicted, reference = (_measured(ed, es, which) for which in ("predicted", "reference"))
        for name, unit in UNITS.items():
            if not math.isnan(predicted[name] + reference[name]):
                pairs.append(FunctionPair(patient, name, unit, predicted[name], reference[name]))
    return pairs


def write_heart_report(scores: Sequence[VolumeScore], output_dir: object, **origin: Any) -> str:
    """Writes what :func:`write_report` writes, with the agreement of the heart's function.

    Also ``function.csv``, a row for each patient and measurement, and with matplotlib ``agreement_<measurement>.png``
    of the left ventricle: Bland-Altman plots. Nothing of this where fewer than two patients have both phases.

    Args:
        scores: of all volumes.
        output_dir: folder to write to, made if needed.
        origin: further arguments of :func:`write_report`.

    Returns:
        The headline and the tables, for people.
    """
    pairs = function_of(scores)
    names = [name for name in UNITS if sum(pair.measurement == name for pair in pairs) > 1]
    if not names:
        return write_report(scores, output_dir, **origin)
    folder = output_folder(output_dir)
    with open(folder / "function.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["patient", "measurement", "unit", "predicted", "reference"])
        for pair in pairs:
            values = pair.patient, pair.measurement, pair.unit, pair.predicted, pair.reference
            writer.writerow([cell_of(value) for value in values])
    rows: list[list[str]] = [["Measurement", "Patients", "Reference: mean", "Bias", "95% limits of agreement"]]
    function: dict[str, dict[str, Any]] = {}
    for name in names:
        chosen = [pair for pair in pairs if pair.measurement == name]
        reference, predicted = (np.array([getattr(pair, key) for pair in chosen]) for key in ("reference", "predicted"))
        bias, low, high = bland_altman(reference, predicted)
        mean = float(reference.mean())
        function[name] = {
            "patients": len(chosen),
            "unit": UNITS[name],
            "reference_mean": mean,
            "bias": bias,
            "limits": [low, high],
        }
        unit = "points" if UNITS[name] == "%" else UNITS[name]
        rows.append(
            [name, str(len(chosen)), f"{mean:.1f} {UNITS[name]}", f"{bias:+.1f} {unit}", f"{low:+.1f} to {high:+.1f}"]
        )
        if name in DRAWN:
            what = f"{DRAWN[name]}, {UNITS[name]}"
            draw_agreement(reference, predicted, ("reference", "mask"), what, folder / f"agreement_{name}.png")
    logger.info("wrote function.csv and the agreement of the heart's function to %s", folder)
    text = "Heart function, mask minus reference, one value a patient:\n\n" + "\n".join(table_of(rows))
    return write_report(scores, folder, more={"function": function}, more_text=text, **origin)


def _measured(diastole: VolumeScore, systole: VolumeScore, which: str) -> dict[str, float]:
    """The measurements by name, from volumes that are ``predicted`` or ``reference``."""
    at_ed, at_es = (
        {part.structure: float(getattr(part, f"{which}_ml")) for part in score.structures}
        for score in (diastole, systole)
    )
    values = {"myocardial_mass": at_ed["MYO"] * MYOCARDIAL_DENSITY_G_PER_ML}
    for side, name in (("lv", "LV"), ("rv", "RV")):
        fraction = ejection_fraction(at_ed[name], at_es[name])
        values[f"{side}_ef"] = math.nan if fraction is None else fraction
        values[f"{side}_edv"], values[f"{side}_esv"] = at_ed[name], at_es[name]
    return values
