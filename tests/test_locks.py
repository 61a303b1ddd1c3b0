"""One process a case."""

from __future__ import annotations

import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest

from convformer_monai import locks
from convformer_monai.locks import hold

HOLDER = """
import sys, time
from pathlib import Path
from convformer_monai.locks import hold
with hold(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    time.sleep(60)
"""


def test_a_case_is_held_by_one_process_until_it_dies(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        with hold(tmp_path / "x") as ours:
            assert not ours
        with hold(tmp_path / "y") as ours:
            assert ours
    finally:
        holder.kill()  # leaves its file
        holder.wait()
    assert [path.suffix for path in tmp_path.iterdir()] == [locks.SUFFIX]
    with hold(tmp_path / "x") as ours:
        assert ours
    assert not list(tmp_path.iterdir())


def test_the_lock_ends_with_the_block_and_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hold(tmp_path / "x"):
        raise KeyError
    with hold(tmp_path / "x") as ours:
        assert ours


def _count(folder: str) -> int:
    """Adds one to a number in a file as often as it gets hold of it."""
    number, done = Path(folder) / "number", 0
    while done < 60:
        with hold(Path(folder) / "number") as ours:
            if ours:
                number.write_text(str(int(number.read_text()) + 1))
                done += 1
    return done


def test_two_processes_are_never_inside_at_once(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    with get_context("spawn").Pool(2) as pool:
        assert pool.map(_count, [str(tmp_path)] * 2) == [60, 60]
    assert (tmp_path / "number").read_text() == "120"


def test_where_there_are_no_locks_every_process_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    with hold(tmp_path / "x") as first, hold(tmp_path / "x") as second:
        assert first and second
