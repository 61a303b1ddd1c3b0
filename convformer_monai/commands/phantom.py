"""``convformer-monai phantom``: writes an image with known truth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["write_phantom"]

logger = logging.getLogger(__name__)


def write_phantom(folder: Path, write: Callable[[], Sequence[Path]]) -> None:
    """Makes a folder, writes a phantom into it, and logs the files.

    Raises:
        InputRefused: if the folder cannot be written, or an argument of the phantom cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)  # tried first: a cine takes a while
        paths = write()
    except ValueError as error:
        raise InputRefused(RefusalCode.OPTION, str(error)) from error
    except OSError as error:
        raise InputRefused(RefusalCode.CANNOT_WRITE, f"{folder} cannot be written: {error.strerror}") from error
    for path in paths:
        logger.info("wrote %s", path)
