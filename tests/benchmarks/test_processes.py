"""What a process took is its own, whatever ran before."""

from __future__ import annotations

import subprocess
import sys

import pytest

from convformer_monai.benchmarks.processes import run_python


def test_memory_is_that_of_the_process() -> None:
    code = "from convformer_monai.benchmarks.processes import run_python as run\n"
    code += "print(run(['-c', 'bytes(1) * 300_000_000'])[1] - run(['-c', 'pass'])[1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(300, abs=20)


@pytest.mark.parametrize(("code", "said"), [("raise SystemExit('why')", "why"), ("raise SystemExit(3)", "status 3")])
def test_failure_is_told(code: str, said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        run_python(["-c", code])
