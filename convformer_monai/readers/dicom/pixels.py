"""Stored pixels become real values: decoded once, checked before anything is allocated, modality LUT, padding as air.

Only the modality LUT is applied, never what is for display: neither MONOCHROME1 nor windows change a value. Pixel
padding (PS3.3 C.7.5.1.1.2) becomes -1024 HU in CT, and 0, no signal, in other modalities.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import iter_pixels

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.dicom.codestreams import KEYWORDS, check_codec, check_pixel_data, safe_decoder
from convformer_monai.readers.dicom.frames import FrameHeader
from convformer_monai.readers.dicom.parsing import as_refusal, read_dataset, silent_pydicom

__all__ = ["AIR", "read_pixels"]

AIR = {"CT": -1024.0}
PADDING_AND_LUT = ("PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence")


def read_pixels(grid: Sequence[Sequence[FrameHeader]]) -> NDArray[np.float32]:
    """Reads the values of all frames; each file once.

    Args:
        grid: ``grid[phase][k]``, all of one size.

    Returns:
        (phases, slices, rows, columns).

    Raises:
        InputRefused: if pixels cannot be decoded, or a codec is not installed.
    """
    values = np.empty((len(grid), len(grid[0]), *grid[0][0].size), dtype=np.float32)
    files: dict[Path, list[tuple[FrameHeader, NDArray[np.float32]]]] = {}
    for phase, frames in enumerate(grid):
        for k, frame in enumerate(frames):
            files.setdefault(frame.path, []).append((frame, values[phase, k]))
    for path, pairs in files.items():
        with silent_pydicom, np.errstate(all="ignore"):
            _read_file(path, sorted(pairs, key=lambda pair: pair[0].number or 0))
    return values


def _read_file(path: Path, pairs: Sequence[tuple[FrameHeader, NDArray[np.float32]]]) -> None:
    """Decodes the frames of one file and writes their values."""
    dataset = read_dataset(path, (*KEYWORDS, *PADDING_AND_LUT))
    check_codec(str(dataset.file_meta.TransferSyntaxUID), path)
    with as_refusal(path):
        _check_layout(dataset, pairs[0][0].size, path)
        check_pixel_data(dataset, path)
    with as_refusal(path, "has pixel data that cannot be decoded"):
        for (frame, values), stored in zip(pairs, _decode(dataset, [f.number for f, _ in pairs]), strict=True):
            _convert(stored, dataset, frame, values)


def _decode(dataset: Dataset, numbers: Sequence[int | None]) -> Iterator[NDArray[np.integer]]:
    indices = [(number or 1) - 1 for number in numbers]
    everything = indices == list(range(int(dataset.get("NumberOfFrames") or 1)))
    yield from iter_pixels(
        dataset,
        indices=None if everything else indices,
        raw=True,
        decoding_plugin=safe_decoder(dataset.file_meta.TransferSyntaxUID),
        view_only=True,
        correct_unused_bits=False,
    )


def _check_layout(dataset: Dataset, size: tuple[int, int], path: Path) -> None:
    """Checks the image pixel module (PS3.3 C.7.6.3) as far as the decoders trust it."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = dataset.get("HighBit")
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or high not in (None, stored - 1):
        raise InputRefused(
            RefusalCode.DICOM_UNREADABLE, f"{path} stores {stored} of {allocated} bits in an unknown way; convert it"
        )
    if (int(dataset.Rows), int(dataset.Columns)) != size or dataset.SamplesPerPixel != 1:
        raise InputRefused(RefusalCode.DICOM_UNREADABLE, f"{path} changed while it was read")


def _convert(stored: NDArray[np.integer], dataset: Dataset, frame: FrameHeader, values: NDArray[np.float32]) -> None:
    """Writes the real values of one frame."""
    bits = 8 * stored.dtype.itemsize - int(dataset.BitsStored)
    # unused high bits may hold anything (PS3.5 section 8.1.1)
    clean = stored if bits == 0 else (stored << bits) >> bits
    if frame.rescale is None:
        values[...] = apply_modality_lut(clean, dataset)
    elif (frame.rescale.slope, frame.rescale.intercept) == (1.0, 0.0):
        values[...] = clean
    else:
        values[...] = clean * np.float64(frame.rescale.slope) + frame.rescale.intercept
    padding = _padding(stored, clean, dataset)
    if padding is not None:
        values[padding] = AIR.get(frame.instance.modality, 0.0)
    if not math.isfinite(float(values.sum(dtype=np.float64))):
        raise InputRefused(
            RefusalCode.NOT_FINITE, f"{frame.path} has infinite values after its rescale; export it again"
        )


def _padding(stored: NDArray[np.integer], clean: NDArray[np.integer], dataset: Dataset) -> NDArray[np.bool_] | None:
    """Finds the pixels without measurement; writers give their value with or without regard to sign and unused bits."""
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted(_as_stored(int(v), stored.dtype) for v in (value, value if limit in (None, "") else limit))
    bits = int(dataset.BitsStored)
    lowest = -(2 ** (bits - 1)) if dataset.PixelRepresentation else 0
    pixels = clean if lowest <= low and high < lowest + 2**bits else stored
    return (pixels >= low) & (pixels <= high)


def _as_stored(value: int, dtype: np.dtype[np.integer]) -> int:
    """Returns a value with the sign that the pixels have."""
    bits = 8 * dtype.itemsize
    value %= 2**bits
    return value - 2**bits if dtype.kind == "i" and value >= 2 ** (bits - 1) else value
