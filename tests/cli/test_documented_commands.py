"""Every command that the documents show exists, with its options."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import typer.main

from convformer_monai.cli import app
from convformer_monai.cli.app import TAKES_IDS, with_dashes

STARTS = r"(?:convformer-monai |scripts/(?=benchmark|demo|evaluate|experiment|export|label|train))"


def shown(text: str) -> list[str]:
    """The commands in a Markdown document, without what is in front of them."""
    inline = re.findall(rf"`{STARTS}([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL)
    return inline + re.findall(rf"^\s*{STARTS}(.+)$", "\n".join(blocks), re.MULTILINE)


def ids(repository: Path) -> set[str]:
    """All ids of the trainings."""
    files = (repository / "bundles").glob("*/configs/train.json")
    return {f"--{with_dashes(id)}" for file in files for id in json.loads(file.read_text(encoding="utf-8"))}


def test_documented_commands_exist(repository: Path) -> None:
    documents = [repository / "README.md", repository / "CHANGELOG.md", *(repository / "docs").glob("*.md")]
    documents += (repository / "bundles").glob("*/docs/README.md")
    found = [(file, line) for file in documents for line in shown(file.read_text(encoding="utf-8"))]
    assert len(found) > 50
    for file, line in found:
        words = shlex.split(line.replace("'s ", " "), comments=True)
        command: Any = typer.main.get_command(app)
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, (file.name, line)
            command = command.commands[words.pop(0)]
        known = {"-h", "--help"} | {with_dashes(option) for param in command.params for option in param.opts}
        if command.context_settings.items() >= TAKES_IDS.items():
            known |= ids(repository)
        given = {with_dashes(word.partition("=")[0].partition("#")[0]) for word in words if re.match(r"--?[a-z]", word)}
        assert given <= known, (file.name, line, given - known)
