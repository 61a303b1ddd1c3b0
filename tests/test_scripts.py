"""The scripts make the environment and hand over to the command line, with the user's words and folder."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from convformer_monai.cli.app import app

COMMANDS = ("benchmark", "demo", "evaluate", "experiment", "export", "label", "train")
Run = Callable[..., list[str]]


@pytest.fixture
def call(repository: Path, tmp_path: Path) -> Run:
    """Runs a script in a stub of the repository; returns the environment, the folder, and what Python was to run."""
    root = tmp_path / "repo"
    shutil.copytree(repository / "scripts", root / "scripts")
    show = tmp_path / "bin" / "show"
    show.parent.mkdir()
    show.write_text("#!/bin/sh\npwd\nprintf '<%s>\\n' \"$@\"\n")
    show.chmod(0o755)
    (root / "scripts" / "_environment").write_text(f"python='{show}'\nprintf '%s\\n' \"${{environment-usual}}\"\n")

    def run(name: str, *arguments: str) -> list[str]:
        script = root / "scripts" / name
        done = subprocess.run([script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_hands_over(call: Run, tmp_path: Path, name: str) -> None:
    environment, folder, *given = call(name, "--data", "my images", "", "--crop#0", "$x")
    assert environment == ("label" if name == "label" else "usual") and folder == str(tmp_path)
    assert given == [
        "<-m>",
        "<convformer_monai.cli>",
        f"<{name}>",
        "<--data>",
        "<my images>",
        "<>",
        "<--crop#0>",
        "<$x>",
    ]


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_of_label_needs_no_environment_of_its_own(call: Run, words: list[str]) -> None:
    environment, _, *given = call("label", *words)
    assert environment == "usual" and given[-2:] == ["<label>", "<--help>"]


def test_scripts_are_short(repository: Path) -> None:
    names = {command.callback.__name__ for command in app.registered_commands}
    names |= {group.name for group in app.registered_groups}
    for name in COMMANDS:
        assert name in names
        text = (repository / "scripts" / name).read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 20 and re.search(r"^exec ", text, re.MULTILINE)
