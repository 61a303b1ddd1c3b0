"""What the documents list is what the code has."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_refusal_is_explained(repository: Path) -> None:
    source = "\n".join(file.read_text(encoding="utf-8") for file in (repository / "convformer_monai").rglob("*.py"))
    raised = set(re.findall(r"(?:InputRefused|CannotWrite|refuse|refused)\(\s*\"([A-Z][A-Z_]+)\"", source))
    listed = set(re.findall(r"`([A-Z][A-Z_]+)`", (repository / "docs" / "inputs.md").read_text(encoding="utf-8")))
    assert len(raised) > 40
    assert raised - listed == set(), "raised, but docs/inputs.md does not explain it"


def test_every_flag_is_explained(repository: Path) -> None:
    source = (repository / "convformer_monai" / "results" / "flags.py").read_text(encoding="utf-8")
    raised = set(re.findall(r"Flag\(\s*\"([A-Z_]+)\"", source)) | set(re.findall(r"\"([A-Z]+_[A-Z_]+)\": \[", source))
    listed = set(re.findall(r"`([A-Z][A-Z_]+)`", (repository / "docs" / "inputs.md").read_text(encoding="utf-8")))
    assert len(raised) > 10
    assert raised - listed == set()
