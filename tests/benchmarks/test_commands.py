"""``convformer-monai benchmark``: its options, and the benchmark of whole commands on small images."""

from __future__ import annotations

import pytest

from convformer_monai.cli import main


@pytest.mark.parametrize("name", ["all", "cardiac", "csa", "dicom", "nets", "training"])
@pytest.mark.parametrize("arguments", [["--bogus"], ["--repeats", "0"], ["--repeats", "many"]])
def test_wrong_arguments(name, arguments, capsys):
    assert main(["benchmark", name, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert arguments[0] in line


@pytest.mark.parametrize("sizes", ["0", "a", "", "1.5"])
def test_wrong_sizes(sizes, capsys):
    assert main(["benchmark", "csa", "--sizes", sizes]) == 2
    assert capsys.readouterr().err.startswith("error[OPTION]: --sizes must be whole numbers from 1 on")


@pytest.mark.slow
def test_dicom_table(capsys):
    assert main(["benchmark", "dicom", "--repeats", "1", "--size", "32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "40 slices of 32 x 32" in lines[-2] and "2 slices x 25 phases" in lines[-1]
    for line in lines[-2:]:
        seconds, ratio, megabytes = (float(value) for value in line.split()[-3:])
        assert seconds > 0 and ratio > 0 and megabytes > 50
