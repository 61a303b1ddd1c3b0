"""Sizes of structures of which nothing but the names is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convformer_monai.measurements.geometry import VOLUME
from convformer_monai.measurements.values import Measurement
from convformer_monai.readers.series import ImageSeries
from convformer_monai.tasks.task import Label
from convformer_monai.transforms.geometry import voxel_volume_ml

__all__ = ["measure_sizes"]


def measure_sizes(
    labels: NDArray[np.uint8], series: ImageSeries, table: Sequence[Label]
) -> tuple[list[Measurement], dict[str, Any]]:
    """Measures the volume of each structure, or its area on a photograph.

    Args:
        labels: (phases, X, Y, Z), or (X, Y) for a photograph.
        series: their image.
        table: the structures.

    Returns:
        The measurements; and the details: ``voxel_volume_ml`` (of volumes) and ``notes``.
    """
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
    unit = voxel_volume_ml(series.affine)
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
