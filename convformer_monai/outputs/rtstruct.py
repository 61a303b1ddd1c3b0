"""Masks as DICOM RT Structure Sets (PS3.3 A.19): contours in patient coordinates, as radiotherapy programs take them.

Each structure is a region of interest whose contours lie on the very slices that were segmented. Holes are reached
through a keyhole; see :mod:`convformer_monai.outputs.polygons`. The same mask of the same images by the same bundle
gives the same file: its identifiers come of them, and it states no time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convformer_monai import __version__
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs.atomic import AtomicFiles, transaction
from convformer_monai.outputs.dicom_seg import (
    MANUFACTURER,
    NO_SERIAL_NUMBER,
    on_frames,
    phase_path,
    write_dataset,
)
from convformer_monai.outputs.dicom_sources import REQUIRED_EMPTY, DicomWriter, check_sources, source_headers
from convformer_monai.outputs.dicom_uids import MakeUid, derived_uids, seeded_uids
from convformer_monai.outputs.polygons import outlines
from convformer_monai.outputs.writer import Options, Result, path_for, register_writer
from convformer_monai.tasks.task import ANATOMICAL, Label

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from convformer_monai.readers.series import Frame, ImageSeries

__all__ = ["rt_structure_set", "write_rt_structure_set"]

SERIES_NUMBER = 303
DIGITS = 3  # of mm
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management (retired), which PS3.3 C.8.8.5 still asks for


class RtStructWriter(DicomWriter):
    """``x_rtstruct.dcm``, of a cine ``x_rtstruct_phase00.dcm``, ..."""

    name = "dicom-rtstruct"
    suffixes = ("_rtstruct.dcm", "_rtstruct_phase*.dcm")
    order = 75

    def check(self, options: Options) -> None:
        """Refuses nothing: pydicom writes it, which is always there."""

    def check_image(self, series: ImageSeries) -> None:
        """Refuses what is not DICOM, has no place in the patient, or is without the identifiers."""
        _check_is_volume(series)
        super().check_image(series)

    def write(self, base: Path, result: Result, files: AtomicFiles) -> list[Path]:
        """Stages the structure sets."""
        return write_rt_structure_set(
            path_for(base, self.suffixes[0]),
            result.labels,
            result.series,
            result.bundle.labels,
            algorithm_name=result.bundle.name,
            algorithm_version=result.bundle.version,
            uids=derived_uids(result),
            files=files,
        )


def write_rt_structure_set(
    path: Path,
    labels: NDArray[np.uint8],
    series: ImageSeries,
    label_table: Sequence[Label],
    *,
    algorithm_name: str = "convformer_monai",
    algorithm_version: str = __version__,
    uids: MakeUid | None = None,
    overwrite: bool = False,
    files: AtomicFiles | None = None,
) -> list[Path]:
    """Writes a mask as RT Structure Set, one instance a phase; several bear the phase's number in their names.

    The files hold the patient's identifiers, as the standard wants.

    Args:
        path: where, ending in ``.dcm``.
        labels: see :func:`rt_structure_set`.
        series: what was segmented.
        label_table: see :func:`rt_structure_set`.
        algorithm_name: name of the bundle.
        algorithm_version: its version.
        uids: see :func:`rt_structure_set`.
        overwrite: replace files that exist.
        files: transaction to join; its own ``overwrite`` holds then.

    Returns:
        The paths, in the order of the phases; none of an empty mask.

    Raises:
        ValueError: as :func:`rt_structure_set`, or if the name does not end in ``.dcm``.
        InputRefused: as :func:`rt_structure_set`, and ``EXISTS`` or ``CANNOT_WRITE``; nothing is left behind then.
    """
    if path.suffix.lower() != ".dcm":
        raise ValueError(f"path must end in .dcm, got {path.name!r}")
    made = rt_structure_set(
        labels, series, label_table, algorithm_name=algorithm_name, algorithm_version=algorithm_version, uids=uids
    )
    written = []
    with transaction(files, overwrite) as files:
        for phase, dataset in made.items():
            target = phase_path(path, series, phase)
            write_dataset(files, target, dataset)
            written.append(target)
    return written


def rt_structure_set(
    labels: NDArray[np.uint8],
    series: ImageSeries,
    label_table: Sequence[Label],
    *,
    algorithm_name: str = "convformer_monai",
    algorithm_version: str = __version__,
    uids: MakeUid | None = None,
) -> dict[int, Dataset]:
    """Makes RT Structure Sets of a mask, one a phase, all of one new series.

    A structure's number is its label. Structures that were not found have no contours; phases in which nothing was
    found are left out.

    Args:
        labels: (phases, X, Y, Z) uint8.
        series: what was segmented, read from DICOM.
        label_table: the structures, with indices 1, 2, ...
        algorithm_name: name of the bundle.
        algorithm_version: its version.
        uids: makes the UIDs of series and instances; ``None`` for those that follow from sources, mask and program.

    Returns:
        The datasets by phase of the source.

    Raises:
        ValueError: if the labels have not the shape of the series.
        InputRefused: ``NOT_DICOM``, ``WRONG_KIND`` of a photograph, ``SOURCE_CHANGED``, ``NO_FRAME_OF_REFERENCE``,
            ``NO_SOP_UIDS``.
    """
    from convformer_monai.readers.dicom.parsing import silent_pydicom

    series.check_grid(labels)
    _check_is_volume(series)
    check_sources(series, spatial=True)
    made: dict[int, Dataset] = {}
    with silent_pydicom:  # its warnings quote the patient's name
        headers = source_headers(series)
        names = [frame.sop_instance_uid for frames in series.frames for frame in frames]
        mask = hashlib.sha256(labels.tobytes()).hexdigest()
        uids = uids or seeded_uids(*names, mask, algorithm_name, algorithm_version)
        for index, (phase, frames) in enumerate(zip(series.phases, series.frames, strict=True)):
            planes = on_frames(labels[index], series, frames)
            if planes.any():
                dataset = _identified(headers[frames[0].sop_instance_uid], uids, phase)
                _describe(dataset, frames, headers, label_table, algorithm_name, algorithm_version)
                dataset.ROIContourSequence = [_contours(label, planes, frames, series.affine) for label in label_table]
                made[phase] = dataset
    return made


def _check_is_volume(series: ImageSeries) -> None:
    if series.is_photo:
        raise InputRefused(
            RefusalCode.WRONG_KIND,
            f"{series.path.name} is a photograph, which has no place in the patient: no RT Structure Set; write PNG",
        )


def _identified(header: Dataset, uids: MakeUid, phase: int) -> Dataset:
    """A new instance of the source's patient and study, without contents."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ImplicitVRLittleEndian, RTStructureSetStorage

    dataset = Dataset()
    for keyword in ("SpecificCharacterSet", *REQUIRED_EMPTY, "StudyInstanceUID"):
        if keyword in header:
            setattr(dataset, keyword, header.get(keyword))
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = UID(uids("structure set", str(phase)))
    dataset.SeriesInstanceUID = UID(uids("structure set series"))
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesNumber = SERIES_NUMBER
    dataset.InstanceNumber = phase + 1
    # Explicit VR has no room for more than 64 kB of coordinates in one contour.
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.preamble = b"\0" * 128
    return dataset


def _describe(
    dataset: Dataset,
    frames: Sequence[Frame],
    headers: Mapping[str, Dataset],
    label_table: Sequence[Label],
    name: str,
    version: str,
) -> None:
    """Adds who made it, what it refers to, and the structures."""
    first = headers[frames[0].sop_instance_uid]
    reference = first.FrameOfReferenceUID
    dataset.SeriesDescription = f"Structures by {name}"[:64]
    dataset.OperatorsName = None
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = name[:64]
    dataset.DeviceSerialNumber = NO_SERIAL_NUMBER
    dataset.SoftwareVersions = version
    dataset.FrameOfReferenceUID = reference
    dataset.PositionReferenceIndicator = first.get("PositionReferenceIndicator")
    dataset.StructureSetLabel = "STRUCTURES"
    dataset.StructureSetName = name[:64]
    dataset.StructureSetDate = dataset.StructureSetTime = None
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_references(reference, frames, headers)]
    dataset.StructureSetROISequence = [_region(label, reference, name) for label in label_table]
    dataset.RTROIObservationsSequence = [_observation(label) for label in label_table]


def _references(reference: str, frames: Sequence[Frame], headers: Mapping[str, Dataset]) -> Dataset:
    """The frame of reference with study, series and images (PS3.3 table C.8-41)."""
    by_series: dict[str, list[Dataset]] = {}
    for frame in frames:
        by_series.setdefault(str(headers[frame.sop_instance_uid].SeriesInstanceUID), []).append(_image(frame))
    series = [_item(SeriesInstanceUID=uid, ContourImageSequence=images) for uid, images in by_series.items()]
    study = _item(
        ReferencedSOPClassUID=STUDY_CLASS,
        ReferencedSOPInstanceUID=headers[frames[0].sop_instance_uid].StudyInstanceUID,
        RTReferencedSeriesSequence=series,
    )
    return _item(FrameOfReferenceUID=reference, RTReferencedStudySequence=[study])


def _region(label: Label, reference: str, name: str) -> Dataset:
    return _item(
        ROINumber=label.index,
        ReferencedFrameOfReferenceUID=reference,
        ROIName=label.name[:64],
        ROIDescription=label.long_name[:1024],
        ROIGenerationAlgorithm="AUTOMATIC",
        ROIGenerationDescription=name[:64],
    )


def _observation(label: Label) -> Dataset:
    """What a structure is; an organ, or of no type that radiotherapy knows."""
    item = _item(
        ObservationNumber=label.index,
        ReferencedROINumber=label.index,
        ROIObservationLabel=label.name[:16],
        RTROIInterpretedType="ORGAN" if label.category == ANATOMICAL else None,
        ROIInterpreter=None,
    )
    if label.type is not None:
        code = _item(
            CodeValue=label.type.value, CodingSchemeDesignator=label.type.scheme, CodeMeaning=label.type.meaning[:64]
        )
        item.RTROIIdentificationCodeSequence = [code]
    return item


def _contours(label: Label, planes: NDArray[np.uint8], frames: Sequence[Frame], affine: NDArray[np.float64]) -> Dataset:
    """The contours of a structure: (frames, rows, columns), in patient coordinates."""
    item = _item(ROIDisplayColor=list(label.colour), ReferencedROINumber=label.index)
    to_lps = affine[:3, :2] * np.array([-1.0, -1.0, 1.0])[:, None]  # mm from column to column, and from row to row
    contours: list[Dataset] = []
    for plane, frame in zip(planes, frames, strict=True):
        for line in outlines(plane == label.index):
            points = np.asarray(frame.position) + line[:, ::-1] @ to_lps.T
            values = [f"{value:.{DIGITS}f}" for value in np.round(points, DIGITS).ravel() + 0.0]  # no -0
            contours.append(
                _item(
                    ContourImageSequence=[_image(frame)],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(points),
                    ContourNumber=len(contours) + 1,
                    ContourData=values,
                )
            )
    if contours:
        item.ContourSequence = contours
    return item


def _image(frame: Frame) -> Dataset:
    item = _item(ReferencedSOPClassUID=frame.sop_class_uid, ReferencedSOPInstanceUID=frame.sop_instance_uid)
    if frame.number is not None:
        item.ReferencedFrameNumber = frame.number
    return item


def _item(**values: Any) -> Dataset:
    """A dataset of elements by their keywords."""
    from pydicom.dataset import Dataset

    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


register_writer(RtStructWriter())
