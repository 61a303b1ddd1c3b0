"""The folder for temporary files of a label server, however the server ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = """
import tempfile
from convformer_monai.label_app.scratch import own_temporary_folder

with own_temporary_folder() as folder:
    assert tempfile.gettempdir() == str(folder)
    (folder / "upload.nii.gz").write_text("of a patient")
    print("ready", flush=True)
    input()
"""


def serve(temporary: Path) -> subprocess.Popen[str]:
    """Starts a process with a folder of its own; returns when it has it."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_a_server_that_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    process = serve(tmp_path)
    assert len(list(tmp_path.glob("*/upload.nii.gz"))) == 1
    process.send_signal(number)
    process.communicate()
    assert process.returncode != 0 and list(tmp_path.iterdir()) == []


def test_the_next_server_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "convformer-label-other").mkdir()
    alive = serve(tmp_path)
    kept = {path.name for path in tmp_path.iterdir()}
    killed = serve(tmp_path)
    killed.kill()
    killed.communicate()
    assert len(list(tmp_path.iterdir())) == 3
    serve(tmp_path).communicate("\n")
    assert {path.name for path in tmp_path.iterdir()} == kept
    alive.communicate("\n")
    assert [path.name for path in tmp_path.iterdir()] == ["convformer-label-other"]
