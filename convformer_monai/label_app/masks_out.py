"""Masks for viewers, in the file format that they ask for, on exactly the grid of the image that they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused
from convformer_monai.labels import Label
from convformer_monai.readers import Study
from convformer_monai.results.masks import write_mask

__all__ = ["DEFAULT_EXTENSIONS", "EXTENSIONS", "write_for_viewer"]

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".png")
DEFAULT_EXTENSIONS = {False: ".nii.gz", True: ".png"}  # of volumes, of photographs
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_for_viewer(path: Path, labels: NDArray[np.uint8], study: Study, table: Sequence[Label]) -> None:
    """Writes a mask whose values are the structures' indices, in pictures too: viewers look names up by value.

    Args:
        path: where, ending in one of :data:`EXTENSIONS`; ``.png`` for photographs only.
        labels: ``(phases, X, Y, Z)``, of a photograph ``(1, X, Y)``.
        study: the image.
        table: the structures, whose names and colours go into ``.seg.nrrd``.

    Raises:
        InputRefused: ``OPTION`` if the format cannot hold this mask.
    """
    name = path.name.lower()
    if name.endswith(".png"):
        if not study.is_photo:
            raise InputRefused("OPTION", "a PNG holds no volume; ask for .nii.gz, .nrrd or .seg.nrrd")
        _write_png(path, labels[0])
    elif name.endswith((".nii", ".nii.gz")):
        write_mask(path, labels[0] if study.is_photo else labels, study, overwrite=True)
    elif name.endswith(".nrrd"):
        if len(labels) > 1:
            raise InputRefused(
                "OPTION", f"the image has {len(labels)} phases, and NRRD holds one; ask for a phase, or for .nii.gz"
            )
        _write_nrrd(path, labels[0][..., None] if study.is_photo else labels[0], study, table)
    else:
        raise InputRefused("OPTION", f"masks are written as {', '.join(EXTENSIONS)}, not as {path.suffix!r}")


def _write_png(path: Path, labels: NDArray[np.uint8]) -> None:
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(labels.T)).save(path, format="PNG")


def _write_nrrd(path: Path, labels: NDArray[np.uint8], study: Study, table: Sequence[Label]) -> None:
    """Writes (X, Y, Z). A photograph lies where ITK puts a picture: pixels of 1 mm from the origin."""
    import SimpleITK

    affine = np.eye(4) if study.is_photo else RAS_TO_LPS @ study.affine
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(labels.transpose(2, 1, 0)))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / spacing
    if not np.allclose(directions.T @ directions, np.eye(3), atol=1e-3):
        raise InputRefused("OPTION", "NRRD holds no sheared grid (gantry tilt); ask for .nii.gz")
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(directions.ravel().tolist())
    if path.name.lower().endswith(".seg.nrrd"):
        _name_segments(image, table)
    SimpleITK.WriteImage(image, str(path), useCompression=True)


def _name_segments(image: object, table: Sequence[Label]) -> None:
    """Names the segments as 3D Slicer does in its segmentation files."""
    for place, label in enumerate(table):
        values = {
            "ID": label.name,
            "Name": label.long_name,
            "Color": " ".join(f"{level / 255:.4f}" for level in label.colour),
            "LabelValue": str(label.index),
            "Layer": "0",
        }
        for key, value in values.items():
            image.SetMetaData(f"Segment{place}_{key}", value)  # type: ignore[attr-defined]
