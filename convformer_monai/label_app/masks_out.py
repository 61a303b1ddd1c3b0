"""Masks and images for viewers, on exactly the same grid, in formats that they can read.

ITK, with which viewers read, cannot take a sheared NIfTI grid (a tilted gantry), but a sheared NRRD grid it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs.nifti import write_mask
from convformer_monai.readers import ImageSeries
from convformer_monai.tasks.task import Label

__all__ = ["COPIES", "DEFAULT_EXTENSIONS", "EXTENSIONS", "check_extension", "copy_for_viewer", "write_for_viewer"]

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".png")
DEFAULT_EXTENSIONS = {False: ".nii.gz", True: ".png"}  # of volumes, of photographs
COPIES = (".nii.gz", ".nrrd")  # what `copy_for_viewer` writes
RIGHT_ANGLES = 1e-4  # cosine: 0.01 voxels over 100 slices
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def check_extension(extension: object, is_photo: bool) -> str:
    """Checks the ending that a viewer asks for, before any work.

    Args:
        extension: as the request says it.
        is_photo: whether the image is a photograph.

    Returns:
        The ending, one of :data:`EXTENSIONS`.

    Raises:
        InputRefused: ``OPTION`` if it is none of these, or ``.png`` for a volume.
    """
    if not isinstance(extension, str) or extension not in EXTENSIONS:
        raise InputRefused(RefusalCode.OPTION, f"masks are written as {', '.join(EXTENSIONS)}, not as {extension!r}")
    if extension == ".png" and not is_photo:
        raise InputRefused(RefusalCode.OPTION, "a PNG holds no volume; ask for .nii.gz, .nrrd or .seg.nrrd")
    return extension


def write_for_viewer(path: Path, labels: NDArray[np.uint8], series: ImageSeries, table: Sequence[Label]) -> None:
    """Writes a mask whose values are the structures' indices, in pictures too: viewers look names up by value.

    Args:
        path: where, with an ending that :func:`check_extension` takes.
        labels: ``(phases, X, Y, Z)``, of a photograph ``(1, X, Y)``.
        series: the image.
        table: the structures, whose names and colours go into ``.seg.nrrd``.

    Raises:
        InputRefused: ``OPTION`` if it is NRRD, and the mask has several phases.
    """
    name = path.name.lower()
    if name.endswith(".png"):
        _write_png(path, labels[0])
    elif name.endswith((".nii", ".nii.gz")):
        write_mask(path, labels[0] if series.is_photo else labels, series, overwrite=True)
    else:
        if len(labels) > 1:
            raise InputRefused(
                RefusalCode.OPTION,
                f"the image has {len(labels)} phases, and NRRD holds one; ask for a phase, or for .nii.gz",
            )
        _write_nrrd(path, labels[0][..., None] if series.is_photo else labels[0], series, table)


def copy_for_viewer(series: ImageSeries, folder: Path, name: str) -> Path:
    """Writes a volume as one file: NIfTI; NRRD if its grid is sheared and it has one phase.

    Args:
        series: the image.
        folder: where; must exist.
        name: of the file, without ending.

    Returns:
        The file.
    """
    import SimpleITK

    _, directions = _parts(series.affine)
    sheared = not np.allclose(directions.T @ directions, np.eye(3), atol=RIGHT_ANGLES)
    path = folder / f"{name}{'.nrrd' if sheared and len(series.phases) == 1 else '.nii.gz'}"
    part = path.with_name(f"part-{path.name}")
    if path.name.endswith(".nrrd"):
        SimpleITK.WriteImage(_itk_image(series.image.numpy()[0], series.affine), str(part), useCompression=True)
    else:
        volumes = np.moveaxis(series.image.numpy(), 0, -1)  # (X, Y, Z, phases)
        image = nib.Nifti1Image(volumes[..., 0] if volumes.shape[-1] == 1 else volumes, series.affine)
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, part)
    part.replace(path)
    return path


def _write_png(path: Path, labels: NDArray[np.uint8]) -> None:
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(labels.T)).save(path, format="PNG")


def _write_nrrd(path: Path, labels: NDArray[np.uint8], series: ImageSeries, table: Sequence[Label]) -> None:
    """Writes (X, Y, Z). A photograph lies where ITK puts a picture: pixels of 1 mm from the origin, in LPS."""
    import SimpleITK

    image = _itk_image(labels, np.diag([-1.0, -1.0, 1.0, 1.0]) if series.is_photo else series.affine)
    if path.name.lower().endswith(".seg.nrrd"):
        _name_segments(image, table)
    SimpleITK.WriteImage(image, str(path), useCompression=True)


def _itk_image(voxels: NDArray[Any], affine: NDArray[np.float64]) -> Any:
    """Makes an image for SimpleITK of (X, Y, Z) and the affine to RAS mm."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0)))
    spacing, directions = _parts(RAS_TO_LPS @ affine)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((RAS_TO_LPS @ affine)[:3, 3].tolist())
    image.SetDirection(directions.ravel().tolist())
    return image


def _parts(affine: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spacing and directions of an affine."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return spacing, affine[:3, :3] / spacing


def _name_segments(image: object, table: Sequence[Label]) -> None:
    """Names the segments as 3D Slicer does in its segmentation files."""
    for index, label in enumerate(table):
        values = {
            "ID": label.name,
            "Name": label.long_name,
            "Color": " ".join(f"{level / 255:.4f}" for level in label.colour),
            "LabelValue": str(label.index),
            "Layer": "0",
        }
        for key, value in values.items():
            image.SetMetaData(f"Segment{index}_{key}", value)  # type: ignore[attr-defined]
