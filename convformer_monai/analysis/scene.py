"""The slice or photograph that is explained, and one pixel of it: on its own grid, and on that of the network.

Numbers that a user gives and gets back are on the image's own grid; a network works on what the bundle's preprocessing
made of it. The affines of both tell where a pixel of one lies in the other, whatever the preprocessing is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.utils import convert_to_numpy
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs.drawing.contours import window_of
from convformer_monai.readers import ImageSeries
from convformer_monai.segmenter import Segmenter
from convformer_monai.tasks.task import Preview

MAX_SIDE = 512  # pixels of the network's input; of a larger one the part around the pixel is taken
PICTURE_SIDE = 512  # of photographs as they are shown
MASK_FACTOR = 2  # the mask's outline is drawn finer than the network's grid


@dataclass(frozen=True)
class Scene:
    """What is explained.

    Attributes:
        images: the network's input, ``(1, C, X, Y)``.
        pixel: the chosen pixel in ``images``, from 0; between pixels, as its own grid is another one.
        spacing_mm: of ``images``, if known.
        native_pixel: the chosen pixel in the image, in the order of its axes.
        slice: number of the slice from 0, None of a photograph.
        slices: how many there are.
        chosen: how slice and pixel were chosen.
        cut: where ``images`` begins in the whole prepared slice, if that is too large to be taken whole.
        picture: to look at, ``(Y, X)`` grey or ``(Y, X, 3)``, 0 to 1; it spans the same as ``images``.
        mask: what the bundle found, ``(Y, X)``, 0 to 1; it spans the same as ``images``.
    """

    images: Tensor
    pixel: tuple[float, float]
    spacing_mm: tuple[float, float] | None
    native_pixel: tuple[int, int]
    slice: int | None
    slices: int
    chosen: dict[str, str]
    cut: tuple[int, int] | None
    picture: NDArray[np.float32] = field(repr=False)
    mask: NDArray[np.float32] = field(repr=False)


def make_scene(
    segmenter: Segmenter,
    series: ImageSeries,
    labels: NDArray[np.uint8],
    number: int | None = None,
    pixel: tuple[int, int] | None = None,
) -> Scene:
    """Chooses slice and pixel, and cuts out what the network sees of them.

    Args:
        segmenter: of the bundle, which prepares the image.
        series: one phase, or a photograph.
        labels: what the bundle found, ``(1, X, Y, Z)``, or ``(1, X, Y)``.
        number: slice, from 0 in the order of the image; None takes the one with the largest mask, or the middle.
        pixel: numbers from 0 along the two axes of the image that are not the slices'; None takes a pixel of the mask
            that is near the mask's centroid, or the middle.

    Raises:
        InputRefused: ``OUT_OF_RANGE`` if there is no such slice or pixel.
    """
    prepared = segmenter.prepare(series)  # (1, X', Y', Z'), or (C, X', Y')
    whole = _to_prepared(series, prepared)
    along = None if series.is_photo else int(np.argmax(np.abs(whole[2, :3])))
    axes = [axis for axis in range(2 if along is None else 3) if axis != along]
    mask = labels[0] > 0
    chosen = {}
    slices = 1
    if along is not None:
        slices = mask.shape[along]
        number, chosen["slice"] = _choose_slice(mask, along, number)
        mask = mask.take(number, along)
    at, chosen["pixel"] = _choose_pixel(mask, pixel)
    index = np.zeros(4)
    index[axes], index[3] = at, 1
    if along is not None:
        index[along] = number
    there = whole @ index
    seen = segmenter.network_input(prepared, None if along is None else round(float(there[2])))
    size = seen.shape[2:]
    inside = [float(np.clip(there[axis], 0, size[axis] - 1)) for axis in (0, 1)]
    first = [_start(position, n) for position, n in zip(inside, size, strict=True)]
    images = seen[:, :, first[0] : first[0] + MAX_SIDE, first[1] : first[1] + MAX_SIDE].contiguous()
    back = np.linalg.inv(whole)
    matrix = back[np.ix_(axes, (0, 1))]
    offset = back[axes, 2] * there[2] + back[axes, 3] + matrix @ first
    shown = (images.shape[2], images.shape[3])
    return Scene(
        images=images,
        pixel=(inside[0] - first[0], inside[1] - first[1]),
        spacing_mm=_spacing(prepared) if series.spacing_known else None,
        native_pixel=at,
        slice=number if along is not None else None,
        slices=slices,
        chosen=chosen,
        cut=(first[0], first[1]) if any(n > MAX_SIDE for n in size) else None,
        picture=_photo(series, matrix, offset, shown)
        if along is None
        else _grey(images, segmenter.bundle.task.preview),
        mask=_resampled(mask.astype(np.float32), matrix, offset, shown, MASK_FACTOR),
    )


def _to_prepared(series: ImageSeries, prepared: MetaTensor) -> NDArray[np.float64]:
    """Index in the image to index in the prepared image, (4, 4)."""
    affine = np.asarray(convert_to_numpy(prepared.affine), dtype=np.float64)
    matrix: NDArray[np.float64] = np.linalg.inv(affine) @ series.affine
    return matrix


def _spacing(prepared: MetaTensor) -> tuple[float, float]:
    lengths = np.linalg.norm(np.asarray(convert_to_numpy(prepared.affine), dtype=np.float64)[:3, :2], axis=0)
    return float(lengths[0]), float(lengths[1])


def _choose_slice(mask: NDArray[np.bool_], along: int, number: int | None) -> tuple[int, str]:
    slices = mask.shape[along]
    if number is not None:
        if not 0 <= number < slices:
            raise InputRefused(
                RefusalCode.OUT_OF_RANGE, f"--slice {number} is not in the image; its slices are 0 to {slices - 1}"
            )
        return number, "user"
    areas = mask.sum(axis=tuple(axis for axis in range(mask.ndim) if axis != along))
    return (int(areas.argmax()), "largest mask") if areas.any() else (slices // 2, "middle")


def _choose_pixel(mask: NDArray[np.bool_], pixel: tuple[int, int] | None) -> tuple[tuple[int, int], str]:
    columns, rows = mask.shape
    if pixel is not None:
        if not (0 <= pixel[0] < columns and 0 <= pixel[1] < rows):
            raise InputRefused(
                RefusalCode.OUT_OF_RANGE,
                f"--pixel {pixel[0]},{pixel[1]} is not in the image; its pixels are 0,0 to {columns - 1},{rows - 1}",
            )
        return pixel, "user"
    points = np.argwhere(mask)
    if not len(points):
        return (columns // 2, rows // 2), "middle"
    nearest = points[np.square(points - points.mean(axis=0)).sum(axis=1).argmin()]
    return (int(nearest[0]), int(nearest[1])), "near the mask's centroid"


def _start(position: float, size: int) -> int:
    """Where a part of an axis begins that holds a place near its middle."""
    if size <= MAX_SIDE:
        return 0
    return int(np.clip(position - MAX_SIDE // 2, 0, size - MAX_SIDE))


def _resampled(
    plane: NDArray[np.floating[Any]],
    matrix: NDArray[np.floating[Any]],
    offset: NDArray[np.floating[Any]],
    shown: tuple[int, int],
    factor: int,
) -> NDArray[np.float32]:
    """Brings a plane of the image onto the network's grid, some times finer.

    Args:
        plane: (X, Y) on the image's own grid.
        matrix: (2, 2) index on the network's grid to index in ``plane``, with ``offset``.
        offset: (2,).
        shown: size of the network's grid.
        factor: how many times finer.

    Returns:
        (Y', X').
    """
    finer = matrix / factor
    coarser = np.maximum(np.abs(finer).sum(axis=1) - 1, 0) / 2
    smooth = ndimage.gaussian_filter(plane, coarser) if coarser.any() else plane
    half = 0.5 / factor - 0.5  # the middle of the first finer pixel
    size = (shown[0] * factor, shown[1] * factor)
    values = ndimage.affine_transform(smooth, finer, offset + matrix @ (half, half), size, order=1, mode="nearest")
    return np.asarray(values.T, dtype=np.float32)


def _photo(
    series: ImageSeries, matrix: NDArray[np.floating[Any]], offset: NDArray[np.floating[Any]], shown: tuple[int, int]
) -> NDArray[np.float32]:
    factor = max(1, PICTURE_SIDE // max(shown))
    channels = [
        _resampled(np.asarray(convert_to_numpy(channel), dtype=np.float32) / 255, matrix, offset, shown, factor)
        for channel in series.image  # one at a time: photographs can be large
    ]
    return np.stack(channels, axis=-1)


def _grey(images: Tensor, how: Preview) -> NDArray[np.float32]:
    """A slice as the network sees it, the middle one of neighbours, from black to white."""
    plane = images[0, images.shape[1] // 2].cpu().numpy().T
    low, high = window_of(plane, how)
    grey: NDArray[np.float32] = np.clip((plane - low) / max(float(high - low), 1e-6), 0, 1).astype(np.float32)
    return grey
