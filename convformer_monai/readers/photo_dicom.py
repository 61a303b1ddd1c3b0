"""DICOM photographs: visible light images of one frame (PS3.3 A.32), decoded to RGB whatever the header calls them."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, uid
from pydicom.encaps import generate_frames
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.dicom import codestreams
from convformer_monai.readers.dicom.parsing import as_refusal, read_dataset, silent_pydicom
from convformer_monai.readers.limits import MAX_PIXELS, MAX_SPACING_MM
from convformer_monai.readers.series import Frame, ImageSeries
from convformer_monai.readers.values import GREY
from convformer_monai.readers.volume import photo_tensor

__all__ = ["read_dicom_photo"]

STILL_IMAGES = (
    uid.VLEndoscopicImageStorage,
    uid.VLMicroscopicImageStorage,
    uid.VLSlideCoordinatesMicroscopicImageStorage,
    uid.VLPhotographicImageStorage,
    uid.OphthalmicPhotography8BitImageStorage,
    uid.DermoscopicPhotographyImageStorage,
)
KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "Modality", "PixelSpacing"),
    *codestreams.KEYWORDS,
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
    *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
)
SAMPLES = {"MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3}
MIN_PIXEL_MM = 1e-4  # dermoscopes reach 0.01 mm and microscopes 0.0002
JPEG_RGB_IDS = [82, 71, 66]


def read_dicom_photo(path: Path) -> ImageSeries:
    """Reads one DICOM photograph.

    Args:
        path: a file of a visible light image class: photographic, dermoscopic, endoscopic, microscopic, ophthalmic.

    Returns:
        RGB (3, X, Y) uint8, with its pixel spacing if the header tells it, and its one frame.

    Raises:
        InputRefused: if it is not a single 8-bit photograph, is too large, or is damaged.
    """
    with silent_pydicom:
        dataset = read_dataset(path, KEYWORDS)
        with as_refusal(path):
            _check_header(dataset, path)
            spacing = _spacing(dataset, path)
            frame = Frame(path, str(dataset.SOPInstanceUID), str(dataset.SOPClassUID), None, (0.0, 0.0, 0.0), 0.0)
            modality = str(dataset.get("Modality") or "").strip().upper() or None
        codestreams.check_codec(str(dataset.file_meta.TransferSyntaxUID), path)
        with as_refusal(path, "has pixel data that cannot be decoded"):
            codestreams.check_pixel_data(dataset, path)
            pixels = _rgb(dataset)
    is_grey = dataset.PhotometricInterpretation == "MONOCHROME2"
    return ImageSeries(
        photo_tensor(pixels, spacing or (1.0, 1.0)),
        "photo",
        path,
        modality=modality,
        frames=((frame,),),
        spacing_known=spacing is not None,
        warnings=(GREY,) if is_grey else (),
    )


def _check_header(dataset: Dataset, path: Path) -> None:
    """Checks the class and the image pixel module (PS3.3 C.7.6.3) before anything is decoded."""
    if str(dataset.get("SOPClassUID")) not in STILL_IMAGES:
        raise InputRefused(RefusalCode.NOT_PHOTO, f"{path} is not a DICOM photograph; give one, or a series of slices")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise InputRefused(RefusalCode.SEVERAL_IMAGES, f"{path} has several frames; save one of them as an image")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if rows < 1 or columns < 1:
        raise InputRefused(RefusalCode.DIMENSIONS, f"{path} has {rows} x {columns} pixels")
    if rows * columns > MAX_PIXELS:
        raise InputRefused(
            RefusalCode.TOO_LARGE, f"{path} has over {MAX_PIXELS:,} pixels, the limit of a photograph; make it smaller"
        )
    colours, samples = str(dataset.PhotometricInterpretation), int(dataset.SamplesPerPixel)
    if SAMPLES.get(colours, 3 if colours.startswith("YBR_") else 0) != samples:
        raise InputRefused(
            RefusalCode.DATA_TYPE, f"{path} is not a colour or grey photograph ({samples} samples a pixel); convert it"
        )
    if (dataset.BitsAllocated, dataset.BitsStored, int(dataset.get("PixelRepresentation") or 0)) != (8, 8, 0):
        raise InputRefused(RefusalCode.DATA_TYPE, f"{path} does not hold 8 bits a sample; convert it")


def _spacing(dataset: Dataset, path: Path) -> tuple[float, float] | None:
    """Returns mm along X and Y if the header tells them (PS3.3 10.7: first between rows)."""
    value = dataset.get("PixelSpacing")
    if not value:
        return None
    along_y, along_x = map(float, value)
    if not all(math.isfinite(mm) and MIN_PIXEL_MM <= mm <= MAX_SPACING_MM for mm in (along_x, along_y)):
        raise InputRefused(RefusalCode.SPACING, f"{path} has an implausible pixel spacing; correct it")
    return along_x, along_y


def _rgb(dataset: Dataset) -> NDArray[np.uint8]:
    """Decodes to (Y, X, 3)."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == uid.JPEGBaseline8Bit and dataset.SamplesPerPixel == 3:
        dataset.PhotometricInterpretation = "RGB" if _is_rgb_jpeg(dataset) else "YBR_FULL_422"
    decoded = pixel_array(dataset, decoding_plugin=codestreams.safe_decoder(syntax))
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        decoded = apply_color_lut(decoded, dataset)[..., :3]
        if decoded.dtype != np.uint8:  # 16 bits an entry: the high byte, as for 16-bit colour elsewhere
            decoded = decoded >> 8
    if decoded.ndim == 2:
        decoded = np.repeat(decoded[..., None], 3, axis=2)
    if decoded.shape != (dataset.Rows, dataset.Columns, 3):
        raise ValueError("other pixels than the header tells")
    return decoded.astype(np.uint8)


def _is_rgb_jpeg(dataset: Dataset) -> bool:
    """Tells what a JPEG holds: its own markers first, then whether chroma is subsampled, at last the DICOM header.

    Many a file is called RGB whose JPEG holds YBR.
    """
    from PIL import Image

    stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
    with Image.open(io.BytesIO(stream), formats=("JPEG",)) as image:
        info, layers = image.info, image.layer  # type: ignore[attr-defined]
    if "jfif" in info:
        return False
    if "adobe_transform" in info:
        return bool(info["adobe_transform"] == 0)
    if [layer[0] for layer in layers] == JPEG_RGB_IDS:
        return True
    return len({layer[1:3] for layer in layers}) == 1 and dataset.PhotometricInterpretation == "RGB"
