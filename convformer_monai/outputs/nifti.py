"""Masks as NIfTI: uint8, millimetres, the geometry of the input."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from convformer_monai.outputs.atomic import AtomicFiles, transaction
from convformer_monai.outputs.writer import Result, Writer, path_for, register_writer
from convformer_monai.readers.nifti_header import QFORM_FIELDS, UNITS_MM

if TYPE_CHECKING:
    from convformer_monai.readers.series import ImageSeries

__all__ = ["as_labels", "holds_voxels", "mask_image", "nifti_of", "write_mask"]

UNITS_TIME_MASK, UNITS_UNKNOWN, UNITS_SECONDS = 0x38, 0, 8
SHEAR_TOLERANCE = 1e-4  # cosine between two axes; 0.03 mm over 300 mm


class NiftiWriter(Writer):
    """``x_seg.nii.gz`` of volumes."""

    name = "nifti"
    suffixes = ("_seg.nii.gz",)
    order = 10
    on_request = True

    def write(self, base: Path, result: Result, files: AtomicFiles) -> list[Path]:
        """Stages the mask."""
        if result.series.is_photo:
            return []
        path = path_for(base, self.suffixes[0])
        write_mask(path, result.labels, result.series, files=files)
        return [path]


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
    affine (gantry tilt) cannot be a qform: it is the sform only, and the qform code is 0, so that a program without
    sform refuses the mask instead of showing it in a wrong place.

    Args:
        path: where, ending in ``.nii`` or ``.nii.gz``.
        labels: (phases, X, Y, Z), or (X, Y) for a photograph; phases become the fourth dimension if there are several.
        series: what was segmented.
        overwrite: replace a file that exists.
        files: transaction to join; its own ``overwrite`` holds then.

    Raises:
        ValueError: if the name does not end so, the shape is not the series', or values are not labels of 0-255.
        InputRefused: ``EXISTS`` or ``CANNOT_WRITE``; nothing is left behind then.
    """
    if not Path(path).name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"path must end in .nii or .nii.gz, got {Path(path).name!r}")
    image = nifti_of(as_labels(labels), series)
    with transaction(files, overwrite) as files:
        files.write(path, image.to_filename, lambda temporary: holds_voxels(temporary, image))


def nifti_of(voxels: NDArray[np.uint8], series: ImageSeries) -> nib.Nifti1Image:
    """Makes a NIfTI image on the grid of a series; see :func:`write_mask`.

    Args:
        voxels: (phases, X, Y, Z), or (X, Y) for a photograph.
        series: the image.
    """
    series.check_grid(voxels)
    meta = dict(series.image.meta) | {"affine": series.affine}
    volumes = voxels[..., None, None] if series.is_photo else np.moveaxis(voxels, 0, -1)  # (X, Y, Z, T)
    if "nifti" in meta:
        meta["nifti"] = _of_phases(meta["nifti"], len(series.phases))
    image = mask_image(volumes, meta)
    if not series.spacing_known:
        image.header["xyzt_units"] = UNITS_UNKNOWN
    return image


def as_labels(data: Any) -> NDArray[np.uint8]:
    """Returns the labels as uint8 if that changes no value."""
    array = np.asarray(data)
    if array.dtype == np.uint8:
        return array
    labels = array.astype(np.uint8)
    if not np.array_equal(labels, array):
        raise ValueError("a mask holds whole numbers from 0 to 255 only")
    return labels


def _of_phases(geometry: Mapping[str, Any], phases: int) -> dict[str, Any]:
    """Returns the geometry fields of a NIfTI file for so many of its phases."""
    shape = tuple(int(n) for n in geometry["shape"])
    if len(shape) > 3 and shape[3] != phases:
        shape = shape[:3] if phases == 1 else (*shape[:3], phases)
    return {**geometry, "shape": np.asarray(shape)}


def mask_image(labels: NDArray[np.uint8], meta: Mapping[str, Any]) -> nib.Nifti1Image:
    """Makes the NIfTI image with the geometry of the input."""
    geometry = meta.get("nifti")
    affine = np.asarray(meta.get("affine", np.eye(4)), dtype=np.float64)
    if geometry is not None:
        shape = tuple(int(n) for n in geometry["shape"])
        if [n for n in shape if n > 1] != [n for n in labels.shape if n > 1]:
            raise ValueError(f"the mask has shape {labels.shape}, its input {shape}")
        if not np.allclose(affine, np.asarray(meta.get("original_affine", affine)), atol=1e-3):
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


def holds_voxels(path: Path, image: nib.Nifti1Image) -> bool:
    """Tells whether the file has the image's voxels."""
    again = nib.Nifti1Image.from_filename(path)
    return np.array_equal(np.asanyarray(again.dataobj), np.asanyarray(image.dataobj))


register_writer(NiftiWriter())
