"""Volumes as DICOM series, for several test modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from convformer_monai.phantoms.dicom import SliceStack, classic_series, save_series


def write_volume(folder: Path, volume: np.ndarray, affine: np.ndarray, **options: Any) -> Path:
    """Writes (X, Y, Z) or (X, Y, Z, T) as a classic series, by default MR."""
    stack = SliceStack.from_affine(volume.shape[:3], affine)
    save_series(classic_series(volume, stack, **options), folder)
    return folder
