"""Datasets to files, in any transfer syntax that something here can encode."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGLosslessSV1

__all__ = ["NAME", "save_dataset", "save_series"]

NAME = "{:04d}.dcm"  # of a file, by its number in the series


def save_series(
    datasets: Iterable[Dataset],
    folder: str | Path,
    *,
    transfer_syntax: UID = ExplicitVRLittleEndian,
    name: str = NAME,
) -> list[Path]:
    """Writes datasets to a folder, numbered in the order given.

    Args:
        datasets: of :func:`classic_series` and its like; they are left as they are.
        folder: where to; made if missing.
        transfer_syntax: native, or one of RLE, JPEG lossless (process 14 SV1), JPEG-LS and JPEG 2000 lossless.
        name: of the files; the braces become the number, from 1.

    Returns:
        The paths.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(datasets, start=1):
        paths.append(save_dataset(dataset, target / name.format(number), transfer_syntax=transfer_syntax))
    return paths


def save_dataset(dataset: Dataset, path: str | Path, *, transfer_syntax: UID = ExplicitVRLittleEndian) -> Path:
    """Writes one dataset as a DICOM file (PS3.10).

    Args:
        dataset: it is left as it is.
        path: where to.
        transfer_syntax: as in :func:`save_series`; a dataset that is encoded already keeps its own.

    Raises:
        NotImplementedError: if nothing here encodes the transfer syntax.
    """
    copy = deepcopy(dataset)
    is_encoded = dataset.file_meta.TransferSyntaxUID.is_encapsulated
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if is_encoded:
        copy.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    elif not transfer_syntax.is_encapsulated:
        if transfer_syntax == ExplicitVRBigEndian and "PixelData" in copy and copy.BitsAllocated == 16:
            copy.PixelData = np.frombuffer(copy.PixelData, dtype="<u2").astype(">u2").tobytes()
        copy.file_meta.TransferSyntaxUID = transfer_syntax
    elif transfer_syntax == JPEGLosslessSV1:
        _compress_by_gdcm(copy)
    else:
        copy.compress(transfer_syntax, generate_instance_uid=False)
    copy.save_as(path, enforce_file_format=True)
    return Path(path)


def _compress_by_gdcm(dataset: Dataset) -> None:
    """JPEG lossless: pydicom has no encoder for it, SimpleITK's GDCM has."""
    import SimpleITK as sitk  # heavy, and needed for this one syntax only

    kind = np.dtype("<i2" if dataset.PixelRepresentation else "<u2")
    frames = np.frombuffer(dataset.PixelData, dtype=kind).reshape(-1, dataset.Rows, dataset.Columns)
    encoded = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        for frame in frames:
            writer = sitk.ImageFileWriter()
            writer.SetImageIO("GDCMImageIO")
            writer.UseCompressionOn()
            writer.SetCompressor("JPEG")
            writer.SetFileName(str(path))
            writer.Execute(sitk.GetImageFromArray(frame))
            written = dcmread(path)
            assert written.file_meta.TransferSyntaxUID == JPEGLosslessSV1, written.file_meta.TransferSyntaxUID
            encoded.append(next(generate_frames(written.PixelData, number_of_frames=1)))
    dataset.PixelData = encapsulate(encoded)
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
