"""The parts that every DICOM file of a phantom has: patient, study, series, equipment, place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import PYDICOM_ROOT_UID, UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from convformer_monai.phantoms.dicom.stack import SliceStack

__all__ = ["Identity", "code", "ds", "item", "new_instance", "set_pixels", "set_plane", "stored_values"]


@dataclass(frozen=True)
class Identity:
    """Who and what a phantom claims to be.

    Attributes:
        patient: another number is another patient.
        study: another number is another examination of the patient.
        series: another number is another series of the study; also its SeriesNumber.
    """

    patient: int = 1
    study: int = 1
    series: int = 1

    @property
    def planted(self) -> dict[str, str]:
        """Personal data by attribute, which must turn up in no log, message or derived NIfTI, PNG or JSON."""
        return {
            "PatientName": f"Plantedname{self.patient}^Phantomina",
            "PatientID": f"PLANTEDID{self.patient:04d}",
            "PatientBirthDate": f"1931121{self.patient % 10}",
            "StudyDate": f"2019091{self.study % 10}",
            "StudyTime": "134711",
            "AccessionNumber": f"PLANTEDACC{self.study:03d}",
            "StudyDescription": "Planteddescription",
            "InstitutionName": "Plantedhospital",
            "ReferringPhysicianName": "Plantedphysician^Otto",
        }

    def uid(self, kind: str, *numbers: int) -> UID:
        """A UID that is the same each time for the same things, and different for others."""
        levels = {"frame_of_reference": (self.patient, self.study), "study": (self.patient, self.study)}
        parts = levels.get(kind, (self.patient, self.study, self.series))
        return generate_uid(PYDICOM_ROOT_UID, entropy_srcs=["phantom", kind, *(str(n) for n in (*parts, *numbers))])


def new_instance(identity: Identity, sop_class: UID, modality: str, number: int, *more: int) -> Dataset:
    """A dataset with patient, study, series, equipment and SOP common modules (PS3.3 C.7.1 to C.7.5, C.12.1).

    Args:
        identity: whose and which.
        sop_class: the kind of instance.
        modality: DICOM modality.
        number: InstanceNumber.
        more: further numbers that make the SOP instance UID differ.
    """
    dataset = Dataset()
    for keyword, value in identity.planted.items():
        setattr(dataset, keyword, value)
    dataset.PatientSex = "O"
    dataset.StudyID = str(identity.study)
    dataset.StudyInstanceUID = identity.uid("study")
    dataset.SeriesInstanceUID = identity.uid("series")
    dataset.FrameOfReferenceUID = identity.uid("frame_of_reference")
    dataset.PositionReferenceIndicator = None
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = identity.uid("instance", number, *more)
    dataset.Modality = modality
    dataset.SeriesNumber = identity.series
    dataset.InstanceNumber = number
    dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = dataset.StudyDate
    dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = dataset.StudyTime
    dataset.Manufacturer = "convformer_monai"
    dataset.ManufacturerModelName = "phantom"
    dataset.DeviceSerialNumber = "1"
    dataset.SoftwareVersions = "1"
    dataset.BodyPartExamined = "HEART" if modality == "MR" else "HEAD"
    dataset.PatientPosition = "HFS"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def set_plane(dataset: Dataset, stack: SliceStack, index: int, *, parts: bool = False) -> None:
    """Sets position, orientation and spacing of one slice, or of one frame of an enhanced image.

    Args:
        dataset: where to.
        stack: the geometry.
        index: which slice.
        parts: put them into the functional groups of a frame (PS3.3 C.7.6.16.2) instead of the top level.
    """
    position, orientation, measures = (Dataset(), Dataset(), Dataset()) if parts else (dataset, dataset, dataset)
    position.ImagePositionPatient = [ds(v) for v in stack.positions[index]]
    orientation.ImageOrientationPatient = [ds(v) for v in (*stack.row, *stack.column)]
    measures.PixelSpacing = [ds(stack.spacing[1]), ds(stack.spacing[0])]
    measures.SliceThickness = ds(_thickness(stack))
    if parts:
        dataset.PlanePositionSequence = Sequence([position])
        dataset.PlaneOrientationSequence = Sequence([orientation])
        dataset.PixelMeasuresSequence = Sequence([measures])


def _thickness(stack: SliceStack) -> float:
    steps = np.abs(np.diff(stack.positions, axis=0) @ stack.normal)
    return float(steps.min()) if len(steps) else 1.0


def set_pixels(dataset: Dataset, pixels: NDArray[np.integer]) -> None:
    """Sets grey pixels (Y, X) or (frames, Y, X), int16 or uint16, little-endian, uncompressed."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW"


def stored_values(
    volume: NDArray[np.generic], slope: float = 1.0, intercept: float = 0.0, padding: int | None = None
) -> NDArray[np.integer]:
    """Rounds values to what is stored for them: uint16 where nothing is negative, else int16.

    Args:
        volume: values; NaN where nothing was measured.
        slope: RescaleSlope.
        intercept: RescaleIntercept.
        padding: PixelPaddingValue, stored for NaN.

    Raises:
        ValueError: if the volume does not fit 16 bits, or has NaN and there is no padding.
    """
    stored = np.rint((np.asarray(volume, dtype=np.float64) - intercept) / slope)
    if padding is not None:
        stored[np.isnan(stored)] = padding
    low, high = float(stored.min()), float(stored.max())
    if not (-(2**15) <= low and high < (2**15 if low < 0 else 2**16)):
        raise ValueError(f"volume must fit 16 bits when stored, got stored values of {low:g} to {high:g}")
    return stored.astype(np.int16 if low < 0 else np.uint16)


def item(**attributes: object) -> Sequence:
    """A sequence of one item."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return Sequence([dataset])


def code(value: str, scheme: str, meaning: str) -> Sequence:
    """A code sequence of one item."""
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def ds(value: float) -> str:
    """A decimal string of at most 16 characters."""
    return str(format_number_as_ds(float(value)))
