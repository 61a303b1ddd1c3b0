"""Label maps from DICOM Segmentation: ours, or what an annotator made of them; see `outputs.dicom_seg` too.

A segment is known by the code of what it is (segmented property type), then by its name; never by its number, which
every program gives in its own order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode, need_highdicom
from convformer_monai.readers.cases import is_dicom
from convformer_monai.readers.dicom.geometry import LPS_TO_RAS
from convformer_monai.readers.dicom.parsing import UNREADABLE, as_refusal, read_header, silent_pydicom
from convformer_monai.readers.memory import series_from
from convformer_monai.readers.series import ImageSeries
from convformer_monai.tasks.task import BACKGROUND, Label

if TYPE_CHECKING:
    from highdicom import Volume
    from highdicom.seg import Segmentation

__all__ = ["find_dicom_masks", "read_dicom_masks"]

SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # Segmentation, Label Map Segmentation
GRID_TOLERANCE = 0.01  # voxels between the phases


def find_dicom_masks(path: Path) -> list[Path]:
    """Returns the DICOM Segmentations that a path holds: itself, or those of a folder, not of its sub-folders."""
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    found = []
    with silent_pydicom:
        for file in files:
            if file.is_file() and is_dicom(file):
                dataset, _ = read_header(file, ("SOPClassUID",))
                if str(dataset.get("SOPClassUID", "")) in SEG_CLASSES:
                    found.append(file)
    return found


def read_dicom_masks(paths: Sequence[Path], table: Sequence[Label]) -> ImageSeries:
    """Reads the masks of one image: one segmentation, or one a phase, whose number is its InstanceNumber less 1.

    Segments that are not structures of the table are left out, with a warning. A segmentation stores only slices with
    something in them; an empty slice is put at either end, since nothing tells whether the image ended there.

    Args:
        paths: the files, not empty.
        table: the structures.

    Returns:
        A series whose image is the label map, (phases, X, Y, Z), its axes as of :func:`read_dicom`.

    Raises:
        InputRefused: ``NOT_A_MASK`` if there is no such label map in a file: no known structure, overlapping or
            fractional segments, slices of uneven spacing; ``SEVERAL_SERIES`` if the files are not one series;
            ``GRIDS_DIFFER`` if the phases do not lie on one grid; ``DICOM_UNREADABLE``; ``MISSING_PACKAGE``.
    """
    need_highdicom()
    from highdicom.seg import segread

    segmentations: dict[Path, Segmentation] = {}
    with silent_pydicom:
        for path in paths:
            with as_refusal(path):
                segmentations[path] = segread(path)
        where = paths[0] if len(paths) == 1 else paths[0].parent
        if len({one.SeriesInstanceUID for one in segmentations.values()}) > 1:
            raise InputRefused(
                RefusalCode.SEVERAL_SERIES, f"{where} holds several series of segmentations; give one file"
            )
        phases = [int(one.get("InstanceNumber") or 1) - 1 for one in segmentations.values()]
        if len(set(phases)) < len(phases):
            raise InputRefused(RefusalCode.GRIDS_DIFFER, f"{where} holds the same phase twice; give one file")
        order = np.argsort(phases)
        volumes, unknown = [], 0
        for path, segmentation in segmentations.items():
            volume, left_out = _label_map(path, segmentation, table)
            volumes.append(volume)
            unknown += left_out
    labels, affine = _on_one_grid([volumes[index] for index in order], where)
    series = series_from(MetaTensor(labels.astype(np.float32), affine=torch.from_numpy(LPS_TO_RAS @ affine)))
    warnings = (f"{unknown} segments are not structures of the bundle and were left out",) if unknown else ()
    numbers = tuple(phases[index] for index in order) if len(phases) > 1 else (0,)
    return replace(series, path=where, phases=numbers, warnings=warnings)


def _label_map(path: Path, segmentation: Segmentation, table: Sequence[Label]) -> tuple[Volume, int]:
    """Returns the label map of a segmentation, and how many of its segments are unknown."""
    by_code = {label.snomed: label.index for label in table if label.snomed}
    by_name = {name.lower(): label.index for label in table for name in (label.name, label.long_name)}
    labels = {}
    with as_refusal(path):
        for item in segmentation.SegmentSequence:
            code = str(item.SegmentedPropertyTypeCodeSequence[0].get("CodeValue"))
            index = by_code.get(code) or by_name.get(str(item.get("SegmentLabel")).lower())
            if index:
                labels[int(item.SegmentNumber)] = index
    if not labels:
        raise InputRefused(
            RefusalCode.NOT_A_MASK,
            f"{path} has no segment of {', '.join(label.long_name for label in table)}; see --bundle",
        )
    if len(set(labels.values())) < len(labels):
        raise InputRefused(RefusalCode.NOT_A_MASK, f"{path} has several segments of one structure; merge them")
    try:
        volume = segmentation.get_volume(segment_numbers=sorted(labels), combine_segments=True, dtype=np.uint8)
    except UNREADABLE as error:
        raise InputRefused(
            RefusalCode.NOT_A_MASK,
            f"{path} is not a label map of even, upright slices (overlapping or fractional segments, uneven or tilted "
            "slices); give the mask as NIfTI",
        ) from error
    renamed = np.zeros_like(volume.array)
    for number, index in labels.items():
        renamed[volume.array == number] = index
    numbers = {int(item.SegmentNumber) for item in segmentation.SegmentSequence} - {BACKGROUND.index}
    along_normal = volume.with_array(renamed).ensure_handedness("LEFT_HANDED", flip_axis=0)
    return along_normal, len(numbers - set(labels))


def _on_one_grid(volumes: Sequence[Volume], where: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Puts the phases on the slices that any of them has, and an empty one at either end.

    Args:
        volumes: (slices, rows, columns), the slices along their normal.
        where: named in the refusal.

    Returns:
        (phases, X, Y, Z), and the affine from their index to LPS mm.
    """
    first = volumes[0]
    starts = []
    for volume in volumes:
        between = np.linalg.inv(first.affine) @ volume.affine  # from the indices of one to those of the first
        start = int(round(between[0, 3]))
        expected = np.eye(4)
        expected[0, 3] = start
        if volume.shape[1:] != first.shape[1:] or not np.allclose(
            between, expected, atol=GRID_TOLERANCE * first.shape[1]
        ):
            raise InputRefused(RefusalCode.GRIDS_DIFFER, f"{where}: the phases lie on different grids; give one file")
        starts.append(start)
    begin = min(starts) - 1
    end = max(start + volume.shape[0] for start, volume in zip(starts, volumes, strict=True)) + 1
    labels = np.zeros((len(volumes), end - begin, *first.shape[1:]), np.uint8)
    for phase, (start, volume) in enumerate(zip(starts, volumes, strict=True)):
        labels[phase, start - begin : start - begin + volume.shape[0]] = volume.array
    shift = np.eye(4)
    shift[0, 3] = begin
    affine = first.affine @ shift
    return labels.transpose(0, 3, 2, 1), affine[:, [2, 1, 0, 3]]
