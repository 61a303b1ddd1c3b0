"""The weights that a label server has made: versions beside the shipped ones, which are never touched.

A folder holds ``001.pt``, ``002.pt``, ... (plain state dicts) and ``versions.json``, which says how each was made and
which is in use. Version 0 is the bundle's own weights.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from convformer_monai.bundle import file_sha256
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs.atomic import write_text

__all__ = ["Version", "Versions"]

RECORD = "versions.json"
SHIPPED = "shipped"


@dataclass(frozen=True)
class Version:
    """Weights made by fine-tuning.

    Attributes:
        number: 1, 2, ...; 0 for the shipped weights.
        file: name in the folder; empty for the shipped weights.
        sha256: of the file.
        parent: number of the version that it was trained from.
        made: when, UTC, ISO 8601.
        cases: ids of the labelled images that it was trained on.
        dice: mean Dice on the cases kept for validation.
        dice_before: the same of the parent.
    """

    number: int
    file: str = ""
    sha256: str = ""
    parent: int = 0
    made: str = ""
    cases: tuple[str, ...] = ()
    dice: float | None = None
    dice_before: float | None = None

    def __str__(self) -> str:
        """One line for people."""
        if not self.number:
            return "version 0: the shipped weights"
        change = "" if self.dice is None else f", Dice {self.dice:.3f} (before {self.dice_before:.3f})"
        return f"version {self.number}: {self.made}, from version {self.parent}, {len(self.cases)} images{change}"


class Versions:
    """The versions in a folder.

    Args:
        folder: made when the first version is added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Version]:
        """All versions, the shipped weights first.

        Raises:
            InputRefused: ``VERSIONS`` if the record cannot be read.
        """
        return [Version(0), *self._read()[1]]

    @property
    def current(self) -> Version:
        """The version in use; read anew each time, since training is another process."""
        number, _ = self._read()
        return self.get(number)

    def get(self, number: int) -> Version:
        """Returns a version.

        Raises:
            InputRefused: ``VERSIONS`` if there is none of that number.
        """
        found = {version.number: version for version in self.all()}
        if number not in found:
            raise InputRefused(
                RefusalCode.VERSIONS, f"there is no version {number}; there are {', '.join(map(str, found))}"
            )
        return found[number]

    def weights(self, version: Version) -> Path | None:
        """The file of a version; ``None`` for the shipped weights.

        Raises:
            InputRefused: ``VERSIONS`` if the file is gone or is not what was written.
        """
        if not version.number:
            return None
        path = self.folder / version.file
        if not path.is_file() or file_sha256(path) != version.sha256:
            raise InputRefused(
                RefusalCode.VERSIONS, f"{path} is gone or was changed; start with --version of another one"
            )
        return path

    def use(self, number: int) -> Version:
        """Puts a version into use: the way back from a training that made things worse.

        Raises:
            InputRefused: ``VERSIONS`` if there is none of that number.
        """
        version = self.get(number)
        if self.current != version:
            self._write(number, self._read()[1])
        return version

    def add(
        self,
        weights: Path,
        *,
        cases: Sequence[str] = (),
        dice: float | None = None,
        dice_before: float | None = None,
        use: bool = True,
    ) -> Version:
        """Copies weights into the folder as the next version.

        Args:
            weights: file of a plain state dict.
            cases: ids of the images that they were trained on.
            dice: on validation cases.
            dice_before: of the version in use.
            use: put them into use.
        """
        current, versions = self._read()
        number = max((version.number for version in versions), default=0) + 1
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{number:03d}.pt"
        shutil.copyfile(weights, self.folder / f"{name}.part")
        os.replace(self.folder / f"{name}.part", self.folder / name)
        made = datetime.now(timezone.utc).isoformat(timespec="seconds")
        sha256 = file_sha256(self.folder / name)
        version = Version(number, name, sha256, current, made, tuple(cases), dice, dice_before)
        self._write(number if use else current, [*versions, version])
        return version

    def _read(self) -> tuple[int, list[Version]]:
        path = self.folder / RECORD
        if not path.is_file():
            return 0, []
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            versions = [Version(**{**entry, "cases": tuple(entry["cases"])}) for entry in content["versions"]]
            return int(content["current"]), versions
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputRefused(
                RefusalCode.VERSIONS, f"{path} cannot be read: {error}; move it away to start anew"
            ) from error

    def _write(self, current: int, versions: Sequence[Version]) -> None:
        content = {"current": current, "versions": [asdict(version) for version in versions]}
        write_text(self.folder / RECORD, json.dumps(content, indent=2) + "\n", overwrite=True)
