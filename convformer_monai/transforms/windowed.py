"""CT slices that were published as pictures, read back as what they were: Hounsfield units on a grid in millimetres."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["LoadWindowedSliced", "from_window"]

SLICE_THICKNESS_MM = 5.0


def from_window(grey: NDArray[np.uint8], window: Sequence[float]) -> NDArray[np.float32]:
    """Turns 8-bit grey levels into Hounsfield units; what the window cut off stays at its ends.

    Args:
        grey: 0-255.
        window: Hounsfield units that 0 and 255 stand for.
    """
    low, high = float(window[0]), float(window[1])
    return (low + grey.astype(np.float32) * ((high - low) / 255)).astype(np.float32)


class LoadWindowedSliced(MapTransform):
    """Reads axial head CT slices from 8-bit grey pictures, as volumes of one slice in Hounsfield units.

    The pictures show the head from below with the nose up, as radiologists do. Each item must hold ``window`` (see
    :func:`from_window`) and ``extent_mm``: what the picture measures along X and Y, or along its longer side.

    Args:
        keys: paths of pictures; replaced by (1, X, Y, 1) float32 with an affine.
        allow_missing_keys: do not fail if a key is missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Reads each slice.

        Raises:
            InputRefused: if it is not an 8-bit grey picture.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            grey = _read_grey(Path(str(result[key])))
            spacing = _spacing(grey.shape, result["extent_mm"])
            units = torch.from_numpy(from_window(grey, result["window"]))
            affine = torch.diag(torch.tensor([-spacing[0], -spacing[1], SLICE_THICKNESS_MM, 1.0], dtype=torch.float64))
            result[key] = MetaTensor(units[None, ..., None], affine=affine, meta={"filename_or_obj": str(result[key])})
        return result


def _spacing(size: Sequence[int], extent_mm: float | Sequence[float]) -> tuple[float, float]:
    """Pixel size along X and Y, mm."""
    if isinstance(extent_mm, int | float):
        return (extent_mm / max(size),) * 2
    return extent_mm[0] / size[0], extent_mm[1] / size[1]


def _read_grey(path: Path) -> NDArray[np.uint8]:
    """Returns (X, Y)."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputRefused(
            RefusalCode.PHOTO_UNREADABLE, f"{path} cannot be read as a picture; give a PNG slice"
        ) from error
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise InputRefused(
            RefusalCode.DATA_TYPE, f"{path} is not an 8-bit grey picture; convert the slice to 8-bit grey"
        )
    return np.ascontiguousarray(pixels.T)
