"""Which files below a path are DICOM images, and what their headers say of patient, study and series."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, uid

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.cases import DICOM_SUFFIXES, MIN_DICOM_BYTES, refuse_no_file
from convformer_monai.readers.dicom.parsing import as_refusal, begins_like_dicom, read_header, silent_pydicom

__all__ = ["CLASS_MODALITY", "Instance", "find_instances", "has_siblings", "list_files", "modality_name"]

MAX_FILES = 20_000
CLASS_MODALITY: dict[str, str] = {
    uid.CTImageStorage: "CT",
    uid.EnhancedCTImageStorage: "CT",
    uid.LegacyConvertedEnhancedCTImageStorage: "CT",
    uid.MRImageStorage: "MR",
    uid.EnhancedMRImageStorage: "MR",
    uid.LegacyConvertedEnhancedMRImageStorage: "MR",
    uid.PositronEmissionTomographyImageStorage: "PT",
    uid.EnhancedPETImageStorage: "PT",
    uid.LegacyConvertedEnhancedPETImageStorage: "PT",
}
CLASSIC = (uid.CTImageStorage, uid.MRImageStorage, uid.PositronEmissionTomographyImageStorage)
KNOWN_MODALITIES = {*CLASS_MODALITY.values(), *"CR DX ES GM MG NM OP OT PX RF SC SEG SM SR US XA XC".split()}
LOCALIZER = {"LOCALIZER", "SCOUT"}
SIEMENS_CREATOR, NUMBER_IN_MOSAIC = "00190010", "0019100A"  # private: NumberOfImagesInMosaic
KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"),
    *("Modality", "ImageType", "PatientID", "PatientName"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "SpacingBetweenSlices"),
    *("TriggerTime", "NominalPercentageOfCardiacPhase", "TemporalPositionIdentifier", "CardiacNumberOfImages"),
    *("AcquisitionDateTime", "AcquisitionTime", "InstanceNumber"),
    *("ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber"),
    *("EchoTime", "ConvolutionKernel", "DiffusionBValue", "ComplexImageComponent"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(SIEMENS_CREATOR, NUMBER_IN_MOSAIC),
)


@dataclass(frozen=True)
class Instance:
    """One file with pixel data.

    Attributes:
        path: the file.
        header: the elements named in ``KEYWORDS``.
        uid: SOP instance.
        class_uid: SOP class.
        series_uid: its series.
        study_uid: its study.
        patient: what tells patients apart; never to be shown.
        modality: the DICOM modality; that of the class where the file does not tell.
        is_localizer: whether it is a scout view.
        is_mosaic: whether its one frame is a sheet of slices side by side (Siemens).
        space_uid: its frame of reference, in which positions are.
        frames: number of frames.
        size: rows and columns.
    """

    path: Path
    header: Dataset
    uid: str
    class_uid: str
    series_uid: str
    study_uid: str
    patient: tuple[str, str]
    modality: str
    is_localizer: bool
    is_mosaic: bool
    space_uid: str
    frames: int
    size: tuple[int, int]

    @property
    def is_classic(self) -> bool:
        """Whether its geometry is stated once, for its one frame, instead of in functional groups."""
        return self.class_uid in CLASSIC

    @property
    def is_volume(self) -> bool:
        """Whether its class is one of slices of a body: no photograph, screenshot, dose or segmentation."""
        return self.class_uid in CLASS_MODALITY


def modality_name(modality: str) -> str:
    """Names a modality, but only one that is known: a header may hold anything there."""
    return modality if modality in KNOWN_MODALITIES else "another modality"


def list_files(path: Path) -> list[Path]:
    """Lists the files of a folder and its sub-folders but hidden ones, or the file itself.

    Raises:
        InputRefused: if there is none, or too many.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        refuse_no_file(path, "give a DICOM file or folder")
    files: list[Path] = []
    with as_refusal(path, "has a folder that cannot be opened"):
        for folder, folders, names in os.walk(path, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            files += (Path(folder, name) for name in names if not name.startswith("."))
            if len(files) > MAX_FILES:
                raise InputRefused(
                    RefusalCode.TOO_MANY_FILES,
                    f"{path} holds more than {MAX_FILES:,} files; give the folder of one series",
                )
        files = sorted(file for file in files if file.is_file())
    if not files:
        raise InputRefused(RefusalCode.EMPTY_FOLDER, f"{path} holds no file; give a folder of DICOM files")
    return files


def find_instances(files: Iterable[Path]) -> list[Instance]:
    """Reads the headers of those files that are DICOM with pixel data.

    Files that are not DICOM are passed over, unless they are called so.

    Raises:
        InputRefused: if a file that should be DICOM cannot be read, or is cut off.
    """
    instances = []
    for file in files:
        if file.name.upper() == "DICOMDIR":
            continue
        if begins_like_dicom(file):
            instance = _instance(file)
            if instance is not None:
                instances.append(instance)
        elif file.name.lower().endswith(DICOM_SUFFIXES) or _could_be_cut(file):
            raise InputRefused(
                RefusalCode.DICOM_UNREADABLE,
                f"{file} does not begin as a DICOM file does; fetch it again from the archive",
            )
    return instances


def has_siblings(instance: Instance) -> bool:
    """Tells whether another file of the same folder belongs to the same series."""
    for file in list_files(instance.path.parent):
        if file.parent == instance.path.parent and not file.samefile(instance.path) and begins_like_dicom(file):
            with silent_pydicom, as_refusal(file):
                header, _ = read_header(file, ("SOPInstanceUID", "SeriesInstanceUID"))
                if str(header.get("SeriesInstanceUID")) == instance.series_uid != "":
                    if str(header.get("SOPInstanceUID")) != instance.uid:
                        return True
    return False


def _instance(path: Path) -> Instance | None:
    header, has_pixels = read_header(path, KEYWORDS)
    with silent_pydicom, as_refusal(path):
        meta = header.file_meta
        stored_as = str(meta.get("MediaStorageSOPClassUID") or "")
        class_uid = str(header.get("SOPClassUID") or stored_as)
        if stored_as and (class_uid in CLASS_MODALITY) != (stored_as in CLASS_MODALITY):
            raise InputRefused(RefusalCode.DICOM_UNREADABLE, f"{path} claims to be of two classes; export it again")
        if not has_pixels:
            if class_uid and class_uid not in CLASS_MODALITY:
                return None
            raise InputRefused(
                RefusalCode.TRUNCATED, f"{path} ends before its pixel data; fetch it again from the archive"
            )
        image_type = header.get("ImageType") or []
        image_type = [image_type] if isinstance(image_type, str) else image_type
        kinds = {str(value).strip().upper() for value in image_type}
        return Instance(
            path=path,
            header=header,
            uid=str(header.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or ""),
            class_uid=class_uid,
            series_uid=str(header.get("SeriesInstanceUID") or ""),
            study_uid=str(header.get("StudyInstanceUID") or ""),
            patient=(str(header.get("PatientID") or "").strip(), _plain_name(str(header.get("PatientName") or ""))),
            modality=str(header.get("Modality") or CLASS_MODALITY.get(class_uid, "")).strip().upper(),
            is_localizer=bool(LOCALIZER & kinds),
            is_mosaic="MOSAIC" in kinds or _counts_tiles(header),
            space_uid=str(header.get("FrameOfReferenceUID") or ""),
            frames=int(header.get("NumberOfFrames") or 1),
            size=(int(header.get("Rows") or 0), int(header.get("Columns") or 0)),
        )


def _counts_tiles(header: Dataset) -> bool:
    """Tells whether Siemens' private header says how many slices are tiled in the frame."""
    if SIEMENS_CREATOR not in header or NUMBER_IN_MOSAIC not in header:
        return False
    creator = header[SIEMENS_CREATOR].value
    name = creator.decode("latin-1") if isinstance(creator, bytes) else str(creator)
    return name.strip().upper().startswith("SIEMENS")


def _plain_name(name: str) -> str:
    """Returns a person name without what differs between spellings of the same (case, empty components)."""
    return " ".join(name.replace("^", " ").replace("=", " ").casefold().split())


def _could_be_cut(file: Path) -> bool:
    """Tells whether a file too short for DICOM is named as archives do: numbered without an ending, or by a UID."""
    if file.stat().st_size >= MIN_DICOM_BYTES:
        return False
    return file.suffix[1:].isdigit() or (not file.suffix and any(map(str.isdigit, file.name)))


def _raise(error: OSError) -> None:
    raise error
