"""The tensor of a :class:`convformer_monai.readers.series.ImageSeries` that was no DICOM series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import SpaceKeys
from numpy.typing import NDArray

__all__ = ["phase_tensor"]


def phase_tensor(
    data: NDArray[np.floating],
    affine: NDArray[np.float64],
    phases: Sequence[int],
    meta: Mapping[str, Any] | None = None,
) -> MetaTensor:
    """Makes the image of a series.

    Args:
        data: (X, Y, Z), or (X, Y, Z, T), in any memory order.
        affine: (4, 4) voxel index to RAS mm.
        phases: which of T are taken.
        meta: further geometry to keep.

    Returns:
        (phases, X, Y, Z) float32.
    """
    cine = np.moveaxis(data[..., None] if data.ndim == 3 else data, -1, 0)  # (T, X, Y, Z)
    chosen = cine if len(phases) == len(cine) else cine[list(phases)]
    geometry = {
        **(meta or {}),
        "original_affine": affine.copy(),
        "spatial_shape": np.asarray(data.shape[:3]),
        "space": SpaceKeys.RAS,
    }
    values = torch.from_numpy(np.ascontiguousarray(chosen, dtype=np.float32))
    return MetaTensor(values, affine=torch.from_numpy(affine.copy()), meta=geometry)
