"""What libraries say stays off the terminal, for those who import the package too: it goes to the debug log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from convformer_monai.phantoms import dermoscopy_phantom
from convformer_monai.phantoms.dicom.kinds import write_kind

SEGMENT = """
import sys
from convformer_monai.segmenter import Segmenter

Segmenter(sys.argv[1]).segment(sys.argv[2])
"""
EXPORT = """
import logging, sys
from pathlib import Path

if len(sys.argv) > 2:
    logging.basicConfig(level=logging.DEBUG)
from convformer_monai.export import export_network

export_network("cardiac", Path(sys.argv[1]))
"""


def said(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return done.stderr


def test_segmenting_by_the_api_says_nothing(tmp_path: Path) -> None:
    series, _ = write_kind("cardiac", tmp_path, num_phases=2)
    assert said(SEGMENT, "cardiac", series) == ""
    photo, _ = dermoscopy_phantom(size=(160, 120)).save(tmp_path, "x")
    assert said(SEGMENT, "dermoscopy", photo) == ""


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".ts", ".pt2", ".onnx"])
def test_exporting_by_the_api_says_nothing(ending: str, tmp_path: Path) -> None:
    assert said(EXPORT, tmp_path / f"net{ending}") == ""


@pytest.mark.slow
def test_what_torch_says_of_an_export_goes_to_the_debug_log(tmp_path: Path) -> None:
    assert "DEBUG:convformer_monai.export:" in said(EXPORT, tmp_path / "net.onnx", "debug")
