"""Photographs for networks: brought to a working size, their colours normalised; masks that are pictures read."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.transforms.utils import scale_affine
from monai.utils import TraceKeys, ensure_tuple_rep
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = [
    "LoadPictureMaskd",
    "NormalizeColoursd",
    "ResizeToAread",
    "binary_mask",
    "normalize_colours",
    "size_of_area",
]

SMALLEST_SIDE = 16


def size_of_area(size: Sequence[int], area: int) -> tuple[int, int]:
    """Computes the size of a picture of the same shape and about a given area.

    Args:
        size: (X, Y).
        area: number of pixels aimed at.

    Returns:
        Whole numbers of at least 16; a very narrow picture is therefore stretched.
    """
    factor = math.sqrt(area / (size[0] * size[1]))
    largest = max(SMALLEST_SIDE, area // SMALLEST_SIDE)
    x, y = (min(max(round(side * factor), SMALLEST_SIDE), largest) for side in size)
    return x, y


class ResizeToAread(MapTransform, InvertibleTransform):
    """Resizes photographs (C, X, Y) of any size to about one area in pixels, keeping their shape; invertible.

    A photograph has no spacing that could tell the scale; what is seen of the skin is about one frame. An antialiasing
    filter is used where it becomes smaller. Bytes stay bytes, so no float copy of a large photograph is made.

    Args:
        keys: the pictures.
        area: number of pixels aimed at.
        mode: ``bilinear`` (images, class scores) or ``nearest`` (labels), one for all keys or one for each.
        allow_missing_keys: do not fail if a key is missing.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        keys: KeysCollection,
        area: int,
        mode: Sequence[str] | str = "bilinear",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if area < SMALLEST_SIDE**2:
            raise ValueError(f"area must be at least {SMALLEST_SIDE**2} pixels, got {area}")
        self.area = int(area)
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        for one in self.mode:
            if one not in ("bilinear", "nearest"):
                raise ValueError(f"mode must be 'bilinear' or 'nearest', got {one!r}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resizes each picture.

        Raises:
            InputRefused: if it is a volume.
        """
        result = dict(data)
        for key, mode in self.key_iterator(result, self.mode):
            picture = result[key]
            if picture.ndim != 3:
                name = picture.meta.get("filename_or_obj", "the image") if isinstance(picture, MetaTensor) else key
                raise InputRefused(
                    RefusalCode.WRONG_KIND, f"{name} is not a photograph; the bundle takes photographs only"
                )
            result[key] = _resize(picture, size_of_area(picture.shape[1:], self.area), mode, self.get_transform_info())
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resizes each picture back to the size that it had."""
        result = dict(data)
        for key in self.key_iterator(result):
            transform = self.pop_transform(result[key])
            size = [int(n) for n in transform[TraceKeys.ORIG_SIZE]]
            result[key] = _resize(result[key], size, transform[TraceKeys.EXTRA_INFO]["mode"], {})
        return result


def _resize(data: MetaTensor, size: Sequence[int], mode: str, transform_info: dict[str, Any]) -> MetaTensor:
    """Resizes (C, X, Y), and tracks it in affine and transform record."""
    before = [int(n) for n in data.shape[1:]]
    meta = ResizeToAread.track_transform_meta(
        data,
        sp_size=tuple(size),
        affine=scale_affine([*before, 1], [*size, 1]),
        extra_info={"mode": mode},
        orig_size=tuple(before),
        transform_info=transform_info,
    )
    pixels = data.as_tensor()[None]
    if before != list(size):
        options: dict[str, Any] = {"mode": "nearest-exact"}
        if mode == "bilinear":
            smaller = any(new < old for new, old in zip(size, before, strict=True))
            options = {"mode": "bilinear", "align_corners": False, "antialias": smaller}
        pixels = interpolate(pixels, size=tuple(size), **options)
    return MetaTensor(pixels[0]).copy_meta_from(meta)  # type: ignore[no-any-return]


def normalize_colours(image: Tensor) -> Tensor:
    """Gives each colour channel of each picture zero mean and unit variance.

    That removes the white balance and most of the exposure (the "grey world" assumption of colour constancy).

    Args:
        image: (..., X, Y) of any number type.

    Returns:
        The same shape, float32.
    """
    values = image.float()
    mean = values.mean((-2, -1), keepdim=True)
    deviation = (values - mean).square().mean((-2, -1), keepdim=True).sqrt()
    return (values - mean) / deviation.clamp(min=1.0)  # a grey level of 255: a picture of one colour becomes zero


class NormalizeColoursd(MapTransform):
    """Applies :func:`normalize_colours` to one picture, or to a batch of them.

    Args:
        keys: (C, X, Y) or (B, C, X, Y), 0-255.
        allow_missing_keys: do not fail if a key is missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Normalises each picture."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = normalize_colours(result[key])
        return result


class LoadPictureMaskd(MapTransform):
    """Reads masks that are pictures of two levels: PNG, BMP, TIFF; 1-bit, 0 and 255, or 0 and 1.

    The readers of photographs refuse 1-bit pictures, and would make colours of the levels.

    Args:
        keys: paths of masks; replaced by (1, X, Y) uint8, X to the right and Y downwards, 0 and 1; of a slice
            (1, X, Y, 1). An empty path means that there is nothing to label.
        like: key of the picture that has been loaded before, whose grid the mask must have and gets.
        allow_missing_keys: do not fail if a key is missing.
    """

    def __init__(self, keys: KeysCollection, like: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.like = like

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Reads each mask.

        Raises:
            InputRefused: if it cannot be read, has more than two levels, or is of another size than its picture.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            image: MetaTensor = result[self.like]
            size = tuple(image.shape[1:3])
            mask = _read_mask(Path(str(result[key]))) if result[key] else np.zeros(size, np.uint8)
            if mask.shape != size:
                raise InputRefused(
                    RefusalCode.GRIDS_DIFFER,
                    f"{result[key]} has {mask.shape[0]} x {mask.shape[1]} pixels, its picture {size[0]} x {size[1]}; "
                    "give the mask of this picture",
                )
            labels = torch.from_numpy(mask).reshape(1, *image.shape[1:])
            result[key] = MetaTensor(labels, affine=image.affine, meta={"filename_or_obj": str(result[key])})
        return result


def _read_mask(path: Path) -> NDArray[np.uint8]:
    """Returns (X, Y), 0 and 1."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputRefused(
            RefusalCode.MASK_UNREADABLE, f"{path} cannot be read as a picture; give a PNG mask"
        ) from error
    return np.ascontiguousarray(binary_mask(pixels, path).T)


def binary_mask(pixels: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Makes 0 and 1 of a picture of two grey levels, which are 0 and 255, or 0 and 1.

    Args:
        pixels: of a picture, two axes in any order; with another number of axes it has colours.
        path: named in the refusal.

    Raises:
        InputRefused: ``NOT_A_MASK`` if it has other levels, or colours.
    """
    levels = set(np.unique(pixels).tolist()) if pixels.ndim == 2 else {"colours"}
    if not (levels <= {0, 255} or levels <= {0, 1}):
        raise InputRefused(
            RefusalCode.NOT_A_MASK, f"{path} is not a picture of two grey levels; give a mask of 0 and 255"
        )
    return (pixels > 0).astype(np.uint8)
