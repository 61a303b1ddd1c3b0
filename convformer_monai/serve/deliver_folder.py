"""Results into a folder: ``STUDY/SERIES_seg.dcm`` and so on, by their UIDs."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

from convformer_monai.serve.config import Destination
from convformer_monai.serve.senders import CannotDeliver

__all__ = ["FolderDelivery"]


class FolderDelivery:
    """Copies files; each appears complete, and in place of its equal.

    Args:
        destination: of the kind ``folder``.
    """

    def __init__(self, destination: Destination) -> None:
        assert destination.path is not None
        self.folder = destination.path

    def __call__(self, path: Path) -> None:
        """Copies one file into the folder of its study.

        Raises:
            CannotDeliver: if it cannot be written; the disk may have room later.
        """
        target = self.folder / path.parent.name / path.name
        temporary = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise CannotDeliver(f"cannot be written ({errno.errorcode.get(error.errno or 0, 'error')})") from error

    def close(self) -> None:
        """Nothing is open."""
