"""Arguments that say which grid a phantom is sampled on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convformer_monai.phantoms.cardiac_anatomy import Array

__all__ = ["checked_affine", "checked_shape", "triple"]


def triple(name: str, value: Sequence[float], smallest: float, largest: float) -> Array:
    """Three numbers within limits, as an array.

    Raises:
        ValueError: if they are not; the message names the argument.
    """
    array = np.asarray(value)
    if array.shape != (3,) or array.dtype.kind not in "if" or not ((array >= smallest) & (array <= largest)).all():
        raise ValueError(f"{name} must be three numbers between {smallest} and {largest}, got {value!r}")
    return array


def checked_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Three whole numbers of voxels.

    Raises:
        ValueError: if they are not.
    """
    size = triple("shape", shape, 1, 4096)
    if size.dtype.kind != "i":
        raise ValueError(f"shape must be three whole numbers, got {shape!r}")
    return int(size[0]), int(size[1]), int(size[2])


def checked_affine(affine: Array) -> NDArray[np.float64]:
    """An affine that can place voxels.

    Raises:
        ValueError: if it is not an invertible (4, 4) matrix of finite numbers.
    """
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-6:
        raise ValueError(f"affine must be an invertible (4, 4) matrix of finite numbers, got {matrix.tolist()}")
    return matrix
