"""Masks as NIfTI (uint8, millimetres, the geometry of the input) and, of photographs, as PNG; written atomically."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import DtypeLike, PathLike
from monai.data import NibabelWriter
from monai.utils import convert_to_numpy
from numpy.typing import NDArray

from convformer_monai.readers.nifti import QFORM_FIELDS, UNITS_MM
from convformer_monai.readers.series import ImageSeries
from convformer_monai.results.atomic import AtomicFiles, transaction, write_atomically

__all__ = ["MaskWriter", "write_mask", "write_png_mask"]

logger = logging.getLogger(__name__)

UNITS_TIME_MASK, UNITS_UNKNOWN, UNITS_SECONDS = 0x38, 0, 8
SHEAR_TOLERANCE = 1e-4  # cosine between two axes; 0.03 mm over 300 mm


def write_mask(
    path: str | os.PathLike[str],
    labels: NDArray[np.uint8],
    series: ImageSeries,
    *,
    overwrite: bool = False,
    files: AtomicFiles | None = None,
) -> None:
    """Writes a mask as NIfTI: uint8, mm, on the grid of its series.

    The mask of a NIfTI file gets that file's own geometry fields; all others their affine as sform and qform. A sheared
    affine (gantry tilt) is no qform: it is the sform only, and the qform code is 0, so that a program that knows no
    sform refuses the mask instead of showing it in a wrong place.

    Args:
        path: where, ending in ``.nii`` or ``.nii.gz``.
        labels: (phases, X, Y, Z), or (X, Y) for a photograph; phases become the fourth dimension if there are several.
        series: what was segmented.
        overwrite: replace a file that exists.
        files: transaction to join; its own ``overwrite`` holds then.

    Raises:
        ValueError: if the name does not end so, the shape is not the series', or values are no labels of 0-255.
        InputRefused: ``EXISTS`` or ``CANNOT_WRITE``; nothing is left behind then.
    """
    if not Path(path).name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"path must end in .nii or .nii.gz, got {Path(path).name!r}")
    labels = _labels(labels)
    _check_shape(labels, series)
    meta = dict(series.image.meta) | {"affine": series.affine}
    volumes = labels[..., None, None] if series.is_photo else np.moveaxis(labels, 0, -1)  # (X, Y, Z, T)
    if "nifti" in meta:
        meta["nifti"] = _of_phases(meta["nifti"], len(series.phases))
    image = _mask_image(volumes, meta)
    if not series.spacing_known:
        image.header["xyzt_units"] = UNITS_UNKNOWN
    with transaction(files, overwrite) as files:
        files.write(path, image.to_filename, lambda temporary: _holds(temporary, image))


def write_png_mask(
    path: str | os.PathLike[str],
    labels: NDArray[np.uint8],
    series: ImageSeries,
    *,
    overwrite: bool = False,
    files: AtomicFiles | None = None,
) -> None:
    """Writes the mask of a photograph as PNG: one channel, 0 and 255, at the photograph's size.

    Args:
        path: where, ending in ``.png``.
        labels: (X, Y), 0 and 1, X to the right and Y downwards.
        series: what was segmented.
        overwrite: replace a file that exists.
        files: transaction to join; its own ``overwrite`` holds then.

    Raises:
        ValueError: if the name does not end so, the series is no photograph, its size is another, or values are not
            0 and 1.
        InputRefused: ``EXISTS`` or ``CANNOT_WRITE``; nothing is left behind then.
    """
    from PIL import Image

    if not series.is_photo:
        raise ValueError(f"series must be a photograph for a PNG mask, got format {series.format!r}")
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {Path(path).name!r}")
    labels = _labels(labels)
    _check_shape(labels, series)
    if labels.max(initial=0) > 1:
        raise ValueError(f"labels must be 0 and 1 for a PNG mask, got {int(labels.max())}")
    pixels = np.ascontiguousarray(labels.T) * np.uint8(255)  # (rows, columns)

    def holds(temporary: Path) -> bool:
        with Image.open(temporary) as again:
            return again.mode == "L" and np.array_equal(np.asarray(again), pixels)

    with transaction(files, overwrite) as files:
        files.write(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG"), holds)


class MaskWriter(NibabelWriter):
    """Writes a label map; for ``SaveImaged(writer="convformer_monai.results.masks.MaskWriter", ...)``.

    A mask of an image read by :func:`convformer_monai.readers.nifti.read_nifti` gets the input's own geometry fields
    (pixdim, qform, sform and their codes), so every viewer lays it over the input, whichever of them it believes.
    Other masks get theirs as :func:`write_mask` says. T comes last, units are mm and, with T, seconds.

    The file appears complete or not at all, and replaces one that exists, as MONAI's writers do.

    Args:
        output_dtype: accepted for MONAI's sake; the file always holds uint8.
        kwargs: passed on to MONAI's writer.
    """

    def __init__(self, output_dtype: DtypeLike = np.uint8, **kwargs: Any) -> None:
        super().__init__(output_dtype=output_dtype, **kwargs)
        self.meta: Mapping[str, Any] = {}

    def set_data_array(
        self, data_array: Any, channel_dim: int | None = 0, squeeze_end_dims: bool = False, **kwargs: Any
    ) -> None:
        """Takes the labels as (T, X, Y, Z), or without T if ``channel_dim`` is ``None``.

        MONAI's ``squeeze_end_dims`` is not heeded: the file gets the shape of its input, single slices included.
        """
        super().set_data_array(data_array, channel_dim, squeeze_end_dims=False, **kwargs)  # (X, Y, Z, T)

    def set_metadata(self, meta_dict: Mapping[str, Any] | None, resample: bool = False, **options: Any) -> None:
        """Notes the metadata; a mask is already on the input's grid, so nothing is resampled.

        Raises:
            ValueError: if resampling is asked for.
        """
        if resample:
            raise ValueError("resample must be False: MaskWriter expects the mask on the grid of its input")
        self.meta = meta_dict or {}

    def write(self, filename: PathLike, verbose: bool = False, **kwargs: Any) -> None:
        """Writes the mask.

        Args:
            filename: where, ending in ``.nii`` or ``.nii.gz``.
            verbose: log the path.

        Raises:
            ValueError: if values are no labels of 0-255, or the shape is not the input's.
            CannotWrite: if the file cannot be written; nothing is left behind then.
        """
        image = _mask_image(_labels(self.data_obj), self.meta)
        write_atomically(filename, image.to_filename, lambda path: _holds(path, image), overwrite=True)
        if verbose:
            logger.info("wrote %s", filename)


def _labels(data: Any) -> NDArray[np.uint8]:
    """Returns the labels as uint8 if that changes no value."""
    array = np.asarray(convert_to_numpy(data))
    labels = array.astype(np.uint8)
    if not np.array_equal(labels, array):
        raise ValueError("a mask holds whole numbers from 0 to 255 only")
    return labels


def _check_shape(labels: NDArray[np.uint8], series: ImageSeries) -> None:
    """Refuses labels that are not on the grid of the series."""
    grid = tuple(series.image.shape)[1 if series.is_photo else 0 :]
    if labels.shape != grid:
        raise ValueError(f"labels must have the shape of the series, {grid}, got {labels.shape}")


def _of_phases(geometry: Mapping[str, Any], phases: int) -> dict[str, Any]:
    """Returns the geometry fields of a NIfTI file for so many of its phases."""
    shape = tuple(int(n) for n in geometry["shape"])
    if len(shape) > 3 and shape[3] != phases:
        shape = shape[:3] if phases == 1 else (*shape[:3], phases)
    return {**geometry, "shape": np.asarray(shape)}


def _mask_image(labels: NDArray[np.uint8], meta: Mapping[str, Any]) -> nib.Nifti1Image:
    """Makes the NIfTI image with the geometry of the input."""
    geometry = meta.get("nifti")
    affine = np.asarray(convert_to_numpy(meta.get("affine", np.eye(4))), dtype=np.float64)
    if geometry is not None:
        shape = tuple(int(n) for n in geometry["shape"])
        if [n for n in shape if n > 1] != [n for n in labels.shape if n > 1]:
            raise ValueError(f"the mask has shape {labels.shape}, its input {shape}")
        if not np.allclose(affine, convert_to_numpy(meta.get("original_affine", affine)), atol=1e-3):
            raise ValueError("the mask does not lie on the grid of its input: their affines differ")
        labels = labels.reshape(shape)
    elif labels.shape[-1] == 1:
        labels = labels[..., 0]
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(labels.shape)
    time_units = UNITS_SECONDS if labels.ndim > 3 else 0
    if geometry is None:
        _set_affine(header, affine)
    else:
        _restore_header(header, geometry)
        time_units = int(geometry["xyzt_units"]) & UNITS_TIME_MASK or time_units
    header["xyzt_units"] = UNITS_MM | time_units
    # no affine here: nibabel would write it over a header that says otherwise (sform without scale)
    return nib.Nifti1Image(labels, None, header)


def _restore_header(header: nib.Nifti1Header, geometry: Mapping[str, Any]) -> None:
    """Copies the input's own geometry fields into the header."""
    header["pixdim"][:5] = np.asarray(geometry["pixdim"])[:5]  # the handedness, X, Y, Z and T
    header["qform_code"], header["sform_code"] = geometry["qform_code"], geometry["sform_code"]
    for name, value in zip(QFORM_FIELDS, np.asarray(geometry["quatern"]), strict=True):
        header[name] = value
    for axis, row in zip("xyz", np.asarray(geometry["srow"]), strict=True):
        header[f"srow_{axis}"] = row


def _set_affine(header: nib.Nifti1Header, affine: NDArray[np.float64]) -> None:
    """Sets the affine as sform and, unless it is sheared, as qform; the spacing is right in both cases."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / spacing
    sheared = not np.allclose(directions.T @ directions, np.eye(3), atol=SHEAR_TOLERANCE)
    header.set_qform(affine, code=0 if sheared else 1)
    header.set_sform(affine, code=1)
    header["pixdim"][1:4] = spacing


def _holds(path: Path, image: nib.Nifti1Image) -> bool:
    """Tells whether the file has the image's voxels."""
    again = nib.Nifti1Image.from_filename(path)
    return np.array_equal(np.asanyarray(again.dataobj), np.asanyarray(image.dataobj))
