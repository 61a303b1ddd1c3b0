"""Labels that annotators send, made ours: on the image's own grid, and by the names of the structures.

Viewers number segments in their own order and may turn the axes of a volume; a mask on another grid, or of a structure
that the bundle does not know, is refused instead of being learnt from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers import ImageSeries, read_series
from convformer_monai.readers.dicom.masks import find_dicom_masks, read_dicom_masks
from convformer_monai.readers.itk_formats import read_nrrd_picture
from convformer_monai.readers.nifti import check_nifti, read_nifti
from convformer_monai.readers.photo import read_photo
from convformer_monai.tasks.task import Label

__all__ = ["numbers_by_name", "onto_grid", "read_labels"]

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_HEAD = 24  # bytes, to the end of its size
STRAIGHT = 1e-4  # cosine between an axis of a photograph's mask and that of the photograph
TOLERANCE = 0.1  # voxels that a corner of the mask may lie off the image's grid


def read_labels(
    path: Path, series: ImageSeries, table: Sequence[Label], label_info: Sequence[Mapping[str, Any]] | None = None
) -> NDArray[np.uint8]:
    """Reads a mask of an image.

    Args:
        path: NIfTI, NRRD, MetaImage or DICOM SEG; of a photograph PNG of grey levels, or one slice as NRRD or NIfTI.
        series: the image.
        table: the structures.
        label_info: what the values mean, as viewers send it: see :func:`numbers_by_name`; ``None`` if they are the
            bundle's own.

    Returns:
        ``(phases, X, Y, Z)`` on the image's grid, of a photograph ``(X, Y)``; the values are the table's indices.

    Raises:
        InputRefused: ``LABEL_MISALIGNED`` if it does not lie on the image's grid, ``LABEL_UNKNOWN`` if it holds values
            or names that are not structures of the table, ``NOT_A_MASK`` and others if it cannot be read.
    """
    segmentations = [] if series.is_photo else find_dicom_masks(path)
    if segmentations:
        mask = read_dicom_masks(segmentations, table)
        return onto_grid(mask.image.numpy().astype(np.uint8), mask.affine, series, path)
    if series.is_photo:
        return _renumbered(_picture(path, series), table, label_info, path)
    mask = read_series(path, phase="all")
    if mask.is_photo:
        raise InputRefused(
            RefusalCode.LABEL_MISALIGNED, f"{path.name} is a picture, and its image a volume; send a volume"
        )
    values = mask.image.numpy()
    labels = values.astype(np.uint8)
    if not np.array_equal(labels, values):
        raise InputRefused(RefusalCode.NOT_A_MASK, f"{path.name} holds other values than whole numbers from 0 to 255")
    return _renumbered(onto_grid(labels, mask.affine, series, path), table, label_info, path)


def onto_grid(
    labels: NDArray[np.uint8], affine: NDArray[np.float64], series: ImageSeries, path: Path
) -> NDArray[np.uint8]:
    """Lays a mask on an image's grid if it differs by turned axes and empty margins only.

    Args:
        labels: (phases, X', Y', Z').
        affine: from its voxel index to RAS mm.
        series: the image.
        path: named in messages.

    Returns:
        ``(phases, X, Y, Z)``.

    Raises:
        InputRefused: ``LABEL_MISALIGNED`` if it lies elsewhere, or has another number of phases.
    """
    phases, *size = series.image.shape
    if len(labels) != phases:
        raise _misaligned(path, f"it has {len(labels)} phases, the image {phases}")
    between = np.linalg.inv(series.affine) @ affine  # from its indices to the image's
    turned = nib.orientations.io_orientation(between)
    if np.isnan(turned).any():
        raise _misaligned(path, "its axes are not the image's")
    array = np.moveaxis(labels, 0, -1)  # (X', Y', Z', phases)
    array = nib.orientations.apply_orientation(array, turned)
    between = between @ nib.orientations.inv_ornt_aff(turned, labels.shape[1:])
    start = np.round(between[:3, 3]).astype(int)
    expected = np.eye(4)
    expected[:3, 3] = start
    corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*array.shape[:3], 1]
    if np.abs((between - expected) @ corners.T).max() > TOLERANCE:
        raise _misaligned(path, "its voxels are not the image's: other spacing, direction or position")
    result = np.zeros((*size, phases), np.uint8)
    inside = [slice(max(0, s), min(n, s + m)) for s, n, m in zip(start, size, array.shape[:3], strict=True)]
    source = [slice(part.start - s, part.stop - s) for part, s in zip(inside, start, strict=True)]
    if all(part.stop > part.start for part in inside):
        result[tuple(inside)] = array[tuple(source)]
    if np.count_nonzero(result) < np.count_nonzero(array):
        raise _misaligned(path, "part of it lies outside of the image")
    return np.ascontiguousarray(np.moveaxis(result, -1, 0))


def _misaligned(path: Path, why: str) -> InputRefused:
    return InputRefused(RefusalCode.LABEL_MISALIGNED, f"{path.name} does not lie on the grid of its image: {why}")


def _picture(path: Path, series: ImageSeries) -> NDArray[np.uint8]:
    """Returns a photograph's mask, (X, Y), with values as in the file; 255 alone is 1.

    Its size is compared with the photograph's before pixels are decoded.
    """
    size = tuple(series.image.shape[1:])
    name = path.name.lower()
    with open(path, "rb") as file:
        head = file.read(PNG_HEAD)
    values: NDArray[Any]
    if head.startswith(PNG_MAGIC):
        values = _png(path, head, size)
    elif name.endswith(".nrrd"):
        values = read_nrrd_picture(path, size)
    elif name.endswith((".nii", ".nii.gz")):
        values = _nifti_picture(path, size)
    else:
        raise InputRefused(
            RefusalCode.MASK_UNREADABLE, f"{path.name} cannot be read as a mask of a photograph; send PNG or NRRD"
        )
    with np.errstate(invalid="ignore"):
        labels = values.astype(np.uint8)
    if not np.array_equal(labels, values):
        raise InputRefused(RefusalCode.NOT_A_MASK, f"{path.name} holds other values than whole numbers from 0 to 255")
    return (labels > 0).astype(np.uint8) if set(np.unique(labels).tolist()) <= {0, 255} else labels


def _png(path: Path, head: bytes, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """Reads a picture of grey levels, (X, Y)."""
    found = tuple(int.from_bytes(head[start : start + 4], "big") for start in (16, 20))  # of the chunk IHDR
    if sorted(found) == sorted(size):  # EXIF may turn it
        picture = read_photo(path)
        levels = picture.image.numpy().astype(np.uint8)
        found = levels.shape[1:]
    if found != size:
        raise _misaligned(path, f"it has {found} pixels, the photograph {size}")
    if any("transparent" in note for note in picture.warnings) or (levels != levels[0]).any():
        raise InputRefused(RefusalCode.NOT_A_MASK, f"{path.name} has colours or is transparent; send a grey picture")
    mask: NDArray[np.uint8] = levels[0]
    return mask


def _nifti_picture(path: Path, size: tuple[int, ...]) -> NDArray[np.float32]:
    """Reads one slice that lies as ITK lays a photograph, (X, Y)."""
    shape = check_nifti(path)
    if shape != (*size, 1):
        raise _misaligned(path, f"it has {shape} voxels, the photograph {size} pixels")
    mask = read_nifti(path)
    along = mask.affine[:2, :3] / np.linalg.norm(mask.affine[:3, :3], axis=0)
    if not np.allclose(along, -np.eye(2, 3), atol=STRAIGHT):
        raise _misaligned(path, "it is turned or mirrored")
    values: NDArray[np.float32] = mask.image.numpy()[0, ..., 0]
    return values


def numbers_by_name(label_info: Sequence[Mapping[str, Any]], table: Sequence[Label]) -> dict[int, int]:
    """Returns the table's index for each value of a viewer's mask.

    Args:
        label_info: for each segment ``name`` and its value as ``idx`` or ``id``; without, values count from 1 in the
            order of the list. That is what 3D Slicer's and OHIF's plugins for MONAI Label send.
        table: the structures; known by short or long name, in any case.

    Raises:
        InputRefused: ``LABEL_UNKNOWN`` if an entry has no name, or one that no structure has.
    """
    known = {name.lower(): label.index for label in table for name in (label.name, label.long_name)}
    numbers: dict[int, int] = {}
    for number, entry in enumerate(label_info, start=1):
        name = str(entry.get("name", "")).strip().lower()
        if name not in known:
            raise InputRefused(
                RefusalCode.LABEL_UNKNOWN,
                f"the segment {entry.get('name')!r} is not a structure of this model; rename it to one of "
                f"{', '.join(label.name for label in table)}, or delete it",
            )
        numbers[int(entry.get("idx", entry.get("id", number)))] = known[name]
    return numbers


def _renumbered(
    labels: NDArray[np.uint8], table: Sequence[Label], label_info: Sequence[Mapping[str, Any]] | None, path: Path
) -> NDArray[np.uint8]:
    """Replaces a viewer's numbers by the table's."""
    numbers = {label.index: label.index for label in table}
    if label_info:
        numbers = numbers_by_name(label_info, table)
    unknown = sorted(set(np.unique(labels).tolist()) - {0} - set(numbers))
    if unknown:
        raise InputRefused(
            RefusalCode.LABEL_UNKNOWN,
            f"{path.name} holds the values {', '.join(map(str, unknown))}, which no structure has; "
            f"there are {', '.join(f'{index}' for index in numbers)}",
        )
    result = np.zeros_like(labels)
    for number, index in numbers.items():
        result[labels == number] = index
    return result
