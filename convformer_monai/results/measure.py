"""The numbers and flags of a mask, whichever bundle made it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused
from convformer_monai.labels import CARDIAC, DERMOSCOPY, HEMORRHAGE, LABELS, Label
from convformer_monai.readers.series import ImageSeries
from convformer_monai.results.cardiac import measure_cardiac
from convformer_monai.results.dermoscopy import measure_dermoscopy
from convformer_monai.results.flags import DISAGREEMENT_LIMIT, find_flags
from convformer_monai.results.geometry import VOLUME, voxel_volume_ml
from convformer_monai.results.hemorrhage import measure_hemorrhage
from convformer_monai.results.measurements import Measurement, Measurements

__all__ = ["measure"]

GREY = (200, 200, 200)
MODALITIES: dict[tuple[Label, ...], str] = {CARDIAC: "MR", DERMOSCOPY: "photo", HEMORRHAGE: "CT"}
USUAL_PARTS: dict[tuple[Label, ...], int] = {
    CARDIAC: 2,
    DERMOSCOPY: 3,
    HEMORRHAGE: 10,
}  # of a structure in one phase; more are flagged


def measure(
    labels: NDArray[np.uint8],
    series: ImageSeries,
    bundle_name: str,
    *,
    case: str,
    ed: int | None = None,
    es: int | None = None,
    disagreement: float | None = None,
    disagreement_threshold: float | None = None,
    of_image: bool = True,
    labels_table: Sequence[Label] | None = None,
) -> Measurements:
    """Measures a mask.

    Args:
        labels: (phases, X, Y, Z) uint8 on the grid of the series, or (X, Y) for a photograph.
        series: what was segmented, or the mask itself.
        bundle_name: name of the bundle's folder, a key of :data:`convformer_monai.labels.LABELS`. Of another bundle
            the volume of each structure is measured, and no more.
        case: name of the case.
        ed: end-diastolic phase, as in ``series.phases``; ``None`` to find it.
        es: end-systolic phase, as in ``series.phases``; ``None`` to find it.
        disagreement: 1 - Dice between the plain and the flip-averaged mask, if it was measured.
        disagreement_threshold: a larger disagreement is flagged; ``None`` for
            :data:`convformer_monai.results.flags.DISAGREEMENT_LIMIT`.
        of_image: whether the series holds the image; if it holds the mask itself, its values are not flagged.
        labels_table: structures of a bundle that is not in ``LABELS``; without it they are named after their values.

    Raises:
        InputRefused: ``PHASE_NOT_FOUND`` if the series has no such phase as ``ed`` or ``es``; ``OPTION`` if both are
            the same, or given for a bundle of no heart; ``WRONG_KIND`` if a photograph is measured as a
            volume, or a volume as a photograph.
        ValueError: if the labels do not fit the series or the bundle.
    """
    table = LABELS.get(bundle_name) or tuple(labels_table or _table_of(labels))
    _check_labels(labels, series, table)
    _check_kind(series, bundle_name, table)
    if table != CARDIAC and not (ed is None and es is None):
        raise InputRefused("OPTION", f"the bundle {bundle_name} knows no heart beat; leave --ed and --es out")
    details: dict[str, Any]
    if table == CARDIAC:
        items, details = measure_cardiac(labels, series, ed, es)
    elif table == HEMORRHAGE:
        items, details = measure_hemorrhage(labels, series)
    elif table == DERMOSCOPY:
        items, details = measure_dermoscopy(labels, series)
    else:
        items, details = _measure_any(labels, series, table)
    flags = find_flags(
        labels,
        series,
        table,
        items,
        modality=MODALITIES.get(table, series.modality or "") if of_image else None,
        max_parts=USUAL_PARTS.get(table),
        disagreement=disagreement,
        disagreement_limit=DISAGREEMENT_LIMIT if disagreement_threshold is None else disagreement_threshold,
    )
    return Measurements(case, bundle_name, table, tuple(items), flags, details)


def _table_of(labels: NDArray[np.uint8]) -> tuple[Label, ...]:
    """Names the structures of an unknown bundle after their values."""
    values = [int(value) for value in np.unique(labels) if value]
    return tuple(Label(value, f"label_{value}", f"label {value}", GREY) for value in values)


def _check_labels(labels: NDArray[np.uint8], series: ImageSeries, table: Sequence[Label]) -> None:
    """Refuses labels of another grid, or of other structures."""
    grid = tuple(series.image.shape)[1 if series.is_photo else 0 :]
    if labels.shape != grid:
        raise ValueError(f"labels must have the shape of the series, {grid}, got {labels.shape}")
    strange = sorted({int(value) for value in np.unique(labels)} - {0, *(label.index for label in table)})
    if strange:
        raise ValueError(f"labels must be 0 or one of {[label.index for label in table]}, got {strange}")


def _check_kind(series: ImageSeries, bundle_name: str, table: tuple[Label, ...]) -> None:
    """Refuses photographs as volumes and the other way round."""
    if series.is_photo and table in (CARDIAC, HEMORRHAGE):
        raise InputRefused(
            "WRONG_KIND",
            f"{series.path.name} is a photograph, and {bundle_name} measures volumes; change --bundle",
        )
    if not series.is_photo and table == DERMOSCOPY:
        raise InputRefused(
            "WRONG_KIND", f"{series.path.name} is no photograph, and {bundle_name} measures those; give the PNG mask"
        )


def _measure_any(
    labels: NDArray[np.uint8], series: ImageSeries, table: Sequence[Label]
) -> tuple[list[Measurement], dict[str, Any]]:
    """Measures the volume of each structure, or its area on a photograph, which needs no other knowledge of it."""
    if series.is_photo:
        unit = float(np.prod(np.linalg.norm(series.affine[:3, :2], axis=0))) if series.spacing_known else 1.0
        areas = [
            Measurement(
                f"{label.name}_area",
                f"Area of {label.long_name}",
                float(np.count_nonzero(labels == label.index)) * unit,
                "mm2" if series.spacing_known else "{pixel}",
                structure=label.index,
            )
            for label in table
        ]
        return areas, {"notes": []}
    unit = voxel_volume_ml(series)
    volumes = [
        Measurement(
            f"{label.name}_volume",
            f"Volume of {label.long_name}",
            float(np.count_nonzero(volume == label.index)) * unit,
            "mL",
            VOLUME,
            label.index,
            phase,
        )
        for phase, volume in zip(series.phases, labels, strict=True)
        for label in table
    ]
    return volumes, {"voxel_volume_ml": unit, "notes": []}
