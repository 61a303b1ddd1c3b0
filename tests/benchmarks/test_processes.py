"""What a process took is its own, whatever ran before."""

from __future__ import annotations

import os

import pytest

from convformer_monai.benchmarks.processes import in_own_process, run_python


def test_memory_is_that_of_the_process() -> None:
    held = bytes(1) * 600_000_000  # by this process, which does not count
    large = run_python(["-c", "bytes(1) * 300_000_000"]).megabytes
    small = run_python(["-c", "pass"]).megabytes
    assert large - small == pytest.approx(300, abs=20) and small < 100 and held


@pytest.mark.parametrize(("code", "said"), [("raise SystemExit('why')", "why"), ("raise SystemExit(3)", "status 3")])
def test_failure_is_told(code: str, said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        run_python(["-c", code])


def test_function_in_a_process_of_its_own() -> None:
    first, second = in_own_process(os.getpid), in_own_process(os.getpid)
    assert len({first, second, os.getpid()}) == 3


def test_function_that_fails_or_dies() -> None:
    with pytest.raises(RuntimeError, match="invalid literal for int.* 'many'"):
        in_own_process(int, "many")
    with pytest.raises(RuntimeError, match="its process ended with exit status 3"):
        in_own_process(os._exit, 3)
