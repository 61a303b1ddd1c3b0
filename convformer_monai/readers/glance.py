"""A look at a path that costs no torch: is it an image, of which kind, and of which modality."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.cases import (
    ITK_SUFFIXES,
    NIFTI_SUFFIXES,
    PHOTO_CLASSES,
    PHOTO_SUFFIXES,
    header_values,
    is_dicom,
)
from convformer_monai.tasks.task import PHOTOGRAPH, VOLUME

__all__ = ["Glance", "glance"]

MODALITIES = ("CT", "MR", "PT")  # others are not named: a header may hold anything
MOST_PIXELS = 4_000_000  # of a picture whose colours are looked at; a larger one is taken as coloured
MOST_FILES = 64  # of a DICOM folder; of a larger one nothing is said


@dataclass(frozen=True)
class Glance:
    """What a look at names and headers shows.

    Attributes:
        image: ``volume`` or ``photograph``; ``None`` if it takes more than a look.
        modalities: of DICOM files, or what the values tell; empty where they are not known.
        by: what told the modalities, if it was no header.
        grey: a photograph without colours.
    """

    image: str | None = None
    modalities: frozenset[str] = frozenset()
    by: str = ""
    grey: bool = False


def glance(path: Path) -> Glance:
    """Looks at a file, or at a folder of DICOM files.

    Args:
        path: of one case.

    Raises:
        InputRefused: ``NOT_AN_IMAGE`` if a file is not an image that can be read.
    """
    if path.is_dir() or is_dicom(path):
        return _dicom(path)
    name = path.name.lower()
    if name.endswith((*NIFTI_SUFFIXES, *ITK_SUFFIXES)):
        return Glance(VOLUME)
    if name.endswith(PHOTO_SUFFIXES) or _is_picture(path):
        return Glance(PHOTOGRAPH, grey=_is_grey(path))
    raise InputRefused(
        RefusalCode.NOT_AN_IMAGE,
        f"{path} is not an image (DICOM, NIfTI, NRRD, MetaImage or photograph); give another file",
    )


def _dicom(path: Path) -> Glance:
    """Looks at the headers of DICOM files."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file() and is_dicom(file))
    if len(files) > MOST_FILES:
        return Glance()
    headers = [header for file in files if (header := header_values(file, "SOPClassUID", "Modality"))]
    if not headers or len(headers) < len(files):
        return Glance()
    photos = [header.get("SOPClassUID", "").startswith(PHOTO_CLASSES) for header in headers]
    kind = PHOTOGRAPH if all(photos) else None if any(photos) else VOLUME
    modalities = {header.get("Modality", "") for header in headers}
    return Glance(kind, frozenset(modalities) if modalities <= set(MODALITIES) else frozenset())


def _is_picture(path: Path) -> bool:
    """Tells whether Pillow knows the file, whatever its name."""
    from PIL import Image

    try:
        with Image.open(path):
            return True
    except Exception:  # whatever Pillow stumbles over: it is none of ours
        return False


def _is_grey(path: Path) -> bool:
    """Tells whether a picture has no colours, as far as a look shows it."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if len(set(picture.getbands()) - {"A", "a"}) == 1 and picture.mode not in ("P", "PA"):
                return True
            if picture.width * picture.height > MOST_PIXELS:
                return False
            red, green, blue = (band.tobytes() for band in picture.convert("RGB").split())
            return red == green == blue
    except Exception:  # its reader will say what is wrong with it
        return False
