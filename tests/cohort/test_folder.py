"""What a run over a folder says, and the table that it leaves."""

from __future__ import annotations

import csv
import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nifti_files import save
from PIL import Image

from convformer_monai.cohort.folder import CaseResult, Summary, _log_all, each_case, segment_cases
from convformer_monai.errors import InputRefused
from convformer_monai.outputs.case import merge_measurements
from convformer_monai.outputs.writer import Options
from convformer_monai.phantoms import cardiac_phantom
from convformer_monai.readers.cases import Case, find_cases
from convformer_monai.segmenter import Segmenter


def result(name: str, status: str, message: str = "", flags: int = 0) -> CaseResult:
    measurements = {"flags": [{"code": "MASK_EMPTY", "message": "nothing was found"}] * flags}
    return CaseResult(Case(Path("in") / name, name), status, message, measurements=measurements)


def said(results: list[CaseResult], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> list[str]:
    with caplog.at_level(logging.INFO):
        _log_all(results, quiet=False)
    return [*capsys.readouterr().err.splitlines(), *caplog.messages]


def test_the_last_line_counts_the_flagged(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    results = [result("a", "done", flags=2), result("b", "done"), result("c", "skipped", flags=1)]
    assert Summary(results).to_json()["flagged"] == 2
    assert said(results, capsys, caplog) == [
        "2 done, 1 of them with flags of doubt; 1 skipped, 1 of them with flags of doubt; 0 refused; 0 failed"
    ]
    caplog.clear()
    assert said(results[1:2], capsys, caplog) == ["1 done, 0 skipped, 0 refused, 0 failed"]


def test_equal_reasons_are_one_line(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    masks = [result(f"{i}.png", "refused", f"error[NOT_AN_IMAGE]: {i}.png holds 0, 255: a mask") for i in range(5)]
    others = [result(f"x{i}.png", "refused", f"error[WRONG_KIND]: in/x{i}.png is a photograph") for i in range(3)]
    assert said([*masks, *others], capsys, caplog) == [
        "5 images: error[NOT_AN_IMAGE]: each holds 0, 255: a mask; the first 0.png",
        *(f"x{i}.png: error[WRONG_KIND]: in/x{i}.png is a photograph" for i in range(3)),
        "0 done, 0 skipped, 8 refused, 0 failed",
    ]


def test_in_a_folder_the_refusal_names_the_bundle_that_fits(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.new("RGB", (40, 30), (200, 150, 120)).save(source / "skin.png")
    head = np.full((40, 40, 4), -1000, np.int16)
    head[10:30, 10:30] = 40
    save(source / "head.nii.gz", head)
    summary = segment_cases(source, tmp_path / "out", "cardiac", Options(), device="cpu", quiet=True)
    ct, photo = (one.message for one in summary.results)
    assert "use -b hemorrhage, or --force-modality" in ct and "use -b dermoscopy" in photo


def test_tables_of_an_earlier_version_are_merged(tmp_path: Path) -> None:
    (tmp_path / "a_measurements.csv").write_text("case,name,title,value,unit,phase,structure\na,v,V,1,mL,0,LV\n")
    (tmp_path / "b_measurements.csv").write_text(
        'case,name,title,value,unit,phase,structure,flags\n"b\nc",v,V,1,mL,0,LV,MASK_EMPTY\n'
    )
    (tmp_path / "c_measurements.csv").write_text("case\nc\n")  # without a report: not done
    for name in ("a", "b"):
        (tmp_path / f"{name}_report.json").touch()
    merge_measurements(tmp_path)
    with open(tmp_path / "measurements.csv", newline="") as file:
        assert [(row["case"], row["flags"]) for row in csv.DictReader(file)] == [("a", ""), ("b\nc", "MASK_EMPTY")]


def test_a_mask_of_a_photograph_is_no_photograph(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[10:20, 10:20] = 255
    Image.fromarray(mask).save(tmp_path / "x.png")
    with pytest.raises(InputRefused) as refusal:
        segment_cases(tmp_path / "x.png", tmp_path / "out", "dermoscopy", Options(), device="cpu", quiet=True)
    assert refusal.value.code == "NOT_AN_IMAGE" and "the values 0, 255: a mask" in refusal.value.message


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small hearts, and a file between them that is none."""
    source = tmp_path_factory.mktemp("hearts")
    for name in ("a", "b", "d", "e"):
        cardiac_phantom(shape=(48, 48, 2), spacing=(3.0, 3.0, 10.0)).save(source, name)
        (source / f"{name}_truth.nii.gz").unlink()
    (source / "c.nii.gz").write_bytes(b"no image")
    return source


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter("cardiac", "cpu")


def test_the_next_case_is_read_while_the_network_runs(
    hearts: Path, segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the network does one case at a time, and the results keep their order."""
    read, running, most, waited = threading.Event(), [0], [0], []
    original, forward = Segmenter.read, segmenter.network.forward

    def reading(self: Segmenter, path: Path, **options: Any) -> Any:
        if path.name == "b.nii.gz":
            read.set()
        return original(self, path, **options)

    def slow(x: torch.Tensor) -> Any:
        running[0] += 1
        most[0] = max(most[0], running[0])
        waited.append(read.wait(60))
        running[0] -= 1
        return forward(x)

    monkeypatch.setattr(Segmenter, "read", reading)
    monkeypatch.setattr(segmenter.network, "forward", slow)
    results = list(each_case(segmenter, find_cases(hearts), tmp_path, Options(), True, set()))
    assert all(waited) and most == [1]
    assert [(result.case.name, result.status) for result in results] == [
        *(("a", "done"), ("b", "done"), ("c", "refused"), ("d", "done"), ("e", "done"))
    ]
    assert not list(tmp_path.glob(".*"))


def test_who_takes_no_more_results_stops_the_network(hearts: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    cases = each_case(segmenter, find_cases(hearts), tmp_path, Options(), True, set())
    assert next(cases).case.name == "a"
    cases.close()
    left = {path.name for path in tmp_path.iterdir()}
    assert "a_report.json" in left and "e_report.json" not in left
    assert not [name for name in left if name.startswith(".")], "what was not done leaves nothing"
    assert not segmenter.network._forward_pre_hooks
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("case")]


def test_results_of_other_options_are_not_skipped(bundle: Path, studies: Path, out: Path) -> None:
    (studies / "bad.nii.gz").unlink()

    def run(**options: bool) -> list[str]:
        summary = segment_cases(studies, out, bundle, Options(), device="cpu", quiet=True, **options)
        return [f"{result.status} {result.message}" for result in summary.results]

    assert run() == ["done "] * 2
    assert run() == ["skipped done before"] * 2
    assert all(line.startswith("refused error[EXISTS]: ") for line in run(flips=True))
    (studies / "s0.nii.gz").write_bytes((studies / "s1.nii.gz").read_bytes())
    os.utime(studies / "s0.nii.gz", (0, 0))
    first, second = run()
    assert first.startswith("refused error[EXISTS]: ") and second == "skipped done before"
