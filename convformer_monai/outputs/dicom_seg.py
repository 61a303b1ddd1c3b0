"""Masks as DICOM Segmentation (PS3.3 A.51), by highdicom, each frame on the very slice it was predicted from.

A slice of the mask goes to the source frame that :class:`ImageSeries` names for it, by SOP instance (and frame
number), with that frame's own position; nothing is flipped, sorted or resampled here. So tilted, uneven, oblique and
enhanced sources need no special care, and a mask of resampled slices comes back to the slices that were scanned.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convformer_monai import __version__
from convformer_monai.errors import InputRefused, RefusalCode, need_highdicom
from convformer_monai.outputs.atomic import AtomicFiles, transaction
from convformer_monai.outputs.dicom_sources import DicomWriter, as_slices, restore_references, source_headers
from convformer_monai.outputs.dicom_uids import MakeUid, derived_uids, random_uids
from convformer_monai.outputs.writer import Options, Result, path_for, register_writer
from convformer_monai.tasks.task import Code, Label

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.dataset import Dataset
    from pydicom.sr.coding import Code as SRCode

    from convformer_monai.readers.series import Frame, ImageSeries

__all__ = ["dicom_seg", "on_frames", "phase_path", "write_dataset", "write_dicom_seg"]

logger = logging.getLogger(__name__)

MANUFACTURER = "convformer_monai"
PRIVATE_SCHEME = "99CONVFORMER"
SERIES_NUMBER = 300
FRAME_TOLERANCE = 0.5  # pixels that a frame may lie off the place that the affine gives to its slice
NO_SERIAL_NUMBER = "none"  # type 1 in the standard, and software has none


class DicomSegWriter(DicomWriter):
    """``x_seg.dcm``, of a cine ``x_seg_phase00.dcm``, ...; a structured report refers to it, so that has it too."""

    name = "dicom-seg"
    suffixes = ("_seg.dcm", "_seg_phase*.dcm")
    order = 60

    def is_asked_for(self, options: Options) -> bool:
        """By its name, or by that of the report."""
        return bool({self.name, "dicom-sr"} & set(options.formats))

    def write(self, base: Path, result: Result, files: AtomicFiles) -> list[Path]:
        """Stages the segmentations."""
        return write_dicom_seg(
            path_for(base, self.suffixes[0]),
            result.labels,
            result.series,
            result.bundle.labels,
            kind=result.options.seg_type,
            algorithm_name=result.bundle.name,
            algorithm_version=result.bundle.version,
            uids=derived_uids(result),
            files=files,
        )


def write_dicom_seg(
    path: str | os.PathLike[str],
    labels: NDArray[np.uint8],
    series: ImageSeries,
    label_table: Sequence[Label],
    *,
    kind: str = "BINARY",
    algorithm_name: str = "convformer_monai",
    algorithm_version: str = __version__,
    write_empty: bool = False,
    uids: MakeUid = random_uids,
    overwrite: bool = False,
    files: AtomicFiles | None = None,
) -> list[Path]:
    """Writes a mask as DICOM SEG, one instance a phase.

    With several phases, the phase's number (0-based, as in :attr:`ImageSeries.phases`) goes into the name:
    ``x_seg.dcm`` becomes ``x_seg_phase00.dcm``, ``x_seg_phase01.dcm``, ... The files appear together or not at all.

    The files hold the patient's identifiers, as the standard wants.

    Args:
        path: where, ending in ``.dcm``.
        labels: see :func:`dicom_seg`.
        series: what was segmented.
        label_table: see :func:`dicom_seg`.
        kind: see :func:`dicom_seg`.
        algorithm_name: see :func:`dicom_seg`.
        algorithm_version: see :func:`dicom_seg`.
        write_empty: see :func:`dicom_seg`.
        uids: see :func:`dicom_seg`.
        overwrite: replace files that exist.
        files: transaction to join; its own ``overwrite`` holds then.

    Returns:
        The paths of the files, in the order of the phases; none for an empty mask.

    Raises:
        ValueError: as :func:`dicom_seg`, or if the name does not end in ``.dcm``.
        InputRefused: as :func:`dicom_seg`, and ``EXISTS`` or ``CANNOT_WRITE``; nothing is left behind then.
    """
    target = Path(path)
    if target.suffix.lower() != ".dcm":
        raise ValueError(f"path must end in .dcm, got {target.name!r}")
    segmentations = dicom_seg(
        labels,
        series,
        label_table,
        kind=kind,
        algorithm_name=algorithm_name,
        algorithm_version=algorithm_version,
        write_empty=write_empty,
        uids=uids,
    )
    written = []
    with transaction(files, overwrite) as files:
        for phase, segmentation in segmentations.items():
            path = phase_path(target, series, phase)
            write_dataset(files, path, segmentation)
            written.append(path)
    return written


def phase_path(target: Path, series: ImageSeries, phase: int) -> Path:
    """Returns the path of the file of a phase: with the phase's number in its name, if there are several.

    Args:
        target: path of the file of a single phase.
        series: what was segmented.
        phase: one of its phases.
    """
    digits = max(2, len(str(max(series.phases))))
    return (
        target if len(series.phases) == 1 else target.with_name(f"{target.stem}_phase{phase:0{digits}d}{target.suffix}")
    )


def dicom_seg(
    labels: NDArray[np.uint8],
    series: ImageSeries,
    label_table: Sequence[Label],
    *,
    kind: str = "BINARY",
    algorithm_name: str = "convformer_monai",
    algorithm_version: str = __version__,
    write_empty: bool = False,
    uids: MakeUid = random_uids,
) -> dict[int, Segmentation]:
    """Makes DICOM SEG datasets of a mask, one a phase, all of one new series.

    The phase of an instance is its InstanceNumber less 1. Every structure of the table becomes a segment, predicted or
    not, so that a segment's number is always its label; only frames with something in them are stored. Tracking
    identifiers are shared by the phases.

    Args:
        labels: (phases, X, Y, Z), or (X, Y) for a photograph.
        series: what was segmented, read from DICOM.
        label_table: the structures, with indices 1, 2, ...
        kind: ``BINARY``, which everybody reads, or ``LABELMAP`` (Supplement 243), one frame a slice, which few do yet.
        algorithm_name: name of the bundle.
        algorithm_version: its version.
        write_empty: also make segmentations without any structure, of all source frames; left out otherwise.
        uids: makes the UIDs of series, instances and tracked structures.

    Returns:
        The datasets by phase of the source (:attr:`ImageSeries.phases`).

    Raises:
        ValueError: if ``labels``, ``label_table`` or ``kind`` is not as said.
        InputRefused: ``NOT_DICOM`` if the series was not read from DICOM, ``SOURCE_CHANGED`` if its files are no longer
            what was read, ``NO_FRAME_OF_REFERENCE`` if they have no such UID, ``NO_SOP_UIDS``, and
            ``MISSING_PACKAGE`` without highdicom.
    """
    _check(labels, series, label_table, kind)
    need_highdicom()
    from highdicom.seg import Segmentation

    from convformer_monai.readers.dicom.parsing import silent_pydicom

    made: dict[int, Segmentation] = {}
    with silent_pydicom:  # its warnings quote the patient's name
        headers = source_headers(series)
        common: dict[str, Any] = {
            "segmentation_type": kind,
            "segment_descriptions": _descriptions(label_table, algorithm_name, algorithm_version, uids),
            "series_instance_uid": uids("segmentation series"),
            "series_number": SERIES_NUMBER,
            "series_description": f"Segmentation by {algorithm_name}"[:64],
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": algorithm_name,
            "software_versions": algorithm_version,
            "device_serial_number": NO_SERIAL_NUMBER,
            "content_label": "SEGMENTATION",
            "content_description": f"{algorithm_name} {algorithm_version}"[:64],
        }
        for index, (phase, frames) in enumerate(zip(series.phases, series.frames, strict=True)):
            pixels = on_frames(labels if series.is_photo else labels[index], series, frames)
            if not pixels.any() and not write_empty:
                logger.info("phase %d of %s: nothing segmented, so no DICOM SEG", phase, series.path.name)
                continue
            slices = as_slices(frames, headers, photo=series.is_photo)
            uid = uids("segmentation", str(phase))
            made[phase] = Segmentation(slices, pixels, sop_instance_uid=uid, instance_number=phase + 1, **common)
            made[phase].ContentCreatorName = None  # type 2, and nobody made it by hand
            restore_references(made[phase], frames, headers)
    return made


def write_dataset(files: AtomicFiles, path: Path, dataset: Dataset) -> None:
    """Writes a dataset as a DICOM file, read back and compared.

    Args:
        files: the open transaction.
        path: where.
        dataset: with its file meta information.
    """
    from convformer_monai.readers.dicom.parsing import silent_pydicom

    buffer = io.BytesIO()
    with silent_pydicom:
        dataset.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    files.write(path, lambda file: file.write_bytes(content), lambda file: file.read_bytes() == content)


def concept(code: Code) -> SRCode:
    """Returns a code as pydicom and highdicom have it."""
    from pydicom.sr.coding import Code as SRCode

    return SRCode(code.value, code.scheme, code.meaning)


def _check(labels: NDArray[np.uint8], series: ImageSeries, label_table: Sequence[Label], kind: str) -> None:
    """Refuses what cannot become a segmentation of this series."""
    if kind not in ("BINARY", "LABELMAP"):
        raise ValueError(f"kind must be BINARY or LABELMAP, got {kind!r}")
    indices = [label.index for label in label_table]
    if indices != list(range(1, len(indices) + 1)) or not indices:
        raise ValueError(f"label_table must have the indices 1, 2, ..., got {indices}")
    series.check_grid(labels)
    if labels.dtype != np.uint8:
        raise ValueError(f"labels must be uint8, got {labels.dtype}")
    if labels.max(initial=0) > len(indices):
        raise ValueError(f"labels must be 0 to {len(indices)}, as in label_table, got {int(labels.max())}")
    if not series.frames:
        raise InputRefused(
            RefusalCode.NOT_DICOM, f"{series.path.name} is not DICOM, and only DICOM gets DICOM results; write NIfTI"
        )


def on_frames(labels: NDArray[np.uint8], series: ImageSeries, frames: Sequence[Frame]) -> NDArray[np.uint8]:
    """Takes the slice of the mask that lies on each source frame.

    Args:
        labels: (X, Y, Z), or (X, Y) for a photograph.
        series: for its affine.
        frames: where to.

    Returns:
        (frames, rows, columns).
    """
    if series.is_photo:
        return np.ascontiguousarray(labels.T[None])
    affine, slices = series.affine, labels.shape[2]
    tolerance = FRAME_TOLERANCE * float(np.linalg.norm(affine[:3, :2], axis=0).min())
    chosen = []
    for frame in frames:
        centre = affine[:3, :3] @ (0.0, 0.0, frame.slice_index) + affine[:3, 3]
        off = float(np.linalg.norm(centre * (-1, -1, 1) - frame.position))  # RAS to LPS
        index = int(np.floor(frame.slice_index + 0.5))
        if off > tolerance or not 0 <= index < slices:
            raise ValueError(
                f"series: frame {frame.sop_instance_uid} lies {off:.2f} mm off slice {frame.slice_index:g}"
            )
        chosen.append(labels[:, :, index].T)
    return np.ascontiguousarray(np.stack(chosen))


def _descriptions(label_table: Sequence[Label], name: str, version: str, uids: MakeUid) -> list[SegmentDescription]:
    """Makes a segment of each structure."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    algorithm = AlgorithmIdentificationSequence(name=name, family=codes.DCM.ArtificialIntelligence, version=version)
    return [
        SegmentDescription(
            segment_number=label.index,
            segment_label=label.long_name[:64],
            segmented_property_category=concept(label.category or Code(PRIVATE_SCHEME, "structure", "Structure")),
            segmented_property_type=concept(label.type or Code(PRIVATE_SCHEME, label.name[:16], label.long_name[:64])),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            tracking_uid=uids("structure", label.name),
            tracking_id=label.name,
            anatomic_regions=[concept(label.region)] if label.region else None,
            display_color=CIELabColor.from_rgb(*label.colour),
        )
        for label in label_table
    ]


register_writer(DicomSegWriter())
