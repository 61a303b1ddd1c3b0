"""Masks as NIfTI: uint8, millimetres, the header geometry of the input, written atomically."""

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

__all__ = ["MaskWriter"]

logger = logging.getLogger(__name__)

UNITS_TIME_MASK, UNITS_SECONDS = 0x38, 8


class MaskWriter(NibabelWriter):
    """Writes a label map; for ``SaveImaged(writer="convformer_monai.results.masks.MaskWriter", ...)``.

    A mask of an image read by :class:`convformer_monai.readers.NiftiReader` gets the input's own geometry fields
    (pixdim, qform, sform and their codes), so every viewer lays it over the input, whichever of them it believes.
    Other masks get their affine as both sform and qform. T comes last, units are mm and, with T, seconds.

    The file appears complete or not at all: it is written under a temporary name beside its place, read again,
    compared, and then renamed.

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
            OSError: if the file cannot be written; nothing is left behind then.
        """
        image = _mask_image(_labels(self.data_obj), self.meta)
        _write_atomically(image, Path(filename))
        if verbose:
            logger.info("wrote %s", filename)


def _labels(data: Any) -> NDArray[np.uint8]:
    """Returns (X, Y, Z, T) as uint8 if that changes no value."""
    array = np.asarray(convert_to_numpy(data))
    labels = array.astype(np.uint8)
    if not np.array_equal(labels, array):
        raise ValueError("a mask holds whole numbers from 0 to 255 only")
    return labels


def _mask_image(labels: NDArray[np.uint8], meta: Mapping[str, Any]) -> nib.Nifti1Image:
    """Makes the NIfTI image with the geometry of the input."""
    geometry = meta.get("nifti")
    affine = np.asarray(convert_to_numpy(meta.get("affine", np.eye(4))), dtype=np.float64)
    if geometry is not None:
        shape = tuple(int(n) for n in geometry["shape"])
        if [n for n in shape if n > 1] != [n for n in labels.shape if n > 1]:
            raise ValueError(f"the mask has shape {labels.shape}, its input {shape}")
        if not np.allclose(affine, convert_to_numpy(meta["original_affine"]), atol=1e-3):
            raise ValueError("the mask does not lie on the grid of its input: their affines differ")
        labels = labels.reshape(shape)
    elif labels.shape[-1] == 1:
        labels = labels[..., 0]
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(labels.shape)
    time_units = UNITS_SECONDS if labels.ndim > 3 else 0
    if geometry is None:
        header.set_sform(affine, code=1)
        header.set_qform(affine, code=1)
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


def _write_atomically(image: nib.Nifti1Image, path: Path) -> None:
    """Writes under a temporary name in the same folder, reads it again, and renames it."""
    suffix = ".nii.gz" if path.name.lower().endswith(".gz") else ".nii"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial{suffix}")
    try:
        image.to_filename(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        again = nib.Nifti1Image.from_filename(temporary)
        if not np.array_equal(np.asanyarray(again.dataobj), np.asanyarray(image.dataobj)):
            raise OSError(f"{path} does not hold what was written")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
