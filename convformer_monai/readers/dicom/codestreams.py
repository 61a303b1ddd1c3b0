"""Stored pixel data before any decoder sees them: all there, and of the size that the header says."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, RLELossless

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["KEYWORDS", "check_codec", "check_pixel_data", "codestream_size", "safe_decoder"]

# the elements that say how pixels are stored, and the pixels
KEYWORDS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
)
SAFE_DECODERS = {RLELossless: "pydicom"}  # pylibjpeg-rle panics on damaged data, past every except clause
ITEM_HEADER_BYTES = 8
DELIMITER = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
TRAILER_BYTES = 16  # in which the end marker of a codestream must be
JPEG_START, JPEG_2000_START, END = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\xff\xd9"
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # SOF of JPEG and of JPEG-LS


def check_codec(transfer_syntax: str, path: Path) -> None:
    """Checks that pixels of a transfer syntax can be decoded here.

    Raises:
        InputRefused: if they cannot.
    """
    try:
        decoder = get_decoder(transfer_syntax)
    except (NotImplementedError, ValueError):
        raise InputRefused(
            RefusalCode.DICOM_UNREADABLE,
            f"{path} is stored in a way that is not a still image; convert it",
        ) from None
    if not decoder.is_available:
        raise InputRefused(
            RefusalCode.CODEC_MISSING,
            f"{path} is compressed ({UID(transfer_syntax).name}) and its codec is not installed; "
            "pip install 'convformer_monai[dicom]'",
        )


def safe_decoder(transfer_syntax: str) -> str:
    """Returns which of pydicom's decoding plugins to use; any if empty."""
    return SAFE_DECODERS.get(UID(transfer_syntax), "")


def check_pixel_data(dataset: Dataset, path: Path) -> None:
    """Checks that all pixels are there, and that compressed ones are as large as the header says.

    Args:
        dataset: with the elements in ``KEYWORDS``.
        path: the file that it was read from.

    Raises:
        InputRefused: ``TRUNCATED`` or ``DICOM_UNREADABLE`` if not.
    """
    truncated = InputRefused(
        RefusalCode.TRUNCATED, f"{path} is without part of its pixel data; fetch it again from the archive"
    )
    if not dataset.get("PixelData"):
        raise truncated
    data = cast(bytes, dataset.PixelData)
    frames, size = int(dataset.get("NumberOfFrames") or 1), (int(dataset.Rows), int(dataset.Columns))
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        samples = 2 if dataset.PhotometricInterpretation == "YBR_FULL_422" else int(dataset.SamplesPerPixel)
        if len(data) < frames * size[0] * size[1] * samples * int(dataset.BitsAllocated) // 8:
            raise truncated
        return
    if not _is_complete(dataset["PixelData"], path):
        raise truncated
    if syntax == RLELossless:
        return  # its size is not stated twice
    tables = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    found = 0
    for stream in generate_frames(data, number_of_frames=frames, extended_offsets=tables if all(tables) else None):
        found += 1
        if END not in stream[-TRAILER_BYTES:]:
            raise truncated
        if codestream_size(stream) != (*size, dataset.SamplesPerPixel):
            raise InputRefused(
                RefusalCode.DICOM_UNREADABLE,
                f"{path} has compressed pixels of another size than its header says; convert it",
            )
    if found < frames:
        raise truncated


def codestream_size(stream: bytes) -> tuple[int, int, int] | None:
    """Returns what a codestream says of itself, which is what its decoder will allocate.

    Args:
        stream: JPEG or JPEG-LS (T.81 B.2.2, T.87 C.2.2), or JPEG 2000 (T.800 A.5.1).

    Returns:
        Rows, columns and components; ``None`` if it is none of these.
    """
    if stream.startswith(JPEG_2000_START):
        x1, y1, x0, y0 = (int.from_bytes(stream[k : k + 4], "big") for k in (8, 12, 16, 20))
        return y1 - y0, x1 - x0, int.from_bytes(stream[40:42], "big")
    if not stream.startswith(JPEG_START):
        return None
    offset = 2
    while offset + 10 <= len(stream) and stream[offset] == 0xFF:
        marker, length = stream[offset + 1], int.from_bytes(stream[offset + 2 : offset + 4], "big")
        if marker in FRAME_MARKERS:
            rows, columns = (int.from_bytes(stream[k : k + 2], "big") for k in (offset + 5, offset + 7))
            return rows, columns, stream[offset + 9]
        offset += 1 if marker == 0xFF else 2 + length
    return None


def _is_complete(element: DataElement, path: Path) -> bool:
    """Tells whether the last fragment of encapsulated pixel data is whole and the delimiter follows (PS3.5 A.4)."""
    data, offset = cast(bytes, element.value), 0
    while offset + ITEM_HEADER_BYTES <= len(data):
        offset += ITEM_HEADER_BYTES + int.from_bytes(data[offset + 4 : offset + 8], "little")
    with open(path, "rb") as file:
        file.seek((element.file_tell or 0) + len(data))
        return offset == len(data) and file.read(len(DELIMITER)) == DELIMITER
