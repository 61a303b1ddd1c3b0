"""Headers, classic or enhanced, become one record a frame: where it lies, when it was taken, what its values mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, time, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.valuerep import DT, TM

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.dicom.files import Instance
from convformer_monai.readers.dicom.parsing import as_refusal, silent_pydicom

__all__ = ["FrameHeader", "TIME_KEYS", "Rescale", "read_frames"]

# What may order the frames of one place in time, the best first; milliseconds but for percentage, index and instance.
TIME_KEYS = ("trigger", "percentage", "index", "offset", "acquired", "instance")
# What tells kinds of frames apart, as functional groups name it and as classic headers do (PS3.3 C.8.13.5, C.8.15.3).
KIND = (
    ("EffectiveEchoTime", "EchoTime"),
    ("ConvolutionKernel",),
    ("DiffusionBValue",),
    ("FrameType", "ImageType"),
    ("ComplexImageComponent",),
)


@dataclass(frozen=True)
class Rescale:
    """The linear modality LUT: value = slope * stored + intercept (PS3.3 C.7.6.16.2.9, C.11.1).

    Attributes:
        slope: units for each stored step.
        intercept: units at stored 0.
        units: RescaleType; empty if not stated.
    """

    slope: float = 1.0
    intercept: float = 0.0
    units: str = ""


@dataclass(frozen=True)
class FrameHeader:
    """One frame before its pixels are read.

    Attributes:
        instance: the file that it is in.
        number: 1-based frame number, ``None`` in a single-frame image.
        size: rows and columns.
        position: centre of the first pixel, LPS mm.
        orientation: direction of growing column index, then of growing row index, LPS.
        spacing: mm between rows, and between columns.
        thickness: distance to the next slice, or if not stated the slice's thickness, mm; ``None`` without either.
        rescale: from stored to real values; ``None`` where a lookup table says it.
        times: a value for each of ``TIME_KEYS`` that the header tells.
        kind: what must be equal in frames that differ by time only.
        phases_claimed: how many phases the header speaks of.
    """

    instance: Instance
    number: int | None
    size: tuple[int, int]
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: tuple[float, float]
    thickness: float | None
    rescale: Rescale | None
    times: dict[str, float]
    kind: tuple[str, ...]
    phases_claimed: int

    @property
    def path(self) -> Path:
        """The file."""
        return self.instance.path

    @property
    def name(self) -> str:
        """How to call it in a message."""
        return self.path.name if self.number is None else f"{self.path.name} frame {self.number}"


def read_frames(instance: Instance) -> list[FrameHeader]:
    """Makes the records of all frames of a file.

    Raises:
        InputRefused: if they have no trustworthy geometry or rescale.
    """
    with silent_pydicom, as_refusal(instance.path):
        header = instance.header
        if str(header.get("PhotometricInterpretation")).strip() not in ("MONOCHROME1", "MONOCHROME2") or (
            header.get("SamplesPerPixel") != 1
        ):
            raise InputRefused(RefusalCode.COLOUR, f"{instance.path} is in colour; give the slices in grey values")
        if instance.is_classic:
            if instance.frames != 1:
                raise InputRefused(
                    RefusalCode.NO_GEOMETRY, f"{instance.path} does not say where its frames lie; export it again"
                )
            return [_frame(instance, None, {"": header})]
        per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
        if len(per_frame) != instance.frames:
            raise InputRefused(
                RefusalCode.NO_GEOMETRY,
                f"{instance.path} has {instance.frames} frames but the place of {len(per_frame)}; export it again",
            )
        shared = _items((header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0])
        return [_frame(instance, k, {**shared, **_items(groups)}) for k, groups in enumerate(per_frame, start=1)]


def _items(groups: Dataset) -> dict[str, Dataset]:
    """Returns the functional groups by keyword (PS3.3 C.7.6.16.2); each has one item."""
    return {elem.keyword: elem.value[0] for elem in groups if elem.VR == "SQ" and elem.value}


def _frame(instance: Instance, number: int | None, groups: dict[str, Dataset]) -> FrameHeader:
    """Makes a record; a classic header is its own functional group, named ''."""
    header, path = instance.header, instance.path
    classic = groups.get("", Dataset())

    def group(keyword: str) -> Dataset:
        return groups.get(keyword, classic)

    measures = group("PixelMeasuresSequence")
    position = _vector(group("PlanePositionSequence"), "ImagePositionPatient", 3)
    orientation = _vector(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    if position is None or orientation is None:
        raise InputRefused(
            RefusalCode.NO_GEOMETRY, f"{path} has no position or orientation in the patient; export it again"
        )
    if not (np.isfinite(position).all() and np.isfinite(orientation).all()):
        raise InputRefused(
            RefusalCode.NOT_FINITE, f"{path} has a position or orientation that is not a number; export it again"
        )
    spacing = _vector(measures, "PixelSpacing", 2)
    if spacing is None:
        raise InputRefused(
            RefusalCode.NO_SPACING, f"{path} has no pixel spacing, so it cannot be measured; export it again"
        )
    thickness = _number(measures, "SpacingBetweenSlices") or _number(measures, "SliceThickness")
    return FrameHeader(
        instance=instance,
        number=number,
        size=instance.size,
        position=position,
        orientation=orientation,
        spacing=(float(spacing[0]), float(spacing[1])),
        thickness=thickness,
        rescale=_rescale(instance, group("PixelValueTransformationSequence")),
        times=_times(header, number, groups, classic),
        kind=_kind(header, groups),
        phases_claimed=int(_number(header, "CardiacNumberOfImages") or 1),
    )


def _kind(header: Dataset, groups: dict[str, Dataset]) -> tuple[str, ...]:
    """Returns the values of ``KIND``, of the functional groups where one has it, else of the header."""
    places = (*groups.values(), header)
    return tuple(
        next((str(place[keyword].value) for keyword in names for place in places if keyword in place), "")
        for names in KIND
    )


def _rescale(instance: Instance, group: Dataset) -> Rescale | None:
    """Returns the checked rescale; CT must have one, else its values are no Hounsfield units (PS3.3 C.8.2.1)."""
    if instance.header.get("ModalityLUTSequence"):
        return None
    slope, intercept = _number(group, "RescaleSlope"), _number(group, "RescaleIntercept")
    if slope is None and intercept is None and instance.modality != "CT":
        return Rescale()
    if slope is None or intercept is None:
        raise InputRefused(
            RefusalCode.RESCALE,
            f"{instance.path} has no rescale slope or intercept, so its values mean nothing; export it again",
        )
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise InputRefused(
            RefusalCode.RESCALE,
            f"{instance.path} has a rescale slope or intercept that is zero or no number; export it again",
        )
    return Rescale(slope, intercept, str(group.get("RescaleType") or "").strip().upper())


def _times(header: Dataset, number: int | None, groups: dict[str, Dataset], classic: Dataset) -> dict[str, float]:
    """Collects what tells when the frame was taken (PS3.3 C.7.6.18, C.7.6.16.2.2, C.7.6.16.2.7)."""
    cardiac = groups.get("CardiacSynchronizationSequence", classic)
    temporal = groups.get("TemporalPositionSequence", classic)
    content = groups.get("FrameContentSequence", classic)
    trigger = [_number(cardiac, k) for k in ("TriggerTime", "NominalCardiacTriggerDelayTime")]
    index = [_number(content, k) for k in ("TemporalPositionIdentifier", "TemporalPositionIndex")]
    offset = _number(temporal, "TemporalPositionTimeOffset")
    acquired = [_clock_ms(content, k) for k in ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime")]
    instance = _number(header, "InstanceNumber")
    found = {
        "trigger": _first(trigger),
        "percentage": _number(cardiac, "NominalPercentageOfCardiacPhase"),
        "index": _first(index),
        "offset": None if offset is None else 1000 * offset,
        "acquired": _first(acquired),
        "instance": None if instance is None else instance * 2.0**24 + (number or 0),
    }
    return {key: value for key, value in found.items() if value is not None and math.isfinite(value)}


def _first(values: list[float | None]) -> float | None:
    return next((value for value in values if value is not None), None)


def _number(dataset: Dataset, keyword: str) -> float | None:
    value = dataset.get(keyword)
    return None if value is None or value == "" else float(value)


def _vector(dataset: Dataset, keyword: str, length: int) -> NDArray[np.float64] | None:
    value = dataset.get(keyword)
    if value is None or isinstance(value, (str, float, int)) or len(value) != length:
        return None
    return np.array([float(v) for v in value], dtype=np.float64)


def _clock_ms(dataset: Dataset, keyword: str) -> float | None:
    """Returns a date and time, or time of the day, in milliseconds; ``None`` where it cannot be understood."""
    text = str(dataset.get(keyword) or "")
    if not text:
        return None
    try:
        moment: datetime | time | None = DT(text) if keyword.endswith("DateTime") else TM(text)
    except (ValueError, TypeError):
        return None
    if isinstance(moment, datetime):
        return 1000 * moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp()
    if moment is None:
        return None
    return 1000 * (3600 * moment.hour + 60 * moment.minute + moment.second) + moment.microsecond / 1000
