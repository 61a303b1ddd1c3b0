"""The files that pages hold: our own scripts and styles, and NiiVue."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from pathlib import Path

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["asset", "licences", "need_niivue", "niivue"]

FOLDER = Path(__file__).parent
NIIVUE = FOLDER / "built" / "niivue.js"


def need_niivue() -> None:
    """Refuses to go on where NiiVue is not there: in a clone, until it is bundled.

    Raises:
        InputRefused: ``MISSING_PACKAGE``.
    """
    if not NIIVUE.is_file():
        raise InputRefused(
            RefusalCode.MISSING_PACKAGE,
            "--report needs NiiVue, which is not bundled in this clone: run scripts/viewer (it needs npm), or install "
            "the wheel, which holds it",
        )


@cache
def niivue() -> str:
    """NiiVue's script, compressed by gzip, in base64."""
    return base64.b64encode(gzip.compress(NIIVUE.read_bytes(), 9, mtime=0)).decode("ascii")


@cache
def licences() -> str:
    """The licences of NiiVue and of what is bundled with it, which a copy of it must come with."""
    path = NIIVUE.with_name("LICENCES.txt")
    return path.read_text(encoding="utf-8") if path.is_file() else ""


@cache
def asset(name: str) -> str:
    """Reads a script or style of ours.

    Args:
        name: of a file in this folder.
    """
    return (FOLDER / name).read_text(encoding="utf-8")
