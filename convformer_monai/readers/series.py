"""What every reader makes of a file or folder: one image, its geometry, its phases and where each frame came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_numpy
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["Frame", "ImageSeries"]

SAME_SIZE = 1e-3  # relative difference between a pixel's size as stated by user and header


@dataclass(frozen=True)
class Frame:
    """The DICOM frame that a slice was read from.

    Attributes:
        path: its file.
        sop_instance_uid: the instance.
        sop_class_uid: its class.
        number: 1-based frame number in a multi-frame instance, ``None`` in a single-frame one.
        position: centre of its first pixel (image position, patient), LPS mm.
        slice_index: its place along Z of the series' image: a whole number, unless uneven slices were resampled.
    """

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    number: int | None
    position: tuple[float, float, float]
    slice_index: float


@dataclass(frozen=True)
class ImageSeries:
    """An image that can be trusted, ready for a bundle.

    Attributes:
        image: volumes ``(phases, X, Y, Z)`` float32, with the affine from voxel index to RAS mm, which may be sheared
            (gantry tilt); in DICOM X runs along the columns, Y along the rows, Z along the normal of the slices.
            Photographs ``(3, X, Y)`` uint8, upright RGB, X to the right and Y downwards.
        format: ``dicom``, ``nifti``, ``itk`` (NRRD, MetaImage), ``photo``, or ``memory`` (an image given in memory).
        path: the file or folder it was read from.
        modality: DICOM modality, ``None`` where the file does not tell.
        phases: which phases of the source these are, 0-based, in time order.
        phase_times_ms: time of each phase after the R wave, or since the first; empty if unknown.
        frames: for DICOM, the frame behind each slice: ``frames[phase][k]``, along Z; empty else.
        spacing_known: False where a photograph has no pixel spacing; its affine then counts pixels.
        warnings: what the user should know of the reading, one line each, without personal data.
    """

    image: MetaTensor
    format: str
    path: Path
    modality: str | None = None
    phases: tuple[int, ...] = (0,)
    phase_times_ms: tuple[float, ...] = ()
    frames: tuple[tuple[Frame, ...], ...] = ()
    spacing_known: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel index to RAS mm, (4, 4)."""
        return np.asarray(convert_to_numpy(self.image.affine), dtype=np.float64)

    @property
    def is_photo(self) -> bool:
        """Whether this is a photograph, ``(3, X, Y)``."""
        return self.format == "photo"

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of its label map: ``(phases, X, Y, Z)``, of a photograph ``(X, Y)``."""
        return tuple(self.image.shape)[1 if self.is_photo else 0 :]

    def with_pixel_size(self, millimetres: float) -> ImageSeries:
        """A photograph with the pixel size that the user knows, e.g. from a ruler in it.

        Args:
            millimetres: side of a pixel.

        Raises:
            InputRefused: ``OPTION`` if this is not a photograph, or its header tells another size.
        """
        if not self.is_photo:
            raise InputRefused(
                RefusalCode.OPTION,
                f"--mm-per-pixel is for photographs, and {self.path.name} is a volume, whose header tells the spacing",
            )
        stated = np.linalg.norm(self.affine[:, :2], axis=0)
        if self.spacing_known and not np.allclose(stated, millimetres, rtol=SAME_SIZE):
            raise InputRefused(
                RefusalCode.OPTION,
                f"--mm-per-pixel {millimetres:g} is not the pixel size of {self.path.name}, whose header tells "
                f"{stated[0]:g} x {stated[1]:g} mm; leave it out",
            )
        affine = torch.diag(torch.tensor([-millimetres, -millimetres, 1.0, 1.0], dtype=torch.float64))
        return replace(self, image=MetaTensor(self.image.as_tensor(), affine=affine), spacing_known=True)

    def check_grid(self, labels: NDArray[np.uint8]) -> None:
        """Checks a label map.

        Raises:
            ValueError: if its shape is not that of the series.
        """
        if labels.shape != self.grid:
            raise ValueError(f"labels must have the shape of the series, {self.grid}, got {labels.shape}")
