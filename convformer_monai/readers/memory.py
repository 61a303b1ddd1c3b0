"""Images in memory become a series, and label maps become images of the same kind, on exactly the same grid."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_numpy, convert_to_tensor
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.itk_formats import checked_itk_affine
from convformer_monai.readers.limits import check_finite, check_spacing, check_voxels
from convformer_monai.readers.nifti_header import UNITS_MM, checked_affine, checked_shape, header_geometry
from convformer_monai.readers.phases import chosen_phases
from convformer_monai.readers.series import ImageSeries
from convformer_monai.readers.volume import phase_tensor

__all__ = ["like", "series_from"]

WHERE = Path("image in memory")  # stands for a path in messages
KINDS = "MetaTensor, nibabel, SimpleITK or itk image"


def series_from(image: Any, *, phase: int | str | None = "all") -> ImageSeries:
    """Makes a series of an image in memory, as strictly as of a file.

    Args:
        image: a nibabel, SimpleITK or itk image, (X, Y, Z) or with phases as fourth dimension; or a MetaTensor
            (X, Y, Z) or (phases, X, Y, Z).
        phase: 0-based phase, or ``"all"``; ``None`` takes the only one, and refuses if there are more.

    Returns:
        The series. For a NIfTI image its metadata hold the header's own geometry, as of a file.

    Raises:
        InputRefused: if it cannot be trusted, or has no such phase.
        TypeError: if it is not an image of these kinds.
        ValueError: if ``phase`` is none of those.
    """
    if isinstance(image, MetaTensor):
        return _from_meta_tensor(image, phase)
    if isinstance(image, SpatialImage):
        return _from_nibabel(image, phase)
    library = _library(image)
    if library == "SimpleITK":
        return _from_simpleitk(image, phase)
    if library == "itk":
        return _from_itk(image, phase)
    raise TypeError(f"image must be a {KINDS}, got {type(image).__name__}")


def like(image: Any, labels: NDArray[np.uint8]) -> Any:
    """Makes a label map of the kind and grid of an image.

    Args:
        image: as of :func:`series_from`.
        labels: (phases, X, Y, Z) uint8, all phases of the image or one of them.

    Returns:
        Of a nibabel image a ``Nifti1Image`` with the same affine (of a NIfTI image qform, sform and their codes as
        well), of a SimpleITK or itk image one of 8 bits with the same origin, spacing and direction, of a MetaTensor
        one with the same affine. It has phases if the image has and all are given.

    Raises:
        TypeError: if ``image`` is not an image of these kinds.
        ValueError: if ``labels`` do not fit its grid, or are not uint8.
    """
    if labels.dtype != np.uint8 or labels.ndim != 4:
        raise ValueError(f"labels must be (phases, X, Y, Z) uint8, got {labels.dtype} of shape {labels.shape}")
    if isinstance(image, MetaTensor):
        fitted = _fitted(labels, tuple(image.shape[-3:]), image.shape[0] if image.ndim == 4 else None)
        result = MetaTensor(torch.from_numpy(np.array(fitted)), affine=image.affine)
        return result[None] if image.ndim == 4 and result.ndim == 3 else result
    library = _library(image)
    if isinstance(image, SpatialImage):
        size = tuple(map(int, image.shape))
    elif library in ("SimpleITK", "itk"):
        size = tuple(map(int, image.GetSize() if library == "SimpleITK" else image.GetBufferedRegion().GetSize()))
    else:
        raise TypeError(f"image must be a {KINDS}, got {type(image).__name__}")
    fitted = _fitted(labels, size[:3], size[3] if len(size) == 4 else None)  # ([T,] X, Y, Z)
    if isinstance(image, SpatialImage):
        return _like_nibabel(image, np.moveaxis(fitted, 0, -1) if fitted.ndim == 4 else fitted)
    slowest_first = fitted.transpose(*range(fitted.ndim - 3), -1, -2, -3)  # ([T,] Z, Y, X)
    return (_like_simpleitk if library == "SimpleITK" else _like_itk)(image, np.ascontiguousarray(slowest_first))


def _library(image: Any) -> str:
    """Names the library that an object's class is of, without importing any."""
    return type(image).__module__.split(".")[0]


def _fitted(labels: NDArray[np.uint8], size: Sequence[int], phases: int | None) -> NDArray[np.uint8]:
    """Returns (X, Y, Z), or (phases, X, Y, Z) if the image has phases and all are given."""
    if labels.shape[1:] != tuple(size) or len(labels) not in (1, phases):
        raise ValueError(f"labels of shape {labels.shape} do not fit an image of {phases or 1} x {tuple(size)}")
    return labels if phases is not None and len(labels) == phases else labels[0]


def _checked_series(
    data: NDArray[Any], affine: NDArray[np.float64], phase: int | str | None, **more: Any
) -> ImageSeries:
    """Makes the series of (X, Y, Z) or (X, Y, Z, T), whose size and affine have been checked."""
    if data.dtype.kind not in "iuf":
        raise InputRefused(
            RefusalCode.DATA_TYPE, f"{WHERE} holds {data.dtype} voxels; a scalar grey-value volume is needed"
        )
    phases = chosen_phases(phase, data.shape[3] if data.ndim == 4 else 1, WHERE)
    with np.errstate(over="ignore"):
        image = phase_tensor(data, affine, phases, more.pop("meta", None))
    check_finite(image.numpy(), WHERE)
    return ImageSeries(image=image, format="memory", path=WHERE, phases=phases, **more)


def _check_size(size: Sequence[int]) -> None:
    if len(size) not in (3, 4):
        raise InputRefused(
            RefusalCode.DIMENSIONS, f"{WHERE} has shape {tuple(size)}; a volume (3-D) or a cine (4-D) is needed"
        )
    check_voxels(size, WHERE)


def _check_affine(affine: NDArray[np.float64]) -> None:
    if not np.all(np.isfinite(affine)) or abs(np.linalg.det(affine[:3, :3])) == 0.0:
        raise InputRefused(RefusalCode.AFFINE, f"{WHERE} has a singular or non-finite affine; correct it")
    check_spacing(np.linalg.norm(affine[:3, :3], axis=0), WHERE)


def _from_meta_tensor(image: MetaTensor, phase: int | str | None) -> ImageSeries:
    _check_size(image.shape)
    affine = np.asarray(convert_to_numpy(image.affine), dtype=np.float64)
    _check_affine(affine)
    data = convert_to_tensor(image, track_meta=False).detach().cpu()
    values = (data.float() if data.is_floating_point() else data).numpy()
    return _checked_series(np.moveaxis(values, 0, -1) if values.ndim == 4 else values, affine, phase)


def _from_nibabel(image: SpatialImage, phase: int | str | None) -> ImageSeries:
    if isinstance(image, nib.Nifti1Pair):
        shape = checked_shape(image.header, WHERE)
        affine, warnings = checked_affine(image.header, image.header["pixdim"], WHERE)
        whole = phase == "all" or len(shape) == 3
        more: dict[str, Any] = {"meta": {"nifti": header_geometry(image.header, shape if whole else shape[:3])}}
        more["warnings"] = warnings
    else:
        _check_size(image.shape)
        affine, more = np.asarray(image.affine, dtype=np.float64), {}
        _check_affine(affine)
    dtype = np.dtype(image.get_data_dtype())
    if dtype.kind not in "iuf":
        raise InputRefused(RefusalCode.DATA_TYPE, f"{WHERE} holds {dtype} voxels; a scalar grey-value volume is needed")
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            data = image.get_fdata(dtype=np.float32, caching="unchanged")
    except (OSError, EOFError, ValueError, zlib.error) as error:  # nibabel reads an image's file only now
        raise InputRefused(
            RefusalCode.NIFTI_UNREADABLE, f"{WHERE} cannot be loaded from its file; get it again"
        ) from error
    return _checked_series(data, affine, phase, **more)


def _like_nibabel(image: SpatialImage, labels: NDArray[np.uint8]) -> nib.Nifti1Image:
    """Copies the geometry alone: other fields of the header may hold names, or a scale."""
    result = nib.Nifti1Image(labels, image.affine)
    if not isinstance(image, nib.Nifti1Pair):
        result.header["xyzt_units"] = UNITS_MM
        return result
    for name in ("qform", "sform"):
        matrix, code = getattr(image.header, f"get_{name}")(coded=True)
        getattr(result, f"set_{name}")(matrix, int(code), update_affine=False)
    result.header["pixdim"][: 1 + labels.ndim] = image.header["pixdim"][: 1 + labels.ndim]
    result.header["xyzt_units"] = int(image.header["xyzt_units"]) or UNITS_MM
    return result


def _from_simpleitk(image: Any, phase: int | str | None) -> ImageSeries:
    import SimpleITK as sitk

    _check_size(image.GetSize())
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputRefused(
            RefusalCode.DATA_TYPE, f"{WHERE} holds vectors or colours, not one grey value a voxel; split it"
        )
    direction = np.asarray(image.GetDirection()).reshape(image.GetDimension(), -1)
    affine = checked_itk_affine(image.GetOrigin(), image.GetSpacing(), direction, WHERE)
    return _checked_series(sitk.GetArrayViewFromImage(image).T, affine, phase)


def _like_simpleitk(image: Any, labels: NDArray[np.uint8]) -> Any:
    """Labels are ([T,] Z, Y, X)."""
    import SimpleITK as sitk

    result = sitk.GetImageFromArray(labels, isVector=False)
    dimension, n = image.GetDimension(), labels.ndim
    result.SetOrigin(image.GetOrigin()[:n])
    result.SetSpacing(image.GetSpacing()[:n])
    result.SetDirection(np.asarray(image.GetDirection()).reshape(dimension, dimension)[:n, :n].ravel().tolist())
    return result


def _from_itk(image: Any, phase: int | str | None) -> ImageSeries:
    import itk

    _check_size(tuple(map(int, image.GetBufferedRegion().GetSize())))
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputRefused(
            RefusalCode.DATA_TYPE, f"{WHERE} holds vectors or colours, not one grey value a voxel; split it"
        )
    direction = np.asarray(itk.array_from_matrix(image.GetDirection()))
    affine = checked_itk_affine(_itk_first_voxel(image), list(image.GetSpacing()), direction, WHERE)
    return _checked_series(itk.array_view_from_image(image).T, affine, phase)


def _like_itk(image: Any, labels: NDArray[np.uint8]) -> Any:
    """Labels are ([T,] Z, Y, X)."""
    import itk

    n = labels.ndim
    result = itk.image_from_array(labels)
    result.SetOrigin(_itk_first_voxel(image)[:n])
    result.SetSpacing(list(image.GetSpacing())[:n])
    result.SetDirection(
        itk.matrix_from_array(np.ascontiguousarray(itk.array_from_matrix(image.GetDirection())[:n, :n]))
    )
    return result


def _itk_first_voxel(image: Any) -> list[float]:
    """Returns where the first voxel lies, LPS mm: not at the origin if the image was cut out of another."""
    return list(image.TransformIndexToPhysicalPoint(image.GetBufferedRegion().GetIndex()))
