"""NIfTI in: what is not a plain scalar volume or cine with one trustworthy geometry is refused."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import PathLike
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.cases import refuse_no_file
from convformer_monai.readers.limits import (
    MAX_SPACING_MM,
    MAX_VOXELS,
    MIN_SPACING_MM,
    one_line,
    read_capped,
    refuse_not_finite,
)
from convformer_monai.readers.nifti_header import (
    QFORM_FIELDS,
    UNITS_MM,
    checked_affine,
    checked_shape,
    header_geometry,
    phase_step_ms,
)
from convformer_monai.readers.phases import chosen_phases
from convformer_monai.readers.series import ImageSeries
from convformer_monai.readers.volume import phase_tensor

__all__ = [
    "MAX_SPACING_MM",
    "MAX_VOXELS",
    "MIN_SPACING_MM",
    "QFORM_FIELDS",
    "SUFFIXES",
    "UNITS_MM",
    "check_nifti",
    "read_nifti",
]

logger = logging.getLogger(__name__)

SUFFIXES = (".nii", ".nii.gz")
HEADERS: dict[int, type[nib.Nifti1Header]] = {
    348: nib.Nifti1Header,
    540: nib.Nifti2Header,
}  # by size in bytes, which is the first field
SINGLE_FILE_MAGIC = (b"n+1", b"n+2")
MAX_OFFSET = 2**24  # of the voxels; header extensions come before them
MAX_TRAILING_BYTES = 2**20  # after the voxels; none belong there
SLICES = 16  # converted at a time
UNREADABLE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    OverflowError,
    zlib.error,
    struct.error,
    HeaderDataError,
)


def read_nifti(path: PathLike, *, phase: int | str | None = None) -> ImageSeries:
    """Reads one NIfTI file, strictly. NIfTI tells no modality.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file.
        phase: 0-based phase of a cine, or ``"all"``; ``None`` takes the only one, and refuses if there are more.

    Returns:
        The image. Its metadata hold under ``nifti`` the header's own geometry fields, so that
        :class:`convformer_monai.saving.MaskWriter` gives the mask the very header of the input.

    Raises:
        InputRefused: if the file is not a volume that can be trusted, or has no such phase.
        ValueError: if ``phase`` is none of those.
    """
    volume = _checked_header(Path(path))
    count = volume.shape[3] if len(volume.shape) == 4 else 1
    phases = chosen_phases(phase, count, volume.path)
    data = _checked_values(volume, phases)
    shape = volume.shape if len(phases) == count else volume.shape[:3]
    step = phase_step_ms(volume.header) if count > 1 else None
    return ImageSeries(
        image=phase_tensor(data, volume.affine, range(len(phases)), {"nifti": header_geometry(volume.header, shape)}),
        format="nifti",
        path=volume.path,
        phases=phases,
        phase_times_ms=tuple(number * step for number in phases) if step else (),
        warnings=volume.warnings,
    )


def check_nifti(path: PathLike) -> tuple[int, ...]:
    """Checks existence and header of a file without reading its voxels.

    Args:
        path: the file.

    Returns:
        Its shape, as of :func:`read_nifti` with all phases: (X, Y, Z) or (X, Y, Z, T).

    Raises:
        InputRefused: if :func:`read_nifti` would refuse it for its header.
    """
    return _checked_header(Path(path)).shape


@dataclass(frozen=True)
class _Volume:
    """A file whose header has passed every check."""

    path: Path
    header: nib.Nifti1Header
    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    warnings: tuple[str, ...]


def _checked_header(path: Path) -> _Volume:
    """Checks all that can be known without the voxels."""
    if not path.is_file():
        refuse_no_file(path, "give the path of a .nii or .nii.gz file")
    if not path.name.lower().endswith(SUFFIXES):
        raise InputRefused(RefusalCode.NOT_NIFTI, f"{path} is not named .nii or .nii.gz; convert it to NIfTI")
    try:
        header, pixdim = _parse_header(read_capped(path, max(HEADERS)), path)
        shape = checked_shape(header, path)
    except UNREADABLE as error:
        raise InputRefused(
            RefusalCode.NIFTI_UNREADABLE, f"{path} cannot be read as NIfTI: {one_line(error)}"
        ) from error
    affine, warnings = checked_affine(header, pixdim, path)
    return _Volume(path, header, shape, affine, warnings)


def _parse_header(raw: bytearray, path: Path) -> tuple[nib.Nifti1Header, NDArray[np.floating]]:
    """Returns the header as nibabel repairs it, and pixdim as stored.

    Header extensions are left alone: nothing in them is needed, and their sizes are not to be trusted.
    """
    sizes = {size for order in ("<i", ">i") for size in struct.unpack(order, raw[:4])} & set(HEADERS)
    if not sizes or len(raw) < min(sizes):
        raise InputRefused(RefusalCode.NOT_NIFTI, f"{path} does not begin as NIfTI files do; convert it to .nii.gz")
    size = sizes.pop()
    block, kind = bytes(raw[:size]), HEADERS[size]
    stored = kind(block, check=False)
    if bytes(stored["magic"])[:3] not in SINGLE_FILE_MAGIC:
        raise InputRefused(
            RefusalCode.NOT_NIFTI, f"{path} is not a single-file NIfTI (a .hdr and .img pair); convert it to .nii.gz"
        )
    return kind(block), stored["pixdim"]


def _checked_values(volume: _Volume, phases: Sequence[int]) -> NDArray[np.float32]:
    """Reads the voxels of some phases as float32 (X, Y, Z, T), scale applied; those of all are finite."""
    header, path, shape = volume.header, volume.path, volume.shape
    try:
        offset, dtype, count = int(header.get_data_offset()), header.get_data_dtype(), int(np.prod(shape))
        if not header.sizeof_hdr <= offset <= MAX_OFFSET:
            raise ValueError(f"its voxels begin at byte {offset:,}")
        end = offset + count * dtype.itemsize
        content = read_capped(path, end + MAX_TRAILING_BYTES + 1)  # to the end: only there is gzip's checksum
        if len(content) < end:
            raise ValueError(f"it ends after {len(content):,} of {end:,} bytes")
        if len(content) > end + MAX_TRAILING_BYTES:
            raise ValueError(f"more than {MAX_TRAILING_BYTES:,} bytes follow the voxels")
        slope, inter = header.get_slope_inter()  # None, None: no scale
    except UNREADABLE as error:
        raise InputRefused(
            RefusalCode.NIFTI_UNREADABLE, f"{path} is truncated or corrupt: {one_line(error)}"
        ) from error
    stored = np.frombuffer(content, dtype, count, offset).reshape((*shape, 1)[:4], order="F")  # (X, Y, Z, T)
    data = np.empty((len(phases), *shape[:3]), dtype=np.float32)
    bad = 0
    for phase in range(stored.shape[3]):
        for start in range(0, shape[2], SLICES):
            part = np.s_[..., start : start + SLICES]
            values = _scaled(stored[..., phase][part], slope, inter)
            bad += values.size - int(np.count_nonzero(np.isfinite(values)))
            if phase in phases:
                data[phases.index(phase)][part] = values
    refuse_not_finite(bad, path)
    return np.moveaxis(data, 0, -1)


def _scaled(stored: NDArray[Any], slope: float | None, inter: float | None) -> NDArray[np.float32]:
    """Stored values as they are meant, float32; without a slope as they are."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = apply_read_scaling(stored, np.float32(1.0 if slope is None else slope), np.float32(inter or 0.0))
        return np.asarray(scaled, dtype=np.float32)
