"""Photographs in: JPEG, PNG, TIFF, BMP, WebP and DICOM photographs become upright RGB, or are refused.

Nothing but pixels and pixel spacing leaves this module: EXIF (which may hold a place or a name), colour profiles,
comments and DICOM values stay behind. Decisions:

- EXIF orientation is applied; a resolution tag is one for print, so it is not a pixel spacing.
- Embedded colour profiles are not applied, as they were not in training; a warning names a profile other than sRGB.
- An alpha channel is dropped, with a warning where it is not opaque: the colours below it are taken as they are.
- 16-bit colour is read as 8-bit (the high byte); 16-bit and float grey is refused, as its range is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from monai.config import PathLike
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.cases import is_dicom, refuse_no_file
from convformer_monai.readers.dicom.parsing import silent_pydicom
from convformer_monai.readers.limits import MAX_PIXELS
from convformer_monai.readers.photo_dicom import read_dicom_photo
from convformer_monai.readers.series import ImageSeries
from convformer_monai.readers.values import GREY
from convformer_monai.readers.volume import photo_tensor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["read_photo"]

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
NAMES = "JPEG, PNG, TIFF, BMP, WebP or a DICOM photograph"
MAX_FILE_BYTES = 2**30
COLOUR_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "P", "PA")
GREY_MODES = ("L", "LA", "La")
ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
SRGB_NAMES = (b"sRGB", "sRGB".encode("utf-16-be"))


def read_photo(path: PathLike) -> ImageSeries:
    """Reads one photograph; its content tells the format, not its name.

    Args:
        path: a JPEG, PNG, TIFF, BMP, WebP or DICOM file (visible light photographs, dermoscopy among them).

    Returns:
        Upright RGB (3, X, Y) uint8. The spacing is known for DICOM with pixel spacing only, else pixels are counted.

    Raises:
        InputRefused: if it is not a single photograph, is too large, or is damaged.
    """
    where = Path(path)
    if not where.is_file():
        refuse_no_file(where, f"give the path of {NAMES}")
    if is_dicom(where):
        return read_dicom_photo(where)
    with _refusing(where), _opened(where) as image:
        _check_before_decoding(image, where)
        notes = _notes(image)
        pixels = _upright_rgb(image)
    return ImageSeries(photo_tensor(pixels), "photo", where, spacing_known=False, warnings=notes)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turns whatever Pillow raises on a damaged file into a refusal; keeps its warnings off the terminal.

    What its decoders raise is not documented, and ranges from ``SyntaxError`` to ``struct.error``.
    """
    from PIL.Image import DecompressionBombError

    try:
        with silent_pydicom:
            yield
    except InputRefused:
        raise
    except DecompressionBombError as error:
        raise _too_large(path) from error
    except Exception as error:
        raise InputRefused(
            RefusalCode.PHOTO_UNREADABLE,
            f"{path} is truncated or corrupt ({type(error).__name__}); get it again or convert it",
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    """Opens the file without decoding it."""
    from PIL import Image, UnidentifiedImageError

    if path.stat().st_size > MAX_FILE_BYTES:
        raise _too_large(path)
    try:
        image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise InputRefused(RefusalCode.NOT_PHOTO, f"{path} is not an image that can be read; give {NAMES}") from error
    with image:
        yield image


def _check_before_decoding(image: Image, path: Path) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path)
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # MPO: a JPEG with previews behind
        raise InputRefused(
            RefusalCode.SEVERAL_IMAGES, f"{path} is animated or has several pages; save one of them as an image"
        )
    if image.mode not in COLOUR_MODES + GREY_MODES:
        raise InputRefused(
            RefusalCode.DATA_TYPE,
            f"{path} is not an 8-bit colour or grey photograph (mode {image.mode}); convert it to 8-bit RGB",
        )


def _notes(image: Image) -> tuple[str, ...]:
    """Says what a user should know of the colours; decodes the image if it has transparency."""
    notes = []
    if image.mode in GREY_MODES:
        notes.append(GREY)
    if image.mode == "CMYK":
        notes.append("the colours are CMYK, converted without a colour profile")
    profile = image.info.get("icc_profile")
    if profile and not any(name in profile for name in SRGB_NAMES):
        notes.append("the embedded colour profile is not sRGB and was not applied")
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        if np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
            notes.append("parts of the photograph are transparent; the colours below are taken as they are")
    return tuple(notes)


def _upright_rgb(image: Image) -> NDArray[np.uint8]:
    """Decodes to (Y, X, 3)."""
    from PIL import ImageOps

    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBa", "La"):  # colours premultiplied by alpha
        upright = upright.convert("RGBA" if upright.mode == "RGBa" else "LA")
    return np.array(upright.convert("RGB"), dtype=np.uint8)


def _too_large(path: Path) -> InputRefused:
    return InputRefused(
        RefusalCode.TOO_LARGE,
        f"{path} has over {MAX_PIXELS:,} pixels or {MAX_FILE_BYTES >> 20:,} MB, the limits; make it smaller",
    )
