"""The preview as a DICOM Secondary Capture Image (PS3.3 A.8.1), by highdicom, for archives and viewers without SEG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convformer_monai import __version__
from convformer_monai.errors import need_highdicom
from convformer_monai.outputs.atomic import AtomicFiles, transaction
from convformer_monai.outputs.dicom_seg import MANUFACTURER, write_dataset
from convformer_monai.outputs.dicom_sources import UTF_8, DicomWriter, check_sources, references, source_headers
from convformer_monai.outputs.dicom_uids import MakeUid, derived_uids, random_uids
from convformer_monai.outputs.writer import Result, path_for, register_writer
from convformer_monai.readers.cases import PHOTO_CLASSES

if TYPE_CHECKING:
    from highdicom.sc import SCImage
    from pydicom import Dataset

    from convformer_monai.readers.series import ImageSeries

__all__ = ["dicom_sc", "write_dicom_sc"]

SERIES_NUMBER = 302
NO_TRUE_ORIENTATION = ("L", "P")  # highdicom wants one; a sheet of several slices has none, so it is emptied
# Of the source's header; highdicom takes each by its own name.
COPIED = {
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "accession_number": "AccessionNumber",
    "study_id": "StudyID",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "referring_physician_name": "ReferringPhysicianName",
    "study_instance_uid": "StudyInstanceUID",
}


class DicomScWriter(DicomWriter):
    """``x_sc.dcm``."""

    name = "dicom-sc"
    suffixes = ("_sc.dcm",)
    order = 75  # after the report, which takes the DICOM files before it for segmentations
    spatial = False

    def write(self, base: Path, result: Result, files: AtomicFiles) -> list[Path]:
        """Draws the preview, and stages it."""
        from convformer_monai.outputs.drawing.preview import draw_preview

        path = path_for(base, self.suffixes[0])
        picture = draw_preview(result.series, result.labels, result.bundle.task, result.measurements)
        write_dicom_sc(
            path,
            np.asarray(picture.convert("RGB")),
            result.series,
            algorithm_name=result.bundle.name,
            algorithm_version=result.bundle.version,
            uids=derived_uids(result),
            files=files,
        )
        return [path]


def write_dicom_sc(
    path: str | os.PathLike[str],
    picture: NDArray[np.uint8],
    series: ImageSeries,
    *,
    algorithm_name: str = "convformer_monai",
    algorithm_version: str = __version__,
    uids: MakeUid = random_uids,
    overwrite: bool = False,
    files: AtomicFiles | None = None,
) -> Path:
    """Writes a picture of a result as a DICOM Secondary Capture; see :func:`dicom_sc`.

    The file holds the patient's identifiers, as the standard wants.

    Args:
        path: where, ending in ``.dcm``.
        picture: see :func:`dicom_sc`.
        series: see there.
        algorithm_name: see there.
        algorithm_version: see there.
        uids: see there.
        overwrite: replace a file that exists.
        files: transaction to join; its own ``overwrite`` holds then.

    Returns:
        The path.

    Raises:
        ValueError: as :func:`dicom_sc`, or if the name does not end in ``.dcm``.
        InputRefused: as :func:`dicom_sc`, and ``EXISTS`` or ``CANNOT_WRITE``; nothing is left behind then.
    """
    target = Path(path)
    if target.suffix.lower() != ".dcm":
        raise ValueError(f"path must end in .dcm, got {target.name!r}")
    image = dicom_sc(picture, series, algorithm_name=algorithm_name, algorithm_version=algorithm_version, uids=uids)
    with transaction(files, overwrite) as files:
        write_dataset(files, target, image)
    return target


def dicom_sc(
    picture: NDArray[np.uint8],
    series: ImageSeries,
    *,
    algorithm_name: str = "convformer_monai",
    algorithm_version: str = __version__,
    uids: MakeUid = random_uids,
) -> SCImage:
    """Makes a Secondary Capture of a picture, in the study of a series.

    It names the series' images as its sources. Nothing that names the patient is burnt in but what they hold already.

    Args:
        picture: (rows, columns, 3) RGB.
        series: what the picture is of, read from DICOM.
        algorithm_name: name of the bundle.
        algorithm_version: its version.
        uids: makes the UIDs of series and instance.

    Raises:
        ValueError: if the picture is not as said.
        InputRefused: ``NOT_DICOM``, ``NO_SOP_UIDS`` or ``SOURCE_CHANGED``, and ``MISSING_PACKAGE`` without highdicom.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(f"picture must be (rows, columns, 3) uint8, got {picture.dtype} of shape {picture.shape}")
    check_sources(series, spatial=False)
    need_highdicom()
    from highdicom.sc import SCImage

    from convformer_monai.readers.dicom.parsing import silent_pydicom

    with silent_pydicom:  # its warnings quote the patient's name
        headers = list(source_headers(series).values())
        copied: dict[str, Any] = {name: headers[0].get(keyword) or None for name, keyword in COPIED.items()}
        image = SCImage(
            np.ascontiguousarray(picture),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=NO_TRUE_ORIENTATION,
            series_instance_uid=uids("secondary capture series"),
            series_number=SERIES_NUMBER,
            sop_instance_uid=uids("secondary capture"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=algorithm_name,
            software_versions=algorithm_version,
            series_description=f"Preview by {algorithm_name}"[:64],
            specific_character_set=UTF_8,  # whatever the source's: it holds every name
            **copied,
        )
        for keyword in ("PatientOrientation", "Laterality"):  # type 2, and unknown
            setattr(image, keyword, None)
        burnt_in = _burnt_in(headers)
        if burnt_in:
            image.BurnedInAnnotation = burnt_in
        image.ImageComments = "For research, not for diagnosis"
        image.DerivationDescription = f"Outlines found by {algorithm_name} {algorithm_version}"[:1024]
        image.SourceImageSequence = references(headers)
    return image


def _burnt_in(headers: Sequence[Dataset]) -> str | None:
    """Whether text that names the patient is burnt in: the picture shows its sources, and adds nothing of that kind.

    Photographs are scanned and exported with whatever was on them; without their word on it, nobody knows.
    """
    said = [str(header.get("BurnedInAnnotation") or "").strip() for header in headers]
    if "YES" in said:
        return "YES"
    photographs = any(str(header.SOPClassUID).startswith(PHOTO_CLASSES) for header in headers)
    return "NO" if not photographs or set(said) == {"NO"} else None


register_writer(DicomScWriter())
