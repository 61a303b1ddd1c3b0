"""The cases of a folder of results, as the review lists them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs.report import SCHEMA
from convformer_monai.outputs.writer import path_for

__all__ = ["ReviewCase", "find_results"]

logger = logging.getLogger(__name__)

REPORT = "_report.json"
MASKS = ("_seg.nii.gz", "_seg.png")
ID_LETTERS = 16
ALL = "all"  # phases


@dataclass(frozen=True)
class ReviewCase:
    """One case that is done.

    Attributes:
        id: of its name, for addresses: letters and digits only.
        name: of the case; ``/`` separates sub-folders.
        base: beginning of the paths of its files.
        bundle: name of the bundle.
        flags: code and message of each flag.
        doubt: 1 - the Dice that the probabilities promise, 0 to 1; ``None`` of an empty mask.
        numbers: measurements of the whole case: value, or ``None`` if it is undefined, by their keys.
        titles: title and unit of each, by their keys.
        mask: the bundle's mask; ``None`` where only formats were written that cannot be corrected.
        phases: which of the source's phases the mask has.
        reading: how the source was read, where it was not simply taken whole: options of
            :func:`convformer_monai.readers.read_series`.
        files: names of the files that its report names; others of its name are of an earlier run.
    """

    id: str
    name: str
    base: Path
    bundle: str
    flags: tuple[tuple[str, str], ...] = ()
    doubt: float | None = None
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    titles: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    mask: Path | None = None
    phases: tuple[int, ...] = (0,)
    reading: Mapping[str, Any] = field(default_factory=dict)
    files: frozenset[str] = frozenset()

    @property
    def shown(self) -> str:
        """Its name where only UTF-8 can be written; a file's name may hold other bytes."""
        return self.name.encode("utf-8", "backslashreplace").decode("utf-8")

    @property
    def page(self) -> Path | None:
        """Its page, if it was written."""
        return self._written("_report.html")

    @property
    def preview(self) -> Path | None:
        """Its picture, if it was written."""
        return self._written("_preview.png")

    def _written(self, suffix: str) -> Path | None:
        path = path_for(self.base, suffix)
        return path if path.name in self.files and path.is_file() else None

    def to_json(self) -> dict[str, Any]:
        """What the list of cases needs, as JSON types."""
        return {
            "id": self.id,
            "name": self.shown,
            "bundle": self.bundle,
            "flags": [{"code": code, "message": message} for code, message in self.flags],
            "doubt": self.doubt,
            "numbers": dict(self.numbers),
            "correctable": self.mask is not None,
        }


def find_results(folder: Path) -> list[ReviewCase]:
    """Finds the cases whose results are complete.

    Args:
        folder: output folder of ``segment`` or ``cohort``.

    Returns:
        The cases by name. A case whose files cannot be read is left out, with a warning.

    Raises:
        InputRefused: ``FOLDER_NOT_FOUND``, or ``NO_IMAGES`` if there is no result in it.
    """
    if not folder.is_dir():
        raise InputRefused(RefusalCode.FOLDER_NOT_FOUND, f"{folder} is not a folder; give the output folder of segment")
    cases = []
    for path in sorted(folder.rglob(f"*{REPORT}")):
        base = path.with_name(path.name.removesuffix(REPORT))
        try:
            case = _case(base, base.relative_to(folder).as_posix(), _read(path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is left out: it cannot be read (%s)", base, type(error).__name__)
            continue
        if case is not None:
            cases.append(case)
    if not cases:
        raise InputRefused(
            RefusalCode.NO_IMAGES, f"{folder} holds no results (x_report.json); give the output folder of segment"
        )
    return cases


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _case(base: Path, name: str, report: Mapping[str, Any]) -> ReviewCase | None:
    if report.get("schema") != SCHEMA:
        return None
    measured = _read(path_for(base, "_measurements.json"))
    times = Counter(item["name"] for item in measured["measurements"])
    once = [item for item in measured["measurements"] if times[item["name"]] == 1]
    promised = report["evidence"].get("expected_dice")
    options, files = report.get("options", {}), frozenset(map(str, report["files"]))
    masks = [path for suffix in MASKS if (path := path_for(base, suffix)).name in files and path.is_file()]
    reading = {key: options[key] for key in ("series_uid", "resample_uneven") if options.get(key)}
    if options.get("phase", ALL) != ALL:
        reading["phase"] = ALL
    return ReviewCase(
        id=hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:ID_LETTERS],
        name=name,
        base=base,
        bundle=str(report["bundle"]["name"]),
        flags=tuple((str(flag["code"]), str(flag["message"])) for flag in measured["flags"]),
        doubt=None if promised is None else round(1 - float(promised), 4),
        numbers={item["name"]: item["value"] for item in once},
        titles={item["name"]: (item["title"], item["unit"]) for item in once},
        phases=tuple(report.get("input", {}).get("phases", (0,))),
        reading=reading,
        mask=masks[0] if masks else None,
        files=files,
    )
