"""A run that is killed while its results get their names: the next one goes on, and nothing half done is left.

``CONVFORMER_CHAOS=100`` kills at that many moments of a whole command, too; docs/reliability.md has the result.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from convformer_monai.outputs.atomic import AtomicFiles, check_writable
from convformer_monai.outputs.journal import Journal, tidy_up
from convformer_monai.phantoms import cardiac_phantom

NAMES = ("x_seg.nii.gz", "x_measurements.json", "x_report.json")
CHILD = (
    f"NAMES = {NAMES}"
    + """
import os, signal, sys
from pathlib import Path
from convformer_monai.outputs import atomic, journal

folder, moment, overwrite, links = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1", sys.argv[4] == "1"
count = 0


def deadly(function):
    def call(*arguments, **options):
        global count
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return call


def no_links(*arguments, **options):
    raise OSError(95, "not supported")


os.link = deadly(os.link if links else no_links)
os.replace = deadly(os.replace)
Path.unlink = deadly(Path.unlink)
with atomic.AtomicFiles(overwrite=overwrite) as files:
    for name in NAMES:
        files.write(folder / name, lambda path: path.write_text("new"), lambda path: path.read_text() == "new")
"""
)


def contents(folder: Path) -> list[str]:
    return [(folder / name).read_text() if (folder / name).exists() else "" for name in NAMES]


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwrite"])
def test_killed_at_every_rename_and_removal(
    tmp_path: Path, overwrite: bool, links: bool, record_property: Callable[[str, object], None]
) -> None:
    for moment in range(1, 40):
        folder = tmp_path / str(moment)
        folder.mkdir()
        before = ["old"] * len(NAMES) if overwrite else [""] * len(NAMES)
        for name in NAMES if overwrite else ():
            (folder / name).write_text("old")
        words = [str(folder), str(moment), str(int(overwrite)), str(int(links))]
        done = subprocess.run([sys.executable, "-c", CHILD, *words], check=False, capture_output=True)
        if done.returncode == 0:
            assert contents(folder) == ["new"] * len(NAMES) and moment > len(NAMES)
            record_property("trials", moment - 1)
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        tidy_up(folder)
        assert contents(folder) in (before, ["new"] * len(NAMES)), moment
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [], moment
    else:
        pytest.fail("the command never came to its end")


def test_a_living_run_is_left_alone(tmp_path: Path) -> None:
    with AtomicFiles() as files:
        files.write(tmp_path / "a", lambda path: path.write_text("x"), lambda path: True)
        tidy_up(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_files_of_other_programs_stay(tmp_path: Path) -> None:
    (tmp_path / "x_seg.nii.gz").write_text("somebody's")
    (tmp_path / ".hidden").write_text("somebody's")
    journal = Journal(tmp_path)
    journal.note(target="x_seg.nii.gz", temporary=".0.partial.nii.gz")
    journal._file.close()
    tidy_up(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "x_seg.nii.gz"]


def test_killed_while_it_tries_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # as if it had been killed before
    check_writable(tmp_path, "advice")
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    tidy_up(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_journal_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("somebody's")
    (tmp_path / ".1.convformer-journal").write_bytes(b'{"target": "x", "tempo\n[1]\n\xff\n')
    tidy_up(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.slow
def test_commands_killed_at_random(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """A folder of cases; the command is killed again and again, and at last left to end."""
    trials = int(os.environ.get("CONVFORMER_CHAOS", "2"))
    record_property("attack", "kills of a command")
    record_property("trials", trials)
    for number in range(3):
        phantom = cardiac_phantom(shape=(64, 64, 3), spacing=(2.4, 2.4, 10.0), seed=number)
        phantom.save(tmp_path / "in", f"case{number}")
    command = [sys.executable, "-m", "convformer_monai.cli", "segment", "-i", str(tmp_path / "in"), "-o"]
    command += [str(tmp_path / "out"), "--preview", "-q"]
    random.seed(0)
    for _ in range(trials):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        time.sleep(random.uniform(4.0, 9.0))
        process.kill()
        process.communicate()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    left = [path.name for path in (tmp_path / "out").rglob(".*")]
    assert left == [] and len(list((tmp_path / "out").glob("*_report.json"))) == 3
