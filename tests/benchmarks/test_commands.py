"""``scripts/benchmark``: its arguments, and the benchmarks of whole commands on small images."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from convformer_monai.benchmarks import cardiac, csa, dicom, nets


def test_script(repository: Path) -> None:
    script = repository / "scripts" / "benchmark"
    shown = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert "usage: scripts/benchmark NAME" in shown.stdout
    for arguments in ([], ["nothing"]):
        refused = subprocess.run([script, *arguments], capture_output=True, text=True, check=False)
        assert refused.returncode == 2 and "usage:" in refused.stderr


def test_output_is_where_the_user_stands(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "scripts", tmp_path / "repo" / "scripts")
    (tmp_path / "repo" / "scripts" / "_environment").write_text(f"root='{tmp_path}/repo' python=echo\n")
    script = tmp_path / "repo" / "scripts" / "benchmark"
    for given in (["--output", "my costs"], ["--output=my costs"]):
        done = subprocess.run([script, "nets", *given], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == f"-m convformer_monai.benchmarks.nets --output {tmp_path}/my costs\n"
    refused = subprocess.run([script, "nets", "--output"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and refused.stderr == "error: --output needs a value\n"


@pytest.mark.parametrize("module", [cardiac, csa, dicom, nets])
@pytest.mark.parametrize("arguments", [["--bogus"], ["--repeats", "0"], ["--repeats", "many"]])
def test_wrong_arguments(module, arguments, capsys):
    with pytest.raises(SystemExit) as ending:
        module.main(arguments)
    assert ending.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert arguments[0] in line


@pytest.mark.slow
def test_dicom_table(capsys):
    dicom.main(["--repeats", "1", "--size", "32"])
    lines = capsys.readouterr().out.splitlines()
    assert "40 slices of 32 x 32" in lines[-2] and "2 slices x 25 phases" in lines[-1]
    for line in lines[-2:]:
        seconds, ratio, megabytes = (float(value) for value in line.split()[-3:])
        assert seconds > 0 and ratio > 0 and megabytes > 50
