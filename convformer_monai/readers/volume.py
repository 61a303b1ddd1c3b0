"""The tensors of series that are not DICOM slices: volumes and photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import SpaceKeys
from numpy.typing import NDArray

__all__ = ["phase_tensor", "photo_tensor"]


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


def photo_tensor(pixels: NDArray[np.uint8], spacing: tuple[float, float] = (1.0, 1.0)) -> MetaTensor:
    """Makes the image of a photograph.

    Args:
        pixels: (Y, X, 3), upright RGB.
        spacing: of the pixels along X and Y, mm if known.

    Returns:
        (3, X, Y); its affine makes viewers that show LPS images show it upright.
    """
    affine = torch.diag(torch.tensor([-spacing[0], -spacing[1], 1.0, 1.0], dtype=torch.float64))
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 1, 0))), affine=affine)
