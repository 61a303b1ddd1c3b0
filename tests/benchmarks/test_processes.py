"""What a process took is its own, whatever ran before."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convformer_monai.benchmarks.processes import in_own_process, run_program, run_python


def test_memory_is_that_of_the_process() -> None:
    held = bytes(1) * 600_000_000  # by this process, which does not count
    large = run_python(["-c", "bytes(1) * 300_000_000"]).megabytes
    small = run_python(["-c", "pass"]).megabytes
    assert large - small == pytest.approx(300, abs=20) and small < 100 and held


@pytest.mark.parametrize(("code", "said"), [("raise SystemExit('why')", "why"), ("raise SystemExit(3)", "status 3")])
def test_failure_is_told(code: str, said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        run_python(["-c", code])


def test_what_a_program_says_is_kept(tmp_path: Path) -> None:
    environment = {**os.environ, "WORD": "two"}
    with (tmp_path / "log").open("w+") as log:
        command = [sys.executable, "-c", "import os, sys; print('one'); sys.stderr.write(os.environ['WORD'])"]
        said, ran = run_program(command, environment, log)
        assert said.splitlines()[0] == "one" and ran.seconds > 0
        with pytest.raises(subprocess.CalledProcessError) as caught:
            run_program([sys.executable, "-c", "print('three'); raise SystemExit('four')"], errors=log)
    assert caught.value.stdout.strip() == "three" and (tmp_path / "log").read_text().split() == ["twofour"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_program_ends_with_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_process: object) -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("."):
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", stopped)
    code = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(f'{os.getpid()}.'); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        run_program([sys.executable, "-c", code, str(tmp_path / "pid")])
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()[:-1]), 0)


def test_function_in_a_process_of_its_own() -> None:
    first, second = in_own_process(os.getpid), in_own_process(os.getpid)
    assert len({first, second, os.getpid()}) == 3


def test_function_that_fails_or_dies() -> None:
    with pytest.raises(RuntimeError, match="invalid literal for int.* 'many'"):
        in_own_process(int, "many")
    with pytest.raises(RuntimeError, match="its process ended with exit status 3"):
        in_own_process(os._exit, 3)
