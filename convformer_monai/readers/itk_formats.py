"""NRRD and MetaImage in, through SimpleITK, with the geometry turned from ITK's LPS to RAS."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from monai.config import PathLike
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.cases import refuse_no_file
from convformer_monai.readers.itk_headers import check_header, check_picture_header
from convformer_monai.readers.limits import check_finite, check_spacing, check_voxels
from convformer_monai.readers.phases import chosen_phases
from convformer_monai.readers.series import ImageSeries
from convformer_monai.readers.volume import phase_tensor

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["checked_itk_affine", "read_itk", "read_nrrd_picture"]

IMAGE_IO = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
STRAIGHT = 1e-4  # cosine
MIN_DETERMINANT = 1e-3  # of the three directions; 1 if they are orthogonal


def read_itk(path: PathLike, *, phase: int | str | None = None) -> ImageSeries:
    """Reads one NRRD (``.nrrd``, ``.nhdr``) or MetaImage (``.mha``, ``.mhd``) file, strictly. They tell no modality.

    Args:
        path: the file; voxels in a file of their own must be in the same folder.
        phase: 0-based phase of a cine (4-D), or ``"all"``; ``None`` takes the only one, and refuses if there are more.

    Returns:
        The image.

    Raises:
        InputRefused: if the file is not a volume or cine that can be trusted, or has no such phase.
        ValueError: if ``phase`` is none of those.
    """
    where = Path(path)
    if not where.is_file():
        refuse_no_file(where, "give the path of an NRRD or MetaImage file")
    if where.suffix.lower() not in IMAGE_IO:
        raise InputRefused(
            RefusalCode.NOT_ITK, f"{where} is not named {', '.join(IMAGE_IO)}; give it the ending of its format"
        )
    with _refusing_damage(where):
        warnings = check_header(where)
        image = _load(where)
    return _study(image, where, phase, warnings)


def read_nrrd_picture(path: PathLike, size: Sequence[int]) -> NDArray[np.generic]:
    """Reads a picture of grey values, as the mask of a photograph, from one ``.nrrd`` file, strictly.

    Args:
        path: the file.
        size: columns and rows that it must have.

    Returns:
        (X, Y), of the file's type.

    Raises:
        InputRefused: if it is not such a picture, or is turned: its axes must run along LPS, as of photographs.
    """
    import SimpleITK as sitk

    where = Path(path)
    with _refusing_damage(where):
        check_picture_header(where, size)
        image = _load(where)
    dimension = image.GetDimension()
    direction = np.reshape(image.GetDirection(), (dimension, dimension))
    if not np.allclose(direction[:2], np.eye(2, dimension), atol=STRAIGHT):
        raise InputRefused(RefusalCode.AFFINE, f"{where} is turned or mirrored; write it as the photograph lies")
    values: NDArray[np.generic] = sitk.GetArrayFromImage(image).T.reshape(tuple(size))  # (X, Y[, 1])
    return values


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    """Turns what zlib and ITK raise on damaged files into a refusal."""
    try:
        yield
    except (OSError, EOFError, RuntimeError, zlib.error) as error:  # its text may quote the header: left out
        raise InputRefused(
            RefusalCode.ITK_UNREADABLE,
            f"{path} is truncated or corrupt ({type(error).__name__}); fetch or write it again",
        ) from None


def checked_itk_affine(
    origin: Sequence[float], spacing: Sequence[float], direction: NDArray[np.float64], where: str | Path
) -> NDArray[np.float64]:
    """Makes the affine of an ITK geometry (LPS).

    Args:
        origin: mm, of the first voxel; three numbers, or four of a cine.
        spacing: mm, as many.
        direction: (n, n), unit directions of the axes as columns; not orthogonal if sheared.
        where: the image, for messages.

    Returns:
        (4, 4) voxel index to RAS mm; the time axis of a cine left out.

    Raises:
        InputRefused: if the geometry is not valid, or time is mixed with space.
    """
    check_spacing(np.asarray(spacing[:3], dtype=np.float64), where)
    axes = direction[:3, :3]
    if np.any(direction[:3, 3:]) or np.any(direction[3:, :3]):
        raise InputRefused(RefusalCode.AFFINE, f"{where} mixes time with space in its directions; correct the header")
    if not (np.all(np.isfinite(origin)) and np.all(np.isfinite(axes)) and abs(np.linalg.det(axes)) > MIN_DETERMINANT):
        raise InputRefused(RefusalCode.AFFINE, f"{where} has a singular or non-finite geometry; correct the header")
    affine = np.eye(4)
    affine[:3, :3] = axes * np.asarray(spacing[:3])
    affine[:3, 3] = origin[:3]
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)  # LPS to RAS


def _load(path: Path) -> SimpleITK.Image:
    """Reads a file whose header has been checked; without ITK's warnings, which go to the terminal."""
    import SimpleITK as sitk

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        reader = sitk.ImageFileReader()
        reader.SetImageIO(IMAGE_IO[path.suffix.lower()])
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        check_voxels(reader.GetSize(), path)
        if reader.GetNumberOfComponents() != 1:
            raise InputRefused(
                RefusalCode.DATA_TYPE, f"{path} holds vectors or colours, not one grey value a voxel; split it"
            )
        image: SimpleITK.Image = reader.Execute()
        return image
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _study(image: SimpleITK.Image, path: Path, phase: int | str | None, warnings: tuple[str, ...]) -> ImageSeries:
    import SimpleITK as sitk

    dimension = image.GetDimension()
    direction = np.asarray(image.GetDirection()).reshape(dimension, dimension)
    affine = checked_itk_affine(image.GetOrigin(), image.GetSpacing(), direction, path)
    phases = chosen_phases(phase, image.GetSize()[3] if dimension == 4 else 1, path)
    values = sitk.GetArrayViewFromImage(image).T  # (X, Y, Z[, T])
    result = phase_tensor(values, affine, phases)
    check_finite(result.numpy(), path)
    return ImageSeries(image=result, format="itk", path=path, phases=phases, warnings=warnings)
