"""The measurements of a segmented study, whichever bundle segmented it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from monai.utils import convert_to_numpy
from numpy.typing import NDArray

from convformer_monai.labels import LABELS
from convformer_monai.readers.study import Study
from convformer_monai.results.cardiac import measure_cardiac
from convformer_monai.results.dermoscopy import measure_dermoscopy
from convformer_monai.results.flags import find_flags
from convformer_monai.results.hemorrhage import measure_hemorrhage
from convformer_monai.results.measurements import Measurement, Measurements

__all__ = ["case_name", "measure"]

CARDIAC, DERMOSCOPY, HEMORRHAGE = (
    "cardiac_mri_convformer_segmentation",
    "dermoscopy_convformer_segmentation",
    "ct_hemorrhage_convformer_segmentation",
)
MODALITIES = {CARDIAC: "MR", DERMOSCOPY: "photo", HEMORRHAGE: "CT"}
MAX_PARTS = {CARDIAC: 1, DERMOSCOPY: 1, HEMORRHAGE: 10}


def measure(
    labels: Any,
    study: Study,
    bundle: str,
    *,
    ed: int | None = None,
    es: int | None = None,
    disagreement: float | None = None,
    case: str | None = None,
) -> Measurements:
    """Measures a segmented study and says what is doubtful about it.

    Args:
        labels: label map on the grid of the study: (phases, X, Y, Z), or (X, Y) for a photograph.
        study: the image that was segmented.
        bundle: name of the bundle that segmented it, a key of :data:`convformer_monai.labels.LABELS`.
        ed: end diastole, 0-based as in ``study.phases`` (cardiac only); found if not given.
        es: end systole, likewise.
        disagreement: 1 - Dice between the predictions of the image and of its flipped copy, if it was computed.
        case: name of the case; that of the file or folder if not given.

    Returns:
        The numbers, flags and details; see :func:`~convformer_monai.results.cardiac.measure_cardiac`,
        :func:`~convformer_monai.results.hemorrhage.measure_hemorrhage` and
        :func:`~convformer_monai.results.dermoscopy.measure_dermoscopy`.

    Raises:
        ValueError: if the bundle is unknown, the labels are not on the study's grid or not the bundle's, or a phase does
            not exist.
    """
    if bundle not in MODALITIES:
        raise ValueError(f"bundle must be one of {', '.join(MODALITIES)}, got {bundle!r}")
    if bundle != CARDIAC and (ed is not None or es is not None):
        raise ValueError(f"ed and es are for cardiac studies, not for {bundle}")
    table = LABELS[bundle]
    mask = _checked_labels(labels, study, len(table), photo=bundle == DERMOSCOPY)
    items: list[Measurement]
    if bundle == CARDIAC:
        items, details = measure_cardiac(mask, study, ed, es)
    elif bundle == HEMORRHAGE:
        items, details = measure_hemorrhage(mask, study)
    else:
        items, details = measure_dermoscopy(mask, study)
    flags = find_flags(
        mask,
        study,
        table,
        items,
        modality=MODALITIES[bundle],
        max_parts=MAX_PARTS[bundle],
        disagreement=disagreement,
    )
    return Measurements(case or case_name(study.path), bundle, table, tuple(items), flags, details)


def case_name(path: Path) -> str:
    """Returns the name of a file without its ending, or that of a folder."""
    if path.is_dir():
        return path.resolve().name
    return path.name[:-7] if path.name.lower().endswith(".nii.gz") else path.stem


def _checked_labels(labels: Any, study: Study, largest: int, photo: bool) -> NDArray[np.uint8]:
    """Returns the label map if it belongs to the study and to the bundle."""
    if study.is_photo != photo:
        raise ValueError(f"study must be {'a photograph' if photo else 'a volume'} for this bundle")
    array = np.asarray(convert_to_numpy(labels))
    shape = tuple(study.image.shape[1:]) if photo else tuple(study.image.shape)
    if array.shape != shape:
        raise ValueError(f"labels must have the study's shape {shape}, got {array.shape}")
    mask = array.astype(np.uint8)
    if not np.array_equal(mask, array) or (mask.size and int(mask.max()) > largest):
        raise ValueError(f"labels must be whole numbers from 0 to {largest}")
    return mask
