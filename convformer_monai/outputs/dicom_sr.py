"""Measurements as DICOM Structured Report, template TID 1500 "Measurement Report" (PS3.16), by highdicom."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convformer_monai import __version__
from convformer_monai.errors import InputRefused, RefusalCode, need_highdicom
from convformer_monai.measurements.values import SIGNIFICANT_DIGITS, Measurement, Measurements
from convformer_monai.outputs.atomic import AtomicFiles, transaction
from convformer_monai.outputs.dicom_seg import MANUFACTURER, PRIVATE_SCHEME, concept, write_dataset
from convformer_monai.outputs.dicom_sources import DicomWriter, source_headers
from convformer_monai.outputs.dicom_uids import MakeUid, derived_uids, random_uids
from convformer_monai.outputs.writer import Result, path_for, register_writer
from convformer_monai.tasks.task import Code, Label

if TYPE_CHECKING:
    from highdicom.sr import EnhancedSR, ObservationContext, ReferencedSegment
    from highdicom.sr import Measurement as SRMeasurement
    from pydicom.dataset import Dataset

    from convformer_monai.readers.series import ImageSeries

__all__ = ["dicom_sr", "write_dicom_sr"]


SERIES_NUMBER = 301
UNIT_MEANINGS = {"1": "no units", "%": "percent", "{pixel}": "pixels"}
# CID 100 "Quantitative Diagnostic Imaging Procedures"
PROCEDURES = {
    "CT": Code("LN", "25045-6", "CT unspecified body region"),
    "MR": Code("LN", "25056-3", "MRI unspecified body region"),
}
ANY_PROCEDURE = Code("SCT", "363679005", "Imaging procedure")


class DicomSrWriter(DicomWriter):
    """``x_sr.dcm``."""

    name = "dicom-sr"
    suffixes = ("_sr.dcm",)
    order = 70
    spatial = False

    def write(self, base: Path, result: Result, files: AtomicFiles) -> list[Path]:
        """Stages the report, which refers to the segmentations written before."""
        path = path_for(base, self.suffixes[0])
        segmentations = [file for file in result.written if file.suffix == ".dcm"]
        write_dicom_sr(
            path,
            result.measurements,
            result.series,
            segmentations,
            algorithm_version=result.bundle.version,
            uids=derived_uids(result),
            files=files,
        )
        return [path]


def write_dicom_sr(
    path: str | os.PathLike[str],
    measurements: Measurements,
    series: ImageSeries,
    segmentations: Sequence[str | os.PathLike[str]] = (),
    *,
    algorithm_version: str = __version__,
    uids: MakeUid = random_uids,
    overwrite: bool = False,
    files: AtomicFiles | None = None,
) -> Path:
    """Writes measurements as a DICOM Structured Report; see :func:`dicom_sr`.

    The file holds the patient's identifiers, as the standard wants.

    Args:
        path: where, ending in ``.dcm``.
        measurements: of one case.
        series: what was measured, read from DICOM.
        segmentations: paths of the case's DICOM SEG, which ``write_dicom_seg`` returned; they may be part of ``files``.
        algorithm_version: version of the bundle.
        uids: see :func:`dicom_sr`.
        overwrite: replace a file that exists.
        files: transaction to join; its own ``overwrite`` holds then.

    Returns:
        The path.

    Raises:
        ValueError: as :func:`dicom_sr`, or if the name does not end in ``.dcm``.
        InputRefused: as :func:`dicom_sr`, and ``EXISTS`` or ``CANNOT_WRITE``; nothing is left behind then.
    """
    from pydicom import dcmread

    from convformer_monai.readers.dicom.parsing import silent_pydicom

    target = Path(path)
    if target.suffix.lower() != ".dcm":
        raise ValueError(f"path must end in .dcm, got {target.name!r}")
    with transaction(files, overwrite) as files:
        with silent_pydicom:
            headers = [dcmread(files.where(one), stop_before_pixels=True) for one in segmentations]
        report = dicom_sr(measurements, series, headers, algorithm_version=algorithm_version, uids=uids)
        write_dataset(files, target, report)
    return target


def dicom_sr(
    measurements: Measurements,
    series: ImageSeries,
    segmentations: Sequence[Dataset] = (),
    *,
    algorithm_version: str = __version__,
    uids: MakeUid = random_uids,
) -> EnhancedSR:
    """Makes a TID 1500 report of measurements.

    Those of one structure and phase form a group that refers to its segment (TID 1411; of a photograph TID 1410). Those
    of no structure, of several phases, or of a phase without DICOM SEG form groups without a segment (TID 1501), which
    name all segmentations as their sources. A measurement without a code of its own gets one of the private scheme
    ``99CONVFORMER``: its name. Undefined measurements are left out.

    Args:
        measurements: of one case.
        series: what was measured, read from DICOM.
        segmentations: its DICOM SEG, one a phase, made by ``dicom_seg`` or read from its files; phases may be missing.
        algorithm_version: version of the bundle.
        uids: makes the UIDs of series and instance, and of tracked structures that have no segment.

    Raises:
        ValueError: if a measurement is of a structure that is not in the table.
        InputRefused: ``NOT_DICOM`` if the series was not read from DICOM, ``SOURCE_CHANGED`` if its files are no longer
            what was read, ``MISSING_PACKAGE`` without highdicom.
    """
    if not series.frames:
        raise InputRefused(
            RefusalCode.NOT_DICOM, f"{series.path.name} is not DICOM, and only DICOM gets DICOM results; write JSON"
        )
    need_highdicom()
    from highdicom.sr import EnhancedSR, MeasurementReport

    from convformer_monai.readers.dicom.parsing import silent_pydicom

    by_phase = {int(segmentation.InstanceNumber) - 1: segmentation for segmentation in segmentations}
    labels = {label.index: label for label in measurements.labels}
    report = MeasurementReport(
        observation_context=_observer(measurements.bundle, algorithm_version),
        procedure_reported=concept(PROCEDURES.get(series.modality or "", ANY_PROCEDURE)),
        imaging_measurements=[
            _group(
                labels.get(structure) if structure is not None else None, phase, items, by_phase, series.is_photo, uids
            )
            for (structure, phase), items in _grouped(measurements, series).items()
        ],
    )
    with silent_pydicom:  # its warnings quote the patient's name
        return EnhancedSR(
            evidence=[*segmentations, *source_headers(series).values()],
            content=report,
            series_instance_uid=uids("report series"),
            series_number=SERIES_NUMBER,
            sop_instance_uid=uids("report"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            is_complete=True,
            manufacturer_model_name=measurements.bundle,
            software_versions=algorithm_version,
            series_description=f"Measurements by {measurements.bundle}"[:64],
        )


def _grouped(measurements: Measurements, series: ImageSeries) -> dict[tuple[int | None, int | None], list[Measurement]]:
    """Returns the defined measurements by structure and phase, in their order.

    Raises:
        ValueError: if one is of an unknown structure.
    """
    known = [None, *(label.index for label in measurements.labels)]
    only_phase = series.phases[0] if len(series.phases) == 1 else None
    groups: dict[tuple[int | None, int | None], list[Measurement]] = {}
    for item in measurements.items:
        if item.structure not in known:
            raise ValueError(
                f"measurements: {item.name} must be of one of the structures {known}, got {item.structure}"
            )
        if item.value is not None and math.isfinite(item.value):
            phase = only_phase if item.phase is None else item.phase
            groups.setdefault((item.structure, phase), []).append(item)
    return groups


def _group(
    label: Label | None,
    phase: int | None,
    items: Sequence[Measurement],
    by_phase: Mapping[int, Dataset],
    photo: bool,
    uids: MakeUid,
) -> Any:
    """Makes the measurement group of one structure and phase."""
    from highdicom.sr import (
        FindingSite,
        MeasurementsAndQualitativeEvaluations,
        PlanarROIMeasurementsAndQualitativeEvaluations,
        ReferencedSegmentationFrame,
        SourceImageForMeasurementGroup,
        TrackingIdentifier,
        VolumetricROIMeasurementsAndQualitativeEvaluations,
    )

    common: dict[str, Any] = {
        "tracking_identifier": TrackingIdentifier(*_tracking(label, by_phase.values(), uids)),
        "finding_type": concept(label.type) if label and label.type else None,
        "finding_category": concept(label.category) if label and label.category else None,
        "finding_sites": [FindingSite(concept(label.region))] if label and label.region else None,
        "measurements": [_measurement(item) for item in items],
    }
    segmentation = None if phase is None else by_phase.get(phase)
    if label is None or segmentation is None:
        sources = [SourceImageForMeasurementGroup(one.SOPClassUID, one.SOPInstanceUID) for one in by_phase.values()]
        return MeasurementsAndQualitativeEvaluations(**common, source_images=sources or None)
    if photo:
        frame = ReferencedSegmentationFrame(
            segmentation.SOPClassUID,
            segmentation.SOPInstanceUID,
            frame_number=1,
            segment_number=label.index,
            source_image=_source_images(segmentation)[0],
        )
        del frame[0].ReferencedSOPSequence[0].ReferencedSegmentNumber  # not beside a frame number (PS3.3 table 10-3)
        return PlanarROIMeasurementsAndQualitativeEvaluations(**common, referenced_segment=frame)
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        **common, referenced_segment=_segment(segmentation, label.index)
    )


def _segment(segmentation: Dataset, number: int) -> ReferencedSegment:
    """Refers to a segment and to what it was made from: the series, or the images if they are of several series."""
    from highdicom.sr import ReferencedSegment, SourceSeriesForSegmentation

    series = segmentation.ReferencedSeriesSequence
    if len(series) > 1:
        source: dict[str, Any] = {"source_images": _source_images(segmentation)}
    else:
        source = {"source_series": SourceSeriesForSegmentation(series[0].SeriesInstanceUID)}
    return ReferencedSegment(segmentation.SOPClassUID, segmentation.SOPInstanceUID, number, **source)


def _source_images(segmentation: Dataset) -> list[Any]:
    from highdicom.sr import SourceImageForSegmentation

    return [
        SourceImageForSegmentation(source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID)
        for source in segmentation.SourceImageSequence
    ]


def _tracking(label: Label | None, segmentations: Iterable[Dataset], uids: MakeUid) -> tuple[str, str]:
    """Returns UID and name under which a structure is tracked: those of its segment, if it has one."""
    for segmentation in segmentations:
        for segment in segmentation.SegmentSequence:
            if label is not None and segment.SegmentNumber == label.index:
                return segment.TrackingUID, segment.TrackingID
    name = label.name if label else "whole image"
    return uids("structure", name), name


def _measurement(item: Measurement) -> SRMeasurement:
    from highdicom.sr import Measurement as SRMeasurement

    name = item.code or Code(PRIVATE_SCHEME, item.name, item.title[:64])
    unit = Code("UCUM", item.unit, UNIT_MEANINGS.get(item.unit, item.unit))
    value = float(f"{item.value:.{SIGNIFICANT_DIGITS}g}")  # as in the JSON
    return SRMeasurement(name=concept(name), value=value, unit=concept(unit))


def _observer(name: str, version: str) -> ObservationContext:
    """Says that a program observed, and which (TID 1002, TID 1004)."""
    from highdicom.sr import DeviceObserverIdentifyingAttributes, ObservationContext, ObserverContext
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    device = DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[name, version]),  # the same program has the same UID
        name=name,
        manufacturer_name=MANUFACTURER,
        model_name=f"{name} {version}",
    )
    return ObservationContext(observer_device_context=ObserverContext(codes.DCM.Device, device))


register_writer(DicomSrWriter())
