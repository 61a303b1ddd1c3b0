"""``convformer-monai phantom``: each function writes an image and its truth to a folder, and logs the files.

All make the folder if it is missing, and raise ``InputRefused`` if it cannot be written or an argument cannot be used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from convformer_monai.commands.lists import names_in
from convformer_monai.errors import InputRefused

__all__ = ["write_cardiac", "write_dermoscopy", "write_dicom", "write_head_ct"]

logger = logging.getLogger(__name__)


def write_cardiac(folder: Path, *, seed: int = 0, num_phases: int = 1) -> None:
    """Writes a heart; see :func:`convformer_monai.phantoms.cardiac_phantom`."""
    from convformer_monai.phantoms import cardiac_phantom

    with _refusing(folder):
        _log(cardiac_phantom(seed=seed, num_phases=num_phases).save(folder, "cardiac_phantom"))


def write_head_ct(folder: Path, *, seed: int = 0, bleeds: str = "intraparenchymal", tilt_degrees: float = 0.0) -> None:
    """Writes a head; see :func:`convformer_monai.phantoms.head_ct_phantom`. The bleeds are separated by commas."""
    from convformer_monai.phantoms import head_ct_phantom

    kinds = () if bleeds == "none" else tuple(names_in(bleeds))
    with _refusing(folder):
        _log(head_ct_phantom(seed=seed, bleeds=kinds, tilt_degrees=tilt_degrees).save(folder, "head_ct_phantom"))


def write_dermoscopy(
    folder: Path,
    suffix: str = ".jpg",
    *,
    seed: int = 0,
    size: tuple[int, int] = (1024, 768),
    hair: bool = True,
    ruler: bool = False,
    vignette: bool = True,
) -> None:
    """Writes a photograph; see :func:`convformer_monai.phantoms.dermoscopy_phantom`."""
    from convformer_monai.phantoms import dermoscopy_phantom

    with _refusing(folder):
        phantom = dermoscopy_phantom(seed=seed, size=size, hair=hair, ruler=ruler, vignette=vignette)
        _log(phantom.save(folder, "dermoscopy_phantom", suffix))


def write_dicom(folder: Path, kind: str, *, seed: int = 0, num_phases: int = 10, tilt_degrees: float = 0.0) -> None:
    """Writes DICOM; see :func:`convformer_monai.phantoms.dicom.kinds.write_kind`."""
    from convformer_monai.phantoms.dicom.kinds import write_kind

    with _refusing(folder):
        _log(write_kind(kind, folder, seed=seed, num_phases=num_phases, tilt_degrees=tilt_degrees))


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)  # tried first: a cine takes a while
        yield
    except ValueError as error:
        raise InputRefused("OPTION", str(error)) from error
    except OSError as error:
        raise InputRefused("CANNOT_WRITE", f"{folder} cannot be written: {error.strerror}") from error


def _log(paths: Sequence[Path]) -> None:
    for path in paths:
        logger.info("wrote %s", path)
