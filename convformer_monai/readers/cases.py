"""Which images a path holds: one file, one DICOM folder, or a folder of cases; found without reading any voxel."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = [
    "Case",
    "begins_as_dicom",
    "find_cases",
    "is_dicom",
    "is_dicom_photo",
    "is_named_dicom",
    "refuse_no_file",
    "stem",
]

logger = logging.getLogger(__name__)

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
IMAGE_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES + PHOTO_SUFFIXES
RESULT = re.compile(r"_(gt|seg|segmentation|seg_phase\d+|truth|label|preview|prob)$", re.IGNORECASE)
DICOM_RESULT = re.compile(r"_(sr|sc|(seg|rtstruct)(_phase\d+)?)$", re.IGNORECASE)
PREAMBLE, MAGIC = 128, b"DICM"  # PS3.10 section 7.1
MIN_DICOM_BYTES = PREAMBLE + len(MAGIC)
PHOTO_CLASSES = "1.2.840.10008.5.1.4.1.1.77."  # visible light: endoscopy, photography, dermoscopy


@dataclass(frozen=True)
class Case:
    """One image to segment.

    Attributes:
        path: its file, or its DICOM folder.
        name: the results' name below the output folder, without ending; ``/`` separates sub-folders.
    """

    path: Path
    name: str


def stem(path: Path) -> str:
    """Returns the name of a file without the ending of an image format, or of a folder as it is.

    It is never ``.`` or ``..``, which would lead out of the folder of the results.
    """
    for suffix in IMAGE_SUFFIXES + DICOM_SUFFIXES:
        if path.name.lower().endswith(suffix) and path.name[: -len(suffix)] not in ("", ".", ".."):
            return path.name[: -len(suffix)]
    return path.name


def refuse_no_file(path: Path, advice: str, code: RefusalCode | None = None) -> NoReturn:
    """Says of a path that is not a file what it is: nothing, a folder, or what cannot be read twice.

    Args:
        path: that is not a file.
        advice: what to give instead.
        code: of the refusal; ``None`` for that of an image.

    Raises:
        InputRefused: of that code, else ``FILE_NOT_FOUND`` or ``NOT_AN_IMAGE``.
    """
    of_image, what = RefusalCode.NOT_AN_IMAGE, "is neither a file nor a folder"
    if path.is_dir():
        of_image, what = RefusalCode.FILE_NOT_FOUND, "is a folder"
    elif path.is_fifo():
        what = "is a pipe, not a file"
    elif path.is_socket():
        what = "is a socket, not a file"
    elif path.is_char_device() or path.is_block_device():
        what = "is a device, not a file"
    elif not path.exists():
        of_image, what = RefusalCode.FILE_NOT_FOUND, "does not exist"
    raise InputRefused(code or of_image, f"{path} {what}; {advice}")


def is_dicom(path: Path) -> bool:
    """Tells whether a file begins as DICOM files do, whatever its name; not if it cannot be opened."""
    try:
        return begins_as_dicom(path)
    except OSError:
        return False


def begins_as_dicom(path: Path) -> bool:
    """Tells whether a file begins as DICOM files do.

    Raises:
        OSError: if it cannot be opened.
    """
    with open(path, "rb") as file:
        return file.read(MIN_DICOM_BYTES)[PREAMBLE:] == MAGIC


def is_named_dicom(path: Path) -> bool:
    """Tells whether a file is called DICOM."""
    return path.name.lower().endswith(DICOM_SUFFIXES)


def is_dicom_photo(file: Path) -> bool:
    """Tells whether a file is a DICOM photograph (visible light image)."""
    return header_values(file, "SOPClassUID").get("SOPClassUID", "").startswith(PHOTO_CLASSES)


def find_cases(path: Path, leave_out: Path | None = None, level: int = logging.INFO) -> list[Case]:
    """Finds the images of a path.

    A folder with DICOM files in it is one case (DICOM photographs: one a file), together with what its sub-folders hold
    of the same study, and so is a folder whose sub-folders all hold series of one DICOM study. Every other image file
    is a case. Sub-folders are searched. Files whose name ends in ``_gt``, ``_seg``, ``_segmentation``, ``_truth``,
    ``_label``, ``_preview``, ``_prob`` or, of DICOM files, ``_sr``, ``_sc`` or ``_rtstruct`` are masks and results, no
    images. Links are followed, to each real folder once.

    Args:
        path: a file or folder.
        leave_out: a folder inside that is not searched, as the output folder.
        level: of the message that tells of masks and results.

    Returns:
        The cases, by name. The name of a file or DICOM folder is its own; within a folder of cases, its place there.

    Raises:
        InputRefused: if the path does not exist or holds no image.
    """
    if path.is_file():
        return [Case(path, stem(path))]
    if not path.is_dir():
        refuse_no_file(path, "give a file, a DICOM folder or a folder of cases")
    masks: list[Path] = []
    found = list(_cases_in(path, {leave_out.resolve()} if leave_out else set(), masks))
    if masks:
        logger.log(
            level,
            "%s in %s, as those of masks and results do%s",
            "1 file is left out: its name ends"
            if len(masks) == 1
            else f"{len(masks)} files are left out: their names end",
            " or ".join(sorted({match[0] for mask in masks if (match := RESULT.search(stem(mask)))})),
            f": {masks[0].name}" if len(masks) == 1 else f", the first {masks[0].name}",
        )
    if not found:
        raise InputRefused(
            RefusalCode.NO_IMAGES,
            f"{path} holds no image (DICOM, NIfTI, NRRD, MetaImage or photograph); give another folder",
        )
    return [Case(one, _name(one, path)) for one in sorted(found)]


def _name(case: Path, root: Path) -> str:
    if case == root:
        return root.resolve().name or "dicom"
    return case.relative_to(root).with_name(stem(case)).as_posix()


def _cases_in(folder: Path, seen: set[Path], masks: list[Path]) -> Iterator[Path]:
    """Yields the image files and DICOM folders of a folder, itself among them.

    Args:
        folder: to search.
        seen: real folders that are left out; grows, so that links lead to each folder once.
        masks: gets the files that are named as masks and results.
    """
    seen.add(folder.resolve())
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise InputRefused(
            RefusalCode.CANNOT_READ, f"{folder} cannot be read: {error.strerror}; check its permissions"
        ) from error
    files = [entry for entry in entries if entry.is_file()]
    masks += [file for file in files if file.name.lower().endswith(IMAGE_SUFFIXES) and RESULT.search(stem(file))]
    dicom = [file for file in files if _may_be_dicom(file)]
    photos = {file for file in dicom if is_dicom_photo(file)}
    images = [file for file in files if _is_image(file) or file in photos]
    yield from images
    below = [list(_cases_in(entry, seen, masks)) for entry in entries if entry.is_dir() and entry.resolve() not in seen]
    cases = [case for group in below for case in group]
    slices = next((file for file in dicom if file not in photos), None)
    if slices is not None:  # their reader takes what is below them, too
        yield folder
        study = _study([slices])
        yield from (case for case in cases if case.is_file() or _study(sorted(case.rglob("*"))) != study or not study)
    elif len(cases) > 1 and not images and _are_one_study(cases):
        yield folder
    else:
        yield from cases


def _is_image(file: Path) -> bool:
    return file.name.lower().endswith(IMAGE_SUFFIXES) and not RESULT.search(stem(file))


def _may_be_dicom(file: Path) -> bool:
    """Tells whether a file is DICOM, or called so (a damaged one must be refused, not passed over)."""
    if DICOM_RESULT.search(stem(file)) or file.name == "DICOMDIR":
        return False
    return is_named_dicom(file) or (not _is_image(file) and is_dicom(file))


def _are_one_study(cases: list[Path]) -> bool:
    """Tells whether all cases are DICOM folders of one study."""
    if not all(case.is_dir() for case in cases):
        return False
    studies = {_study(sorted(case.iterdir())) for case in cases}
    return len(studies) == 1 and None not in studies


def _study(files: Iterable[Path]) -> str | None:
    """Returns the study of the first of the files that is DICOM."""
    file = next((file for file in files if file.is_file() and _may_be_dicom(file)), None)
    return header_values(file, "StudyInstanceUID").get("StudyInstanceUID") if file else None


def header_values(file: Path, *keywords: str) -> dict[str, str]:
    """Returns values of a DICOM header by keyword, or nothing if the file cannot be parsed.

    Args:
        file: to look at.
        keywords: of the values; those that the header does not hold are left out.
    """
    from convformer_monai.readers.dicom.parsing import read_header, silent_pydicom

    try:
        with silent_pydicom:
            dataset, _ = read_header(file, keywords)
        return {name: str(dataset[name].value) for name in keywords if name in dataset}
    except InputRefused:  # its reader will say what is wrong with it
        return {}
