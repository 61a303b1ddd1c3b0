"""``scripts/benchmark``: its arguments, and the benchmarks of whole commands on small images."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from convformer_monai.benchmarks import cardiac, csa, dicom


def test_script(repository: Path) -> None:
    script = repository / "scripts" / "benchmark"
    shown = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert "usage: scripts/benchmark NAME" in shown.stdout
    for arguments in ([], ["nothing"]):
        refused = subprocess.run([script, *arguments], capture_output=True, text=True, check=False)
        assert refused.returncode == 2 and "usage:" in refused.stderr


@pytest.mark.parametrize("module", [cardiac, csa, dicom])
@pytest.mark.parametrize("arguments", [["--bogus"], ["--repeats", "0"], ["--repeats", "many"]])
def test_wrong_arguments(module, arguments, capsys):
    with pytest.raises(SystemExit) as ending:
        module.main(arguments)
    assert ending.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.slow
def test_dicom_table(capsys):
    dicom.main(["--repeats", "1", "--size", "32"])
    lines = capsys.readouterr().out.splitlines()
    assert "40 slices of 32 x 32" in lines[-2] and "2 slices x 25 phases" in lines[-1]
    for line in lines[-2:]:
        seconds, ratio, megabytes = (float(value) for value in line.split()[-3:])
        assert seconds > 0 and ratio > 0 and megabytes > 50
