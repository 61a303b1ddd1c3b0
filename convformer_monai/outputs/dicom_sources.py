"""The headers of the source images, in the one form in which highdicom takes them all, and their references afterwards.

Highdicom wants the slices of one series with one orientation, or one multi-frame image with shared orientation, and
knows but some SOP classes. So each source frame, enhanced or not, is shown to it as a plain slice with a number for its
UID, and the references to these numbers become those to the true instances and frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convformer_monai.errors import InputRefused, RefusalCode, need_highdicom
from convformer_monai.outputs.writer import Options, Writer

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from convformer_monai.readers.series import Frame, ImageSeries

__all__ = [
    "DicomWriter",
    "as_slices",
    "check_sources",
    "references",
    "restore_references",
    "series_references",
    "source_headers",
]

# Type 2 of the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): highdicom copies them.
REQUIRED_EMPTY: tuple[str, ...] = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate")
REQUIRED_EMPTY += ("StudyTime", "AccessionNumber", "ReferringPhysicianName")
SEXES = ("M", "F", "O")  # all that PS3.3 C.7.1.1 knows
HOW_IDENTITY_WAS_REMOVED = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
UTF_8 = "ISO_IR 192"
EVEN_RTOL = 0.01
COPIED_GROUPS = (0x0008, 0x0010, 0x0012, 0x0020, 0x0028, 0x0040)  # of the elements that highdicom looks at
OVERRIDDEN: tuple[str, ...] = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)
OVERRIDDEN += ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
STAND_IN_ROOT = "0.0."  # of nobody
IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


class DicomWriter(Writer):
    """Writes a DICOM object that refers to the instances of the image.

    Attributes:
        spatial: see :func:`check_sources`.
    """

    on_request = True
    spatial = True

    def check(self, options: Options) -> None:
        """Refuses without highdicom."""
        need_highdicom()

    def check_image(self, series: ImageSeries) -> None:
        """Refuses what is not DICOM, or does not say what such an object must refer to."""
        check_sources(series, spatial=self.spatial)


def check_sources(series: ImageSeries, *, spatial: bool) -> None:
    """Refuses an image to which a DICOM result could not refer.

    Args:
        series: the image.
        spatial: the result has a place in the patient, so it needs the source's frame of reference.

    Raises:
        InputRefused: ``NOT_DICOM``, ``NO_SOP_UIDS``, ``NO_FRAME_OF_REFERENCE``, or ``SOURCE_CHANGED``.
    """
    if not series.frames:
        raise InputRefused(
            RefusalCode.NOT_DICOM, f"{series.path.name} is not DICOM, and only DICOM gets DICOM results; write NIfTI"
        )
    from convformer_monai.readers.dicom.parsing import silent_pydicom

    with silent_pydicom:
        headers = source_headers(series)
        if spatial and not series.is_photo:
            for frames in series.frames:
                _check_frame_of_reference(headers[frames[0].sop_instance_uid], frames[0])


def _check_frame_of_reference(header: Dataset, frame: Frame) -> None:
    if not header.get("FrameOfReferenceUID"):
        raise InputRefused(
            RefusalCode.NO_FRAME_OF_REFERENCE,
            f"{frame.path} has no FrameOfReferenceUID, so no DICOM SEG or RTSTRUCT can be made of it; write NIfTI",
        )


def source_headers(series: ImageSeries) -> dict[str, Dataset]:
    """Reads the headers of a series' files, without pixels.

    Args:
        series: read from DICOM.

    Returns:
        The headers by SOP instance UID.

    Raises:
        InputRefused: if a file is gone, ``SOURCE_CHANGED`` if it holds another instance than was read,
            ``NO_SOP_UIDS`` if it does not say which instance it is.
    """
    from convformer_monai.readers.dicom import source_datasets
    from convformer_monai.readers.dicom.parsing import silent_pydicom

    with silent_pydicom:  # its messages quote values
        headers = {}
        for header in source_datasets(series):
            missing = [keyword for keyword in IDENTIFIERS if not header.get(keyword)]
            if missing:
                raise InputRefused(
                    RefusalCode.NO_SOP_UIDS,
                    f"a file of {series.path.name} has no {' and no '.join(missing)}, to which a DICOM result must "
                    "refer; write NIfTI",
                )
            headers[str(header.SOPInstanceUID)] = header
        for frame in (frame for frames in series.frames for frame in frames):
            if frame.sop_instance_uid not in headers:
                raise InputRefused(
                    RefusalCode.SOURCE_CHANGED, f"{frame.path} is no longer the file that was read; run again"
                )
        for header in headers.values():
            _mend(header)
        return headers


def as_slices(frames: Sequence[Frame], headers: Mapping[str, Dataset], *, photo: bool = False) -> list[Dataset]:
    """Makes a plain slice of each frame, for highdicom; see the head of this file.

    Args:
        frames: of one phase.
        headers: of :func:`source_headers`.
        photo: they are photographs, which have no place in the patient.

    Raises:
        InputRefused: ``NO_FRAME_OF_REFERENCE`` if slices are without that UID, which a segmentation must have.
    """
    from pydicom.uid import CTImageStorage, VLPhotographicImageStorage

    first = headers[frames[0].sop_instance_uid]
    shared: dict[str, Any] = {} if photo else _plane(first, frames)
    if not photo:
        _check_frame_of_reference(first, frames[0])
    slices = []
    for number, frame in enumerate(frames, start=1):
        header = headers[frame.sop_instance_uid]
        stand_in = _top_level(header)
        stand_in.SOPClassUID = VLPhotographicImageStorage if photo else CTImageStorage
        stand_in.SOPInstanceUID = f"{STAND_IN_ROOT}{number}"
        stand_in.SeriesInstanceUID = first.SeriesInstanceUID
        if not photo:  # of photographs highdicom would write, and then not read, the mere pixel spacing
            stand_in.ImagePositionPatient = _decimals(frame.position)
            for keyword, value in shared.items():
                setattr(stand_in, keyword, value)
        slices.append(stand_in)
    return slices


def restore_references(segmentation: Dataset, frames: Sequence[Frame], headers: Mapping[str, Dataset]) -> None:
    """Makes a segmentation of :func:`as_slices` refer to the true sources.

    Args:
        segmentation: changed in place.
        frames: what the slices were made of.
        headers: of :func:`source_headers`.
    """
    stand_ins = {f"{STAND_IN_ROOT}{number}": frame for number, frame in enumerate(frames, start=1)}
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence", ()):
            for source in derivation.SourceImageSequence:
                frame = stand_ins.get(source.ReferencedSOPInstanceUID)
                if frame is None:  # done: the segments of a slice share the item
                    continue
                source.ReferencedSOPClassUID = frame.sop_class_uid
                source.ReferencedSOPInstanceUID = frame.sop_instance_uid
                if frame.number is not None:
                    source.ReferencedFrameNumber = frame.number
    if "PlaneOrientationSequence" not in segmentation.SharedFunctionalGroupsSequence[0]:  # then type 2C (C.7.6.1)
        segmentation.PatientOrientation = headers[frames[0].sop_instance_uid].get("PatientOrientation")
    used = [headers[uid] for uid in dict.fromkeys(frame.sop_instance_uid for frame in frames)]
    segmentation.SourceImageSequence = references(used)
    segmentation.ReferencedSeriesSequence = series_references(used)


def references(instances: Iterable[Dataset]) -> list[Dataset]:
    """Makes an item for each instance with its SOP class and instance UID (PS3.3 table 10-11)."""
    from pydicom.dataset import Dataset

    items = []
    for instance in instances:
        item = Dataset()
        item.ReferencedSOPClassUID = instance.SOPClassUID
        item.ReferencedSOPInstanceUID = instance.SOPInstanceUID
        items.append(item)
    return items


def series_references(instances: Iterable[Dataset]) -> list[Dataset]:
    """Makes an item for each series with its instances (Referenced Series Sequence, PS3.3 C.12.2)."""
    from pydicom.dataset import Dataset

    by_series: dict[str, list[Dataset]] = {}
    for instance in instances:
        by_series.setdefault(instance.SeriesInstanceUID, []).append(instance)
    items = []
    for uid, members in by_series.items():
        item = Dataset()
        item.SeriesInstanceUID = uid
        item.ReferencedInstanceSequence = references(members)
        items.append(item)
    return items


def _mend(header: Dataset) -> None:
    """Makes what results copy of patient and study such as the standard allows; values that it does not are emptied."""
    from pydicom.charset import python_encoding
    from pydicom.valuerep import DA, TM

    for keyword in REQUIRED_EMPTY:
        if keyword not in header:
            setattr(header, keyword, None)
    sets = header.get("SpecificCharacterSet") or UTF_8
    single = isinstance(sets, str) and sets in python_encoding and sets.startswith("ISO_IR") and sets != "ISO_IR 6"
    if not single:  # highdicom refuses most of the others, and quotes them in its error
        _decode_items(header)
        header.SpecificCharacterSet = UTF_8
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(header.get(keyword) or "")
        except ValueError:
            header[keyword].value = None
    if header.PatientSex not in SEXES:
        header.PatientSex = None
    if header.get("PatientIdentityRemoved") == "YES" and not any(map(header.get, HOW_IDENTITY_WAS_REMOVED)):
        header.DeidentificationMethod = "not stated"  # type 1C, and often empty


def _decode_items(header: Dataset) -> None:
    """Decodes the texts of sequences, which are else written as they were read, in the old character set."""
    for tag in header.keys():
        if tag.group in COPIED_GROUPS and header[tag].VR == "SQ":
            for item in header[tag].value:
                item.decode()


def _top_level(header: Dataset) -> Dataset:
    """Copies what highdicom looks at and what does not depend on the frame."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataset import Dataset

    left_out = set(map(tag_for_keyword, OVERRIDDEN))
    copy = Dataset()
    for tag in header.keys():
        if tag.group in COPIED_GROUPS and tag not in left_out:
            copy[tag] = header[tag]
    return copy


def _plane(header: Dataset, frames: Sequence[Frame]) -> dict[str, Any]:
    """Returns orientation and spacing, which all frames of a phase share.

    The spacing between slices is what the positions say, along the normal; left out where it is uneven. Slices without
    a thickness are taken to touch each other.
    """
    number = frames[0].number
    groups = [header]
    if number is not None:
        groups += header.get("SharedFunctionalGroupsSequence", ())
        groups.append(header.PerFrameFunctionalGroupsSequence[number - 1])
    found: dict[str, Any] = {"SliceThickness": None, "SpacingBetweenSlices": None}
    for group in groups:
        for macro in (group, *group.get("PlaneOrientationSequence", ()), *group.get("PixelMeasuresSequence", ())):
            for keyword in ("ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
                if macro.get(keyword) is not None:
                    found[keyword] = macro.get(keyword)
    cosines = np.asarray(found["ImageOrientationPatient"], dtype=np.float64)
    depths = np.array([frame.position for frame in frames]) @ np.cross(cosines[:3], cosines[3:])
    steps = np.abs(np.diff(depths))
    if len(steps) and found["SliceThickness"] is None:
        found["SliceThickness"] = _decimals([float(steps.min())])[0]
    if len(steps) and np.allclose(steps, steps.mean(), rtol=EVEN_RTOL):
        found["SpacingBetweenSlices"] = _decimals([float(steps.mean())])[0]
    return found


def _decimals(values: Iterable[float]) -> list[Any]:
    """Returns DICOM decimal strings, 16 characters at most."""
    from pydicom.valuerep import DSfloat

    return [DSfloat(value, auto_format=True) for value in values]
