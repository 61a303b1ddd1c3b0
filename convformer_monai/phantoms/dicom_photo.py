"""DICOM photographs with known colours: VL photographic and dermoscopic images (PS3.3 A.32.4, A.32.11).

What the pixel data hold and what the header says of them are chosen apart, so that a wrong label can be made.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import convert_color_space
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    DermoscopicPhotographyImageStorage,
    JPEGBaseline8Bit,
    VLPhotographicImageStorage,
)

from convformer_monai.phantoms.dicom.modules import Identity, code, ds, new_instance

__all__ = ["colour_chart", "photograph_dataset"]

COLOURS = ((200, 30, 40), (30, 180, 60), (40, 60, 210), (230, 220, 60), (120, 120, 120), (240, 240, 240))


def colour_chart(size: tuple[int, int] = (96, 64)) -> NDArray[np.uint8]:
    """Six patches of different colours, three by two, so that any flip, turn or swap of channels shows.

    Args:
        size: columns and rows.

    Returns:
        (Y, X, 3) RGB; patches are even, so JPEG keeps them to a few units away from their edges.
    """
    columns, rows = size
    x = np.arange(columns) * 3 // columns
    y = np.arange(rows) * 2 // rows
    return np.asarray(np.array(COLOURS, dtype=np.uint8)[y[:, None] * 3 + x])


def photograph_dataset(
    pixels: NDArray[np.uint8] | None = None,
    *,
    photometric: str = "RGB",
    jpeg: str | None = None,
    dermoscopic: bool = False,
    pixel_spacing: float | None = None,
    identity: Identity | None = None,
) -> Dataset:
    """Makes the dataset of a photograph.

    Args:
        pixels: (Y, X, 3) RGB; :func:`colour_chart` by default.
        photometric: what the header says. Without JPEG the pixels are stored so: RGB, YBR_FULL or PALETTE COLOR (which
            the standard does not allow in photographs, but which occurs).
        jpeg: "ybr" for a JPEG of YBR with halved chroma, as most are; "rgb" for a JPEG of RGB; whatever the header
            says. ``None`` stores the pixels uncompressed.
        dermoscopic: Dermoscopic Photography instead of VL Photographic Image Storage.
        pixel_spacing: mm, of square pixels; photographs mostly have none.
        identity: whose and which.

    Raises:
        ValueError: if an argument is not allowed.
    """
    if jpeg not in (None, "ybr", "rgb"):
        raise ValueError(f"jpeg must be 'ybr', 'rgb' or None, got {jpeg!r}")
    image = colour_chart() if pixels is None else pixels
    sop_class = DermoscopicPhotographyImageStorage if dermoscopic else VLPhotographicImageStorage
    dataset = new_instance(identity or Identity(), sop_class, "DMS" if dermoscopic else "XC", 1)
    _set_image(dataset, dermoscopic)
    if pixel_spacing is not None:
        dataset.PixelSpacing = [ds(pixel_spacing)] * 2
    dataset.Rows, dataset.Columns = image.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    dataset.PhotometricInterpretation = photometric
    dataset.SamplesPerPixel = 3
    dataset.PlanarConfiguration = 0
    if jpeg is not None:
        _set_jpeg(dataset, image, jpeg)
    elif photometric == "PALETTE COLOR":
        _set_palette(dataset, image)
    elif photometric == "YBR_FULL":
        dataset.PixelData = convert_color_space(image, "RGB", "YBR_FULL").tobytes()
    elif photometric == "RGB":
        dataset.PixelData = image.tobytes()
    else:
        raise ValueError(f"photometric must be RGB, YBR_FULL or PALETTE COLOR without JPEG, got {photometric!r}")
    dataset["PixelData"].VR = "OB"
    return dataset


def _set_image(dataset: Dataset, dermoscopic: bool) -> None:
    """General image, acquisition context, VL image and, if it is one, dermoscopic image modules."""
    del dataset.PatientPosition
    dataset.BodyPartExamined = "BACK"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PatientOrientation = None
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.AcquisitionContextSequence = Items()
    if not dermoscopic:
        del dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator
        return
    dataset.AnatomicRegionSequence = code("39937001", "SCT", "Skin")
    dataset.RecognizableVisualFeatures = "NO"
    for keyword in (
        "LightSourcePolarization",
        "EmitterColorTemperature",
        "ContactMethod",
        "OpticalMagnificationFactor",
    ):
        setattr(dataset, keyword, None)  # unknown


def _set_jpeg(dataset: Dataset, image: NDArray[np.uint8], holds: str) -> None:
    from PIL import Image  # an encoder is needed for this only

    stream = io.BytesIO()
    if holds == "ybr":
        Image.fromarray(image).save(stream, "JPEG", quality=95, subsampling="4:2:2")
    else:
        Image.fromarray(image).save(stream, "JPEG", quality=95, keep_rgb=True, subsampling="4:4:4")
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionRatio = ds(round(image.size / len(stream.getvalue()), 2))
    dataset.LossyImageCompressionMethod = "ISO_10918_1"
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit


def _set_palette(dataset: Dataset, image: NDArray[np.uint8]) -> None:
    """Palette color lookup table module (PS3.3 C.7.9), 16 bits an entry."""
    colours, index = np.unique(image.reshape(-1, 3), axis=0, return_inverse=True)
    if len(colours) > 256:
        raise ValueError(f"pixels must have at most 256 colours for a palette, got {len(colours)}")
    dataset.SamplesPerPixel = 1
    del dataset.PlanarConfiguration
    for name, channel in zip(("Red", "Green", "Blue"), colours.T, strict=True):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [len(colours), 0, 16])
        table = (channel.astype("<u2") * 257).tobytes()
        setattr(dataset, f"{name}PaletteColorLookupTableData", table)
    dataset.PixelData = index.reshape(image.shape[:2]).astype(np.uint8).tobytes()
