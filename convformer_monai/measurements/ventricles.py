"""Volumes, ejection fractions and myocardial mass of both ventricles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convformer_monai.measurements.geometry import VOLUME
from convformer_monai.measurements.values import Flag, Measurement
from convformer_monai.measurements.wall_thickness import wall_thickness
from convformer_monai.readers.series import ImageSeries
from convformer_monai.tasks.task import Code, Label
from convformer_monai.transforms.geometry import voxel_volume_ml

__all__ = ["choose_phases", "ejection_fraction", "measure_ventricles", "ventricle_flags"]

MYOCARDIAL_DENSITY_G_PER_ML = 1.05
PLAUSIBLE_EF = (10.0, 85.0)
MASS = Code("SCT", "118538004", "Mass")  # of the structure; PS3.16 has a code for the LV's mass by ultrasound only
CODES = {
    "lv_ef": Code("LN", "8811-2", "Left ventricular ejection fraction by MR"),
    "lv_edv": Code("LN", "8821-1", "Left Ventricular ED Volume"),
    "lv_esv": Code("LN", "8823-7", "Left Ventricular ES Volume"),
    "lv_sv": Code("SCT", "90096001", "Stroke Volume"),
    "rv_ef": Code("LN", "8818-7", "Right ventricular ejection fraction by MR"),
    "rv_edv": Code("LN", "8822-9", "Right Ventricular ED Volume"),
    "rv_esv": Code("LN", "8824-5", "Right Ventricular ES Volume"),
    "rv_sv": Code("SCT", "429483009", "RV Stroke Volume"),
}


def measure_ventricles(
    labels: NDArray[np.uint8], series: ImageSeries, table: Sequence[Label], ed: int | None, es: int | None
) -> tuple[list[Measurement], dict[str, Any]]:
    """Measures both ventricles.

    Both are measured at the end diastole and end systole of the left one. The myocardial mass is that of the LV wall at
    end diastole, 1.05 g/mL. A single phase has volumes and a mass, but no ejection fraction.

    Args:
        labels: (phases, X, Y, Z).
        series: their image.
        table: right ventricle, myocardium and left ventricle.
        ed: end diastole, as in ``series.phases``; ``None`` for the phase with the largest LV.
        es: end systole, as in ``series.phases``; ``None`` for the phase with the smallest LV.

    Returns:
        The measurements; and the details: ``phases``, for each its ``phase``, ``time_ms`` and ``volumes_ml``; ``ed``
        and ``es``, each a ``phase`` (or ``None``) and how it was ``chosen`` (``user``, ``found``, or ``only phase``);
        ``wall_thickness``, at end diastole and end systole, or of the only phase, each a ``phase`` and the 17 numbers
        of :func:`~convformer_monai.measurements.wall_thickness.wall_thickness` as ``segments_mm``;
        ``voxel_volume_ml``; ``myocardial_density_g_per_ml``; ``notes``.
    """
    right, wall, left = table
    unit = voxel_volume_ml(series.affine)
    volumes = {
        label.name: [float(np.count_nonzero(volume == label.index)) * unit for volume in labels] for label in table
    }
    choice = choose_phases(volumes[left.name], series.phases, ed, es)
    indices = [None if phase["phase"] is None else series.phases.index(phase["phase"]) for phase in choice.values()]
    at_ed, at_es = indices
    items: list[Measurement] = []
    notes: list[str] = []
    if at_ed is not None and at_es is not None:
        for label, side, words in ((left, "lv", "Left ventricular"), (right, "rv", "Right ventricular")):
            items += _ventricle(label, side, words, volumes[label.name], series.phases, at_ed, at_es)
    else:
        notes.append("one phase only: no stroke volume and no ejection fraction")
    at_mass = at_ed if at_ed is not None else 0
    items.append(_mass(wall, volumes[wall.name][at_mass], series.phases[at_mass]))
    if at_ed is None:
        notes.append("the mass is that of the only phase, which may not be end diastole")
    for index, phase in enumerate(series.phases):
        for label in table:
            items.append(
                Measurement(
                    f"{label.name.lower()}_volume",
                    f"Volume of {label.long_name}",
                    volumes[label.name][index],
                    "mL",
                    VOLUME,
                    label.index,
                    phase,
                )
            )
    phases = [
        {
            "phase": phase,
            "time_ms": series.phase_times_ms[index] if series.phase_times_ms else None,
            "volumes_ml": {label.name: volumes[label.name][index] for label in table},
        }
        for index, phase in enumerate(series.phases)
    ]
    details = {
        **choice,
        "phases": phases,
        "wall_thickness": [
            {"phase": series.phases[index], "segments_mm": wall_thickness(labels[index], series.affine, table)}
            for index in ((0,) if at_ed is None or at_es is None else (at_ed, at_es))
        ],
        "voxel_volume_ml": unit,
        "myocardial_density_g_per_ml": MYOCARDIAL_DENSITY_G_PER_ML,
        "notes": notes,
    }
    return items, details


def ejection_fraction(edv: float, esv: float) -> float | None:
    """Share of the end-diastolic volume that is ejected, percent; None for an empty ventricle."""
    return 100 * (edv - esv) / edv if edv > 0 else None


def choose_phases(
    lv_volumes: Sequence[float], phases: Sequence[int], ed: int | None, es: int | None
) -> dict[str, dict[str, Any]]:
    """Takes end diastole and end systole from the user, or finds them as the largest and smallest left ventricle.

    Args:
        lv_volumes: of each phase.
        phases: their numbers in the source.
        ed: the user's end diastole, one of the phases.
        es: the user's end systole, another one.

    Returns:
        ``ed`` and ``es``, each with ``phase``, which is ``None`` where a single phase leaves no choice, and ``chosen``.
    """
    result: dict[str, dict[str, Any]] = {}
    for name, given, other, best in (("ed", ed, es, np.argmax), ("es", es, ed, np.argmin)):
        free = [index for index, phase in enumerate(phases) if phase != other]
        if given is not None:
            result[name] = {"phase": given, "chosen": "user"}
        elif len(phases) == 1:
            result[name] = {"phase": None, "chosen": "only phase"}
        else:
            index = free[int(best([lv_volumes[one] for one in free]))]
            result[name] = {"phase": int(phases[index]), "chosen": "found"}
    if len(phases) > 1 and result["ed"]["phase"] == result["es"]["phase"]:  # all volumes are equal
        other = next(phase for phase in phases if phase != result["ed"]["phase"])
        result["es"]["phase"] = int(other)
    return result


def _ventricle(
    label: Label, side: str, words: str, volumes: Sequence[float], phases: Sequence[int], ed: int, es: int
) -> list[Measurement]:
    """Returns EF, EDV, ESV and SV of a ventricle."""
    largest, smallest = volumes[ed], volumes[es]
    stroke = largest - smallest
    values: list[tuple[str, str, float | None, str, int | None]] = [
        ("ef", "ejection fraction", ejection_fraction(largest, smallest), "%", None),
        ("edv", "end-diastolic volume", largest, "mL", phases[ed]),
        ("esv", "end-systolic volume", smallest, "mL", phases[es]),
        ("sv", "stroke volume", stroke, "mL", None),
    ]
    return [
        Measurement(f"{side}_{key}", f"{words} {title}", value, unit, CODES[f"{side}_{key}"], label.index, phase)
        for key, title, value, unit, phase in values
    ]


def _mass(wall: Label, volume_ml: float, phase: int) -> Measurement:
    return Measurement(
        "myocardial_mass",
        "Left ventricular myocardial mass",
        volume_ml * MYOCARDIAL_DENSITY_G_PER_ML,
        "g",
        MASS,
        wall.index,
        phase,
    )


def ventricle_flags(items: Iterable[Measurement], _evidence: Mapping[str, float]) -> list[Flag]:
    """Flags numbers that no heart has."""
    values = {item.name: item.value for item in items}
    flags = []
    for side, name in (("lv", "left"), ("rv", "right")):
        diastole, systole, fraction = (values.get(f"{side}_{key}") for key in ("edv", "esv", "ef"))
        if diastole is not None and systole is not None and systole > diastole:
            flags.append(
                Flag(
                    "ES_ABOVE_ED",
                    f"the {name} ventricle is larger at end systole ({systole:.1f} mL) than at end diastole "
                    f"({diastole:.1f} mL): check which phase is which",
                )
            )
        if fraction is None:
            continue
        if not 0 <= fraction <= 100:
            flags.append(Flag("EF_IMPOSSIBLE", f"the {name} ejection fraction is {fraction:.1f}%, outside 0 to 100%"))
        elif not PLAUSIBLE_EF[0] <= fraction <= PLAUSIBLE_EF[1]:
            low, high = PLAUSIBLE_EF
            message = f"the {name} ejection fraction is {fraction:.1f}%, outside {low:.0f} to {high:.0f}%"
            flags.append(Flag("EF_IMPLAUSIBLE", message))
    return flags
