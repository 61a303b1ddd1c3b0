"""The NIfTI header: whether it describes a plain scalar volume with one trustworthy geometry, and which.

A header holds up to three geometries (qform, sform, pixdim) that may contradict each other; here they must agree.
The one exception is the "sform without scale" that genuine ACDC files carry: unit direction vectors, no qform, and the
true spacing in ``pixdim`` only. There the spacing is taken from ``pixdim`` and a warning says so.
"""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.limits import check_spacing, check_voxels, in_mm, one_line

__all__ = ["QFORM_FIELDS", "UNITS_MM", "checked_affine", "checked_shape", "header_geometry", "phase_step_ms"]

SPACING_RTOL = 0.01
UNITS_MASK, UNITS_UNKNOWN, UNITS_MM = 0x07, 0, 2
TIME_UNITS_MASK, TIME_UNITS_MS = 0x38, {8: 1e3, 16: 1.0, 24: 1e-3}
QFORM_FIELDS = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")


def checked_shape(header: nib.Nifti1Header, where: str | Path) -> tuple[int, ...]:
    """Checks dimensions, type and size from the header alone.

    Returns:
        Three sizes, or four of a cine.

    Raises:
        InputRefused: if it is not a scalar volume or cine, or too large.
    """
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) not in (3, 4):
        raise InputRefused(
            RefusalCode.DIMENSIONS, f"{where} has shape {shape}; a volume (3-D) or a cine (4-D) is needed"
        )
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise InputRefused(
            RefusalCode.DATA_TYPE,
            f"{where} holds {dtype} voxels (complex, colour or records); a scalar grey-value volume is needed",
        )
    check_voxels(shape, where)
    return shape


def checked_affine(
    header: nib.Nifti1Header, pixdim: NDArray[np.floating], where: str | Path
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Finds the one geometry that the header's fields agree on.

    Args:
        header: whose shape has been checked.
        pixdim: the field as stored; nibabel's repairs of a header turn a spacing of 0 into 1 and drop its sign.
        where: the file, for messages.

    Returns:
        Voxel index to RAS mm, and warnings.

    Raises:
        InputRefused: if there is no geometry, or it cannot be trusted.
    """
    spacing = _checked_spacing(header, pixdim, where)
    qform_code, sform_code = int(header["qform_code"]), int(header["sform_code"])
    if qform_code <= 0 and sform_code <= 0:
        raise InputRefused(
            RefusalCode.NO_GEOMETRY,
            f"{where} has neither qform nor sform code, so its orientation is unknown; "
            "write it again with its geometry",
        )
    qform = _checked_qform(header, where) if qform_code > 0 else None
    if sform_code <= 0:
        assert qform is not None
        return qform, ()
    warnings: tuple[str, ...] = ()
    sform = _checked_sform(header, where)
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.allclose(lengths, spacing, rtol=SPACING_RTOL):
        if qform is not None or not np.allclose(lengths, 1.0, atol=1e-3):
            raise InputRefused(
                RefusalCode.GEOMETRY_DISAGREES,
                f"{where}: sform says {in_mm(lengths)}, pixdim says {in_mm(spacing)}; correct the header",
            )
        sform[:3, :3] *= spacing
        warnings = (f"its sform has no scale and its qform no code; spacing {in_mm(spacing)} taken from pixdim",)
    shift = 0.0 if qform is None else _largest_shift(sform, qform, header.get_data_shape())
    if shift > 0.5 * float(spacing.min()):
        raise InputRefused(
            RefusalCode.GEOMETRY_DISAGREES,
            f"{where}: qform and sform place the voxels up to {shift:.1f} mm apart; correct the header",
        )
    return sform, warnings


def header_geometry(header: nib.Nifti1Header, shape: tuple[int, ...]) -> dict[str, Any]:
    """Returns the header's own geometry fields, nothing else of it (free-text fields may name the patient)."""
    return {
        "shape": np.asarray(shape),
        "pixdim": np.asarray(header["pixdim"], dtype=np.float64),
        "qform_code": int(header["qform_code"]),
        "sform_code": int(header["sform_code"]),
        "quatern": np.asarray([header[name] for name in QFORM_FIELDS], dtype=np.float64),
        "srow": np.stack([header[f"srow_{axis}"] for axis in "xyz"]).astype(np.float64),
        "xyzt_units": int(header["xyzt_units"]),
    }


def phase_step_ms(header: nib.Nifti1Header) -> float | None:
    """Returns the time from phase to phase of a cine, or ``None`` if the header does not tell it with its unit."""
    factor = TIME_UNITS_MS.get(int(header["xyzt_units"]) & TIME_UNITS_MASK)
    step = float(header["pixdim"][4])
    return step * factor if factor and math.isfinite(step) and step > 0 else None


def _checked_spacing(header: nib.Nifti1Header, pixdim: NDArray[np.floating], where: str | Path) -> NDArray[np.float64]:
    """Returns pixdim in mm if it is plausible."""
    units = int(header["xyzt_units"]) & UNITS_MASK
    if units not in (UNITS_UNKNOWN, UNITS_MM):
        raise InputRefused(
            RefusalCode.UNITS, f"{where} is not in millimetres (spatial unit code {units}); convert it to mm"
        )
    spacing = np.asarray(pixdim[1:4], dtype=np.float64)
    check_spacing(spacing, where)
    return spacing


def _checked_sform(header: nib.Nifti1Header, where: str | Path) -> NDArray[np.float64]:
    """Returns the sform if it is finite and invertible."""
    sform = np.asarray(header.get_sform(), dtype=np.float64)
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    volume = abs(np.linalg.det(sform[:3, :3])) if np.all(np.isfinite(sform)) else 0.0
    if volume <= 1e-3 * float(np.prod(lengths)) or volume == 0.0:
        raise InputRefused(RefusalCode.AFFINE, f"{where} has a singular or non-finite sform; correct the header")
    return sform


def _checked_qform(header: nib.Nifti1Header, where: str | Path) -> NDArray[np.float64]:
    """Returns the qform if it is one."""
    try:
        qform = np.asarray(header.get_qform(), dtype=np.float64)
    except (ValueError, HeaderDataError) as error:
        raise InputRefused(
            RefusalCode.AFFINE, f"{where} has an invalid qform: {one_line(error)}; correct the header"
        ) from error
    if not np.all(np.isfinite(qform)):
        raise InputRefused(RefusalCode.AFFINE, f"{where} has a non-finite qform; correct the header")
    return qform


def _largest_shift(first: NDArray[np.float64], second: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Returns the largest distance in mm between the places that two affines give to a corner voxel."""
    corners = np.array([[*corner, 1.0] for corner in product(*((0.0, n - 1.0) for n in shape[:3]))])
    return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())
