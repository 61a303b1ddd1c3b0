"""Cases whose numbers lie far from those of the others, and small pictures of them."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convformer_monai.cohort.plan import BundleOf
from convformer_monai.cohort.status import Status
from convformer_monai.cohort.storage import Place, fetched

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

__all__ = ["Outlier", "find_outliers", "once_a_case", "picture_of"]

logger = logging.getLogger(__name__)

LEAST_CASES = 8  # with fewer, no value is far from the others
LIMIT = 3.5  # Iglewicz and Hoaglin, How to detect and handle outliers, 1993
MAD_TO_SD = 1.4826  # of a normal distribution
WIDTH, QUALITY = 360, 80  # of a thumbnail


@dataclass(frozen=True)
class Outlier:
    """A case far from the others.

    Attributes:
        case: its name.
        title: of the measurement in which it is farthest.
        value: there.
        unit: of the value.
        median: of all cases.
        score: distance from the median, in robust standard deviations.
    """

    case: str
    title: str
    value: float
    unit: str
    median: float
    score: float


def once_a_case(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The measurements that a case has once, each with its rows; if there are none, all.

    Args:
        table: of :func:`convformer_monai.cohort.tables.write_tables`.
    """
    known = table.dropna(subset=["value"])
    groups = [(str(name), rows) for name, rows in known.groupby("name", sort=False)]
    once = [(name, rows) for name, rows in groups if not rows["case"].duplicated().any()]
    return once or groups


def find_outliers(table: pd.DataFrame, count: int) -> list[Outlier]:
    """The cases that lie farthest from the median of a measurement.

    The distance is the modified z-score: from the median, in median absolute deviations times 1.4826.

    Args:
        table: of all measurements.
        count: at most.

    Returns:
        The farthest first, each with the measurement in which it is farthest.
    """
    farthest: dict[str, Outlier] = {}
    for _, rows in once_a_case(table):
        values = rows["value"].to_numpy(float)
        median = float(np.median(values))
        spread = MAD_TO_SD * float(np.median(np.abs(values - median)))
        if len(values) < LEAST_CASES or spread == 0:
            continue
        scores = np.abs(values - median) / spread
        for index in np.flatnonzero(scores > LIMIT):
            row = rows.iloc[int(index)]
            one = Outlier(
                str(row["case"]),
                str(row["title"]),
                float(values[index]),
                str(row["unit"]),
                median,
                float(scores[index]),
            )
            if one.case not in farthest or farthest[one.case].score < one.score:
                farthest[one.case] = one
    return sorted(farthest.values(), key=lambda one: (-one.score, one.case))[:count]


def picture_of(status: Status, place: Place, bundles: Sequence[BundleOf]) -> str | None:
    """A small picture of a case with the outlines, as a data URL.

    It is the case's preview, or is drawn from its image and mask.

    Args:
        status: of a case that is done.
        place: output folder.
        bundles: of the run.

    Returns:
        The URL; ``None`` if it cannot be drawn, as where the image is no longer there.
    """
    bundle = next((one for one in bundles if one.weights_sha256 == status.made_by.get("weights")), None)
    try:
        with fetched(f"{place.url}/{status.case}_preview.png") as preview:
            if preview.is_file():
                return _thumbnail(_opened(preview))
    except OSError:  # of a URL that does not exist
        pass
    if bundle is None:
        return None
    try:
        return _thumbnail(_drawn(status, place, bundle))
    except Exception as error:  # no picture is worth the page
        logger.debug("%s: no picture: %s", status.case, error)
        return None


def _opened(path: Path) -> Image:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.convert("RGB")


def _drawn(status: Status, place: Place, bundle: BundleOf) -> Image:
    """Reads image and mask, measures and draws, as ``segment --preview`` does."""
    from convformer_monai.bundle import Bundle
    from convformer_monai.measurements.measure import measure
    from convformer_monai.outputs.drawing.preview import draw_preview
    from convformer_monai.readers import read_series

    report = place.read(f"{status.case}_report.json")
    options: Mapping[str, Any] = json.loads(report or "{}")["options"]
    opened = Bundle(bundle.where)
    ending = "_seg.png" if opened.is_photo else "_seg.nii.gz"
    phase = options["phase"]
    with fetched(status.path) as path, fetched(f"{place.url}/{status.case}{ending}") as mask:
        series = read_series(
            path,
            series_uid=options["series_uid"],
            phase=int(phase) if phase.isdigit() else "all",
            resample_uneven=options["resample_uneven"],
        )
        labels = read_series(mask, phase="all").image.numpy()
    if series.is_photo:
        labels = labels.max(axis=0) > 127
    labels = labels.astype(np.uint8)
    series.check_grid(labels)
    measured = measure(labels, series, opened.task, case=status.case, bundle=opened.name)
    return draw_preview(series, labels, opened.task, measured)


def _thumbnail(picture: Image) -> str:
    picture.thumbnail((WIDTH, WIDTH))
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
