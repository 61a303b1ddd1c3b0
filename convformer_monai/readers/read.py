"""Any image in: the one entry that finds the right reader, and the same as a MONAI image reader."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import ensure_tuple
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.cases import (
    ITK_SUFFIXES,
    NIFTI_SUFFIXES,
    PHOTO_SUFFIXES,
    is_dicom,
    is_dicom_photo,
    is_named_dicom,
    refuse_no_file,
)
from convformer_monai.readers.dicom import read_dicom
from convformer_monai.readers.itk_formats import read_itk
from convformer_monai.readers.nifti import read_nifti
from convformer_monai.readers.phases import chosen_phases
from convformer_monai.readers.photo import read_photo
from convformer_monai.readers.series import ImageSeries

__all__ = ["SeriesReader", "read_series"]

logger = logging.getLogger(__name__)
# MONAI's LoadImage makes every reader that it knows, and this one, for GPUs, warns each time of a missing decoder.
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")


def _to_debug(record: logging.LogRecord) -> bool:
    logger.debug("%s", record.getMessage())
    return False


logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").addFilter(_to_debug)


def read_series(
    path: PathLike,
    *,
    series_uid: str | None = None,
    phase: int | str | None = None,
    modality: str | Sequence[str] | None = None,
    resample_uneven: bool = False,
) -> ImageSeries:
    """Reads one image of any kind, strictly.

    Args:
        path: a NIfTI, NRRD, MetaImage, DICOM or photograph file, or a folder of DICOM files.
        series_uid: which DICOM series of the folder; needed where it holds several.
        phase: 0-based phase of a cine, or ``"all"``; ``None`` takes the only one, and refuses if there are more.
        modality: DICOM modality, or several, that the image must have; ``None`` takes any. Formats that tell no
            modality are not held to it.
        resample_uneven: resample slices of uneven spacing instead of refusing them.

    Returns:
        The image, with its geometry and where it came from.

    Raises:
        InputRefused: if there is no image, or it cannot be trusted.
        ValueError: if an argument is wrong.
    """
    where = Path(path).expanduser()
    if not (where.is_file() or where.is_dir()):
        refuse_no_file(where, "give a file or a folder of DICOM files")
    name = where.name.lower()
    if where.is_dir() or ((is_dicom(where) or is_named_dicom(where)) and not is_dicom_photo(where)):
        return read_dicom(where, series_uid=series_uid, phase=phase, modality=modality, resample_uneven=resample_uneven)
    if series_uid is not None:
        raise InputRefused(
            RefusalCode.NOT_DICOM, f"{where} is not a DICOM series, so none can be chosen; leave --series-uid out"
        )
    if name.endswith(NIFTI_SUFFIXES):
        return read_nifti(where, phase=phase)
    if name.endswith(ITK_SUFFIXES):
        return read_itk(where, phase=phase)
    chosen_phases(phase, 1, where)
    try:
        return read_photo(where)
    except InputRefused as refusal:
        if refusal.code == RefusalCode.NOT_PHOTO and not name.endswith(PHOTO_SUFFIXES):
            message = f"{where} is not an image (DICOM, NIfTI, NRRD, MetaImage or photograph); give another file"
            raise InputRefused(RefusalCode.NOT_AN_IMAGE, message) from None
        raise


class SeriesReader(ImageReader):
    """Reads whatever :func:`read_series` reads; for ``LoadImage(reader=...)`` and the bundles' configs.

    All work and every check is in :meth:`get_data`: when :meth:`read` fails, MONAI's ``LoadImage`` silently tries other
    readers, which accept what is refused here.

    Args:
        series_uid: see :func:`read_series`.
        phase: see :func:`read_series`; here every phase by default.
        modality: see :func:`read_series`.
        resample_uneven: see :func:`read_series`.
    """

    def __init__(
        self,
        series_uid: str | None = None,
        phase: int | str | None = "all",
        modality: str | Sequence[str] | None = None,
        resample_uneven: bool = False,
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "series_uid": series_uid,
            "phase": phase,
            "modality": modality,
            "resample_uneven": resample_uneven,
        }

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Takes every name; the content decides."""
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Path | list[Path]:
        """Only notes the path; see the class for the reason."""
        paths = [Path(name) for name in ensure_tuple(data)]
        return paths[0] if len(paths) == 1 else paths

    def get_data(self, img: Path | Sequence[Path]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Reads and checks the image.

        Args:
            img: what :meth:`read` returned.

        Returns:
            Float32 (X, Y, Z), of several phases (X, Y, Z, T), of a photograph (X, Y, 3) uint8; and the metadata.

        Raises:
            InputRefused: if it cannot be trusted.
        """
        if not isinstance(img, Path):
            raise InputRefused(
                RefusalCode.SEVERAL_FILES, "expected one file or folder for one image, got a list of files"
            )
        series = read_series(img, **self.options)
        for warning in series.warnings:
            logger.warning("%s", warning)
        channels = series.image.numpy()
        meta = {**series.image.meta, "original_channel_dim": -1}
        if channels.shape[0] > 1:
            return np.moveaxis(channels, 0, -1), meta
        return channels[0], {**meta, "original_channel_dim": "no_channel"}
