"""Masks as DICOM Segmentation for the PACS: each segment has its own name and code, whichever of them are there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.label_app.labels_in import read_labels
from convformer_monai.label_app.options import LabelOptions
from convformer_monai.outputs.dicom_seg import write_dicom_seg
from convformer_monai.readers import ImageSeries, read_series

__all__ = ["seg_of_result", "write_seg"]


def write_seg(path: Path, labels: NDArray[np.uint8], series: ImageSeries, options: LabelOptions) -> Path:
    """Writes a mask of a DICOM image as DICOM SEG; an empty one too, since "nothing there" is an answer.

    Args:
        path: ending in ``.dcm``.
        labels: ``(1, X, Y, Z)``; the values are the bundle's indices.
        series: the image, read from DICOM, of one phase.
        options: of the server.

    Raises:
        InputRefused: if the image has several phases, or cannot have a segmentation.
    """
    if len(labels) > 1:
        raise InputRefused(
            RefusalCode.SEVERAL_PHASES, f"{series.path.name} has {len(labels)} phases; a SEG here holds one"
        )
    written = write_dicom_seg(
        path,
        labels,
        series,
        options.labels,
        algorithm_name=options.bundle.name,
        algorithm_version=options.bundle.version,
        write_empty=True,
    )
    return written[0]


def seg_of_result(options: LabelOptions) -> Any:
    """Makes what stands in for ``nifti_to_dicom_seg`` of MONAI Label, which names segments by place among those found.

    Args:
        options: of the server.

    Returns:
        A function of the series' folder and the mask's file that returns the path of a DICOM SEG.
    """

    def convert(series_dir: str, label: str, label_info: Any = None, file_ext: str = "*", use_itk: bool = True) -> str:
        series = read_series(series_dir, phase="all")
        labels = read_labels(Path(label), series, options.labels)
        path = Path(tempfile.NamedTemporaryFile(suffix=".dcm").name)
        return str(write_seg(path, labels, series, options))

    return convert
