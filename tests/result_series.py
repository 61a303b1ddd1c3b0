"""Series in memory, and shapes whose size is known, for the tests of what is measured and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from convformer_monai.readers.series import ImageSeries

TURNED = Rotation.from_euler("xyz", (20, -15, 40), degrees=True).as_matrix()


def tilted(spacing: Sequence[float], degrees: float = 18.0) -> NDArray[np.float64]:
    """A (3, 3) matrix of axial CT slices under a tilted gantry: its third column leans back."""
    matrix = np.diag([-spacing[0], -spacing[1], spacing[2]]).astype(float)
    matrix[1, 2] = spacing[2] * np.tan(np.radians(degrees))
    return matrix


def centred(matrix: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """The affine of a grid whose middle is at 0 mm."""
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = -matrix @ ((np.asarray(shape) - 1) / 2)
    return affine


def positions(affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
    """(X, Y, Z, 3): where each voxel lies, RAS mm."""
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def ellipsoid(
    affine: NDArray[np.float64],
    shape: Sequence[int],
    semi_axes: Sequence[float],
    axes: NDArray[np.float64] | None = None,
    centre: Sequence[float] = (0.0, 0.0, 0.0),
) -> NDArray[np.uint8]:
    """An ellipsoid at a place in the patient; the columns of ``axes`` are its directions."""
    local = (positions(affine, shape) - centre) @ (np.eye(3) if axes is None else axes)
    return ((local / semi_axes) ** 2).sum(axis=-1).__le__(1).astype(np.uint8)


def ellipse(shape: Sequence[int], a: float, b: float, degrees: float = 0.0, spacing: Any = 1.0) -> NDArray[np.bool_]:
    """An ellipse in the middle of (X, Y), its semi-axes and the pixel spacing in the same unit."""
    x, y = ((np.indices(shape).T - (np.asarray(shape) - 1) / 2) * spacing).T
    turn = np.radians(degrees)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return np.asarray((along / a) ** 2 + (across / b) ** 2 <= 1)


def volume_series(
    shape: Sequence[int], affine: NDArray[np.float64] | None = None, values: Any = None, **fields: Any
) -> ImageSeries:
    """A series (phases, X, Y, Z); without values, a ramp from 0 to 1000."""
    if values is None:
        values = np.linspace(0, 1000, int(np.prod(shape))).reshape(shape)
    image = MetaTensor(
        torch.as_tensor(np.ascontiguousarray(values, dtype=np.float32)),
        affine=torch.as_tensor(np.eye(4) if affine is None else affine, dtype=torch.float64),
    )
    options: dict[str, Any] = {"format": "nifti", "path": Path("case.nii.gz"), "phases": tuple(range(shape[0]))}
    return ImageSeries(image, **(options | fields))


def photo_series(
    shape: Sequence[int], spacing: Sequence[float] = (1.0, 1.0), known: bool = True, values: Any = None, **fields: Any
) -> ImageSeries:
    """A photograph of (X, Y) pixels; without values, a ramp of grey."""
    if values is None:
        values = np.broadcast_to(np.linspace(40, 200, int(np.prod(shape))).reshape(shape), (3, *shape))
    image = MetaTensor(
        torch.as_tensor(np.ascontiguousarray(values, dtype=np.uint8)),
        affine=torch.diag(torch.tensor([*spacing, 1.0, 1.0], dtype=torch.float64)),
    )
    options: dict[str, Any] = {"format": "photo", "path": Path("photo.jpg"), "spacing_known": known}
    return ImageSeries(image, **(options | fields))
