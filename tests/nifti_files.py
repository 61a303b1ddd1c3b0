"""Small NIfTI files with chosen geometry and header, for several test modules."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHORT_AXIS = np.array([[0.70, -0.30, -0.65], [0.71, 0.25, 0.65], [-0.03, -0.92, 0.39]])
"""Columns: directions in LPS of the rows, columns and slices of a real short-axis scan."""


def affine(spacing: tuple[float, ...] = (1.4, 1.4, 8.0), directions: np.ndarray | None = None) -> np.ndarray:
    """An affine, by default the one of an axial-like volume whose axes point to L, P, S."""
    result = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    if directions is not None:
        orthogonal, _ = np.linalg.qr(directions)
        orthogonal *= np.sign(np.sum(orthogonal * directions, axis=0))
        result[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ orthogonal * np.asarray(spacing)
    result[:3, 3] = (40.0, 55.0, -20.0)
    return result


def save(path: Path, data: np.ndarray, matrix: np.ndarray | None = None, **fields: Any) -> Path:
    """Writes a file whose qform and sform agree, then sets header fields as told, however wrong."""
    image = nib.Nifti1Image(data, affine() if matrix is None else matrix)
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    if fields:
        _patch(path, fields)
    return path


def _patch(path: Path, fields: dict[str, Any]) -> None:
    """Sets header fields in the file itself: nibabel would repair or refuse some of them."""
    openers = gzip.open if path.name.endswith(".gz") else open
    with openers(path, "rb") as file:
        content = bytearray(file.read())
    header = np.frombuffer(content, nib.Nifti1Header.template_dtype, count=1)[0]
    for name, value in fields.items():
        header[name] = value
    with openers(path, "wb") as file:
        file.write(content)


def trap(path: Path, data: np.ndarray, spacing: tuple[float, ...] = (1.68, 1.68, 5.0)) -> Path:
    """The header of genuine ACDC files: no qform, an sform without scale, the spacing in pixdim only."""
    unscaled = {"srow_x": [-1, 0, 0, 0], "srow_y": [0, -1, 0, 0], "srow_z": [0, 0, 1, 0]}
    pixdim = [1.0, *spacing, 1.0, 1.0, 1.0, 1.0]
    return save(path, data, None, qform_code=0, sform_code=2, pixdim=pixdim, xyzt_units=0, **unscaled)


def restored(data: np.ndarray, matrix: np.ndarray, order: tuple[int, ...], flips: tuple[int, ...]) -> Any:
    """The same volume in another storage order: axes permuted, then those in ``flips`` reversed."""
    permutation = np.eye(4)[:, [*order, 3]]
    for axis in flips:
        flip = np.eye(4)
        flip[axis, axis], flip[axis, 3] = -1, data.shape[order[axis]] - 1
        permutation = permutation @ flip
    rest = tuple(range(3, data.ndim))
    return np.flip(data.transpose(*order, *rest), flips), matrix @ permutation
