"""NIfTI in: what is not a plain scalar volume with one trustworthy geometry is refused.

Nibabel reads nearly everything and picks one of up to three contradicting geometries of a header. Here they must agree.
The one exception is the "sform without scale" that genuine ACDC files carry: unit direction vectors, no qform, and the
true spacing in ``pixdim`` only. There the spacing is taken from ``pixdim`` and a warning says so.
"""

from __future__ import annotations

import gzip
import io
import logging
import zlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.data.utils import is_supported_format
from monai.utils import ensure_tuple
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused

__all__ = ["NiftiReader"]

logger = logging.getLogger(__name__)

SUFFIXES = (".nii", ".nii.gz")
MIN_SPACING_MM, MAX_SPACING_MM = 0.05, 20.0
MAX_VOXELS = 2**28  # 1 GiB as float32; a 512 x 512 x 20 cine of 30 phases has 1.6e8
MAX_TRAILING_BYTES = 2**20  # after the voxels; none belong there
SPACING_RTOL = 0.01
UNITS_MASK, UNITS_UNKNOWN, UNITS_MM = 0x07, 0, 2
QFORM_FIELDS = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
UNREADABLE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    OverflowError,
    zlib.error,
)
UNREADABLE += (ImageFileError, HeaderDataError)


class NiftiReader(ImageReader):
    """Reads one NIfTI file as float32, (X, Y, Z) or, for a cine, (X, Y, Z, T); usable in ``LoadImage(reader=...)``.

    All work and every check is in :meth:`get_data`: when :meth:`read` fails, MONAI's ``LoadImage`` silently tries other
    readers, which accept what is refused here.

    The metadata hold the affine in RAS millimetres and, under ``nifti``, the header's own geometry fields, from which
    :class:`convformer_monai.results.masks.MaskWriter` gives the mask the very header of the input.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Tells whether the name looks like NIfTI."""
        return bool(is_supported_format(filename, [suffix.lstrip(".") for suffix in SUFFIXES]))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Path | list[Path]:
        """Only notes the path; see the class for the reason."""
        paths = [Path(name) for name in ensure_tuple(data)]
        return paths[0] if len(paths) == 1 else paths

    def get_data(self, img: Path | Sequence[Path]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Reads and checks the volume.

        Args:
            img: what :meth:`read` returned.

        Returns:
            The voxel values with the header's scale applied, and the metadata.

        Raises:
            InputRefused: if the file is no volume that can be trusted.
        """
        if not isinstance(img, Path):
            raise InputRefused("SEVERAL_FILES", "expected one NIfTI file for one volume, got a list of files")
        image = _open(img)
        shape = _checked_shape(image, img)
        affine = _checked_affine(image.header, shape, img)
        data = _checked_values(image, img)
        if data.ndim == 4 and data.shape[3] == 1:
            data = data[..., 0]
        meta = {
            "affine": affine,
            "original_affine": affine.copy(),
            "space": "RAS",
            "spatial_shape": np.asarray(shape[:3]),
            "original_channel_dim": "no_channel" if data.ndim == 3 else -1,
            "nifti": _header_geometry(image.header, shape),
        }
        return data, meta

    def check(self, path: PathLike) -> None:
        """Checks existence and header without reading the voxels.

        Args:
            path: the file.

        Raises:
            InputRefused: if :meth:`get_data` would refuse it for its header.
        """
        image = _open(Path(path))
        _checked_affine(image.header, _checked_shape(image, Path(path)), Path(path), warn=False)


def _open(path: Path) -> nib.Nifti1Image:
    """Opens the file without reading its voxels."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputRefused("FILE_NOT_FOUND", f"{path} {what}; give the path of a .nii or .nii.gz file")
    if not path.name.lower().endswith(SUFFIXES):
        raise InputRefused("NOT_NIFTI", f"{path} is not named .nii or .nii.gz; convert it to NIfTI")
    try:
        image = nib.load(path)
    except UNREADABLE as error:
        raise InputRefused("NIFTI_UNREADABLE", f"{path} cannot be read as NIfTI: {_one_line(error)}") from error
    if not isinstance(image, nib.Nifti1Image):
        raise InputRefused(
            "NOT_NIFTI", f"{path} is no single-file NIfTI (a {type(image).__name__}); convert it to .nii.gz"
        )
    return image


def _checked_shape(image: nib.Nifti1Image, path: Path) -> tuple[int, ...]:
    """Checks dimensions, type and size from the header alone."""
    shape = tuple(int(n) for n in image.shape)
    if len(shape) not in (3, 4):
        raise InputRefused("DIMENSIONS", f"{path} has shape {shape}; a volume (3-D) or a cine (4-D) is needed")
    if min(shape) < 1:
        raise InputRefused("DIMENSIONS", f"{path} has shape {shape}; every dimension must be at least 1")
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise InputRefused(
            "DATA_TYPE",
            f"{path} holds {dtype} voxels (complex, colour or labels in records); a scalar grey-value volume is needed",
        )
    voxels = int(np.prod(shape, dtype=np.float64))
    if voxels > MAX_VOXELS:
        raise InputRefused(
            "TOO_LARGE", f"{path} claims {voxels:,} voxels, above the limit of {MAX_VOXELS:,}; crop or split it"
        )
    return shape


def _checked_affine(
    header: nib.Nifti1Header, shape: tuple[int, ...], path: Path, warn: bool = True
) -> NDArray[np.float64]:
    """Returns the one geometry that the header's fields agree on, voxel index to RAS mm."""
    spacing = _checked_spacing(header, path)
    qform_code, sform_code = int(header["qform_code"]), int(header["sform_code"])
    if qform_code <= 0 and sform_code <= 0:
        raise InputRefused(
            "NO_GEOMETRY",
            f"{path} has neither qform nor sform code, so its orientation is unknown; write it again with its geometry",
        )
    qform = _qform(header, path) if qform_code > 0 else None
    if sform_code <= 0:
        assert qform is not None
        return qform
    sform = _checked_sform(header, path)
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.allclose(lengths, spacing, rtol=SPACING_RTOL):
        if qform is not None or not np.allclose(lengths, 1.0, atol=1e-3):
            raise InputRefused(
                "GEOMETRY_DISAGREES",
                f"{path}: sform says {_mm(lengths)}, pixdim says {_mm(spacing)}; correct the header",
            )
        sform[:3, :3] *= spacing
        if warn:
            logger.warning(
                "%s: its sform has no scale and its qform no code; spacing %s taken from pixdim",
                path.name,
                _mm(spacing),
            )
    if qform is not None and _largest_shift(sform, qform, shape) > 0.5 * float(spacing.min()):
        raise InputRefused(
            "GEOMETRY_DISAGREES",
            f"{path}: qform and sform place the voxels up to "
            f"{_largest_shift(sform, qform, shape):.1f} mm apart; correct the header",
        )
    return sform


def _checked_spacing(header: nib.Nifti1Header, path: Path) -> NDArray[np.float64]:
    """Returns pixdim in mm if it is plausible."""
    units = int(header["xyzt_units"]) & UNITS_MASK
    if units not in (UNITS_UNKNOWN, UNITS_MM):
        raise InputRefused("UNITS", f"{path} is not in millimetres (spatial unit code {units}); convert it to mm")
    # as stored: nibabel turns a spacing of 0 into 1 and drops the sign
    stored = type(header).from_fileobj(io.BytesIO(_read_bytes(path, header.sizeof_hdr)), check=False)
    spacing = np.asarray(stored["pixdim"][1:4], dtype=np.float64)
    if not np.all(np.isfinite(spacing)) or np.any(spacing < MIN_SPACING_MM) or np.any(spacing > MAX_SPACING_MM):
        raise InputRefused(
            "SPACING",
            f"{path} has voxel spacing {_mm(spacing)}, outside {MIN_SPACING_MM}-"
            f"{MAX_SPACING_MM:g} mm; correct the header",
        )
    return spacing


def _checked_sform(header: nib.Nifti1Header, path: Path) -> NDArray[np.float64]:
    """Returns the sform if it is finite and invertible."""
    sform = np.asarray(header.get_sform(), dtype=np.float64)
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    volume = abs(np.linalg.det(sform[:3, :3])) if np.all(np.isfinite(sform)) else 0.0
    if volume <= 1e-3 * float(np.prod(lengths)) or volume == 0.0:
        raise InputRefused("AFFINE", f"{path} has a singular or non-finite sform; correct the header")
    return sform


def _qform(header: nib.Nifti1Header, path: Path) -> NDArray[np.float64]:
    """Returns the qform if it is one."""
    try:
        qform = np.asarray(header.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise InputRefused("AFFINE", f"{path} has an invalid qform: {_one_line(error)}; correct the header") from error
    if not np.all(np.isfinite(qform)):
        raise InputRefused("AFFINE", f"{path} has a non-finite qform; correct the header")
    return qform


def _largest_shift(first: NDArray[np.float64], second: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Returns the largest distance in mm between the places that two affines give to a corner voxel."""
    corners = np.array([[*corner, 1.0] for corner in product(*((0.0, n - 1.0) for n in shape[:3]))])
    return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())


def _checked_values(image: nib.Nifti1Image, path: Path) -> NDArray[np.float32]:
    """Reads the voxels as float32, scale applied, all finite."""
    end = int(cast(ArrayProxy, image.dataobj).offset) + int(np.prod(image.shape)) * image.get_data_dtype().itemsize
    try:
        content = _read_bytes(path, end + MAX_TRAILING_BYTES + 1)  # to the end: only there is gzip's checksum
        if len(content) > end + MAX_TRAILING_BYTES:
            raise ValueError(f"more than {MAX_TRAILING_BYTES:,} bytes follow the voxels")
        with np.errstate(over="ignore", invalid="ignore"):
            data = type(image).from_bytes(content).get_fdata(dtype=np.float32, caching="unchanged")
    except UNREADABLE as error:
        raise InputRefused("NIFTI_UNREADABLE", f"{path} is truncated or corrupt: {_one_line(error)}") from error
    if not np.isfinite(data).all():
        count = int(data.size - np.isfinite(data).sum())
        raise InputRefused("NOT_FINITE", f"{path} holds {count:,} voxels that are NaN or infinite; repair it")
    return np.asarray(data, dtype=np.float32)


def _header_geometry(header: nib.Nifti1Header, shape: tuple[int, ...]) -> dict[str, Any]:
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


def _read_bytes(path: Path, count: int) -> bytes:
    """Reads at most so many bytes, uncompressed."""
    with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
        return file.read(count)


def _mm(values: NDArray[np.float64]) -> str:
    return " x ".join(f"{value:.4g}" for value in values) + " mm"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
