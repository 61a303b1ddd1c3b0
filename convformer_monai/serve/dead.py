"""What failed for good is kept in a folder, with the reason, for somebody to look at."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from convformer_monai.errors import InputRefused
from convformer_monai.outputs.atomic import write_text

__all__ = ["DEAD_LETTERS", "DeadLetters"]

logger = logging.getLogger(__name__)

DEAD_LETTERS = "dead"
REASON, FAULT = "reason.json", "fault.txt"


class DeadLetters:
    """The folder.

    Args:
        folder: of the node.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / DEAD_LETTERS
        self.folder.mkdir(parents=True, exist_ok=True)

    def keep(self, name: str, reason: Mapping[str, Any], files: Sequence[Path], fault: str = "") -> None:
        """Keeps what failed; it is not lost where this cannot be written, since the node remembers it, too.

        Args:
            name: of its own folder.
            reason: why, as JSON types.
            files: copies of which are kept.
            fault: a traceback.
        """
        target = self.folder / name
        content = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), **reason}
        try:
            target.mkdir(exist_ok=True)
            for file in files:
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy2(file, target / file.name)
            if fault:
                write_text(target / FAULT, fault, overwrite=True)
            write_text(target / REASON, json.dumps(content, indent=1) + "\n", overwrite=True)
        except (OSError, InputRefused) as error:
            logger.error("what failed cannot be kept in %s: %s", name, type(error).__name__)

    def names(self) -> list[str]:
        """What is there."""
        return sorted(one.name for one in self.folder.iterdir() if one.is_dir())

    def clear(self) -> None:
        """Empties the folder, as all is tried anew."""
        for name in self.names():
            shutil.rmtree(self.folder / name, ignore_errors=True)
