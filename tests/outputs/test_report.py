"""Reports: what they hold, that the fingerprint is the image's, and that they hold no paths and nothing personal."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from result_series import photo_series, volume_series

from convformer_monai import __version__
from convformer_monai.errors import InputRefused
from convformer_monai.measurements.measure import measure
from convformer_monai.outputs.atomic import AtomicFiles
from convformer_monai.outputs.report import fingerprint, make_report, write_report
from convformer_monai.phantoms.dicom import Identity, linear_series, save_series
from convformer_monai.readers import read_series
from convformer_monai.readers.series import ImageSeries
from convformer_monai.tasks.cardiac import CARDIAC
from convformer_monai.tasks.dermoscopy import DERMOSCOPY
from convformer_monai.tasks.task import Task

KEYS = [
    "schema",
    "schema_version",
    "created",
    "versions",
    "bundle",
    "licence",
    "input",
    "ed",
    "es",
    "flags",
    "warnings",
    "notes",
    "evidence",
]
KEYS += ["options", "device", "seconds", "files"]
AFFINE = np.diag([-1.5, -1.25, 8.0, 1.0])
SHAPE = (2, 6, 5, 4)


def cine(**fields: Any) -> ImageSeries:
    return volume_series(SHAPE, AFFINE, **({"phases": (3, 7), "phase_times_ms": (90.0, 210.5)} | fields))


def labels() -> np.ndarray:
    result = np.zeros(SHAPE, np.uint8)
    result[0, 1:5, 1:4, 1:3], result[1, 2:4, 1:4, 1:3] = 3, 3
    return result


def report_of(series: ImageSeries, mask: np.ndarray | None = None, task: Task = CARDIAC, **changes: Any) -> dict:
    mask = labels() if mask is None else mask
    arguments: dict[str, Any] = {
        "measurements": measure(mask, series, task, case="x"),
        "bundle": task.name,
        "bundle_version": "0.1.0",
        "licence": {"code": "Apache-2.0", "weights": "no commercial use"},
        "weights_sha256": "ab" * 32,
        "device": "cpu",
        "seconds": {"read": 0.1234567, "network": 2},
        "options": {"phase": "all", "preview": True},
        "notes": ["on the CPU"],
        "evidence": {"highest_probability": 0.123456},
        "files": [Path("/somewhere/secret/x_seg.nii.gz"), "/somewhere/secret/x_report.json"],
    }
    return make_report(series, **(arguments | changes))


class TestContent:
    def test_of_a_cine(self) -> None:
        report = report_of(cine(warnings=("slices are thick",), modality="MR"))
        assert list(report) == KEYS and json.loads(json.dumps(report)) == report
        assert (report["schema"], report["schema_version"]) == ("convformer_monai.report", 1)
        age = datetime.now(timezone.utc) - datetime.fromisoformat(report["created"])
        assert timedelta(seconds=-1) <= age < timedelta(minutes=5)
        assert report["versions"]["convformer_monai"] == __version__
        assert report["versions"]["monai"] == version("monai") and report["versions"]["torch"] == version("torch")
        assert set(report["versions"]) == {"convformer_monai", "monai", "torch", "numpy", "python"}
        assert report["bundle"] == {"name": CARDIAC.name, "version": "0.1.0", "weights_sha256": "ab" * 32}
        assert report["licence"] == {"code": "Apache-2.0", "weights": "no commercial use"}
        assert report["input"] == {
            "fingerprint": fingerprint(cine()),
            "format": "nifti",
            "modality": "MR",
            "shape": [2, 6, 5, 4],
            "spacing_mm": [1.5, 1.25, 8.0],
            "phases": [3, 7],
            "phase_times_ms": [90.0, 210.5],
        }
        assert report["ed"] == {"phase": 3, "chosen": "found"} and report["es"] == {"phase": 7, "chosen": "found"}
        assert [flag["code"] for flag in report["flags"]] == ["READER_WARNING", "STRUCTURE_MISSING"]
        assert report["warnings"] == ["slices are thick"] and report["notes"] == ["on the CPU"]
        assert report["evidence"] == {"highest_probability": 0.1235}
        assert report["options"] == {"phase": "all", "preview": True} and report["device"] == "cpu"
        assert report["seconds"] == {"read": 0.1235, "network": 2.0}
        assert report["files"] == ["x_seg.nii.gz", "x_report.json"]

    def test_of_what_it_follows_from(self) -> None:
        made_by = {"bundle": "a", "weights": "b", "options": "c", "input": "d"}
        report = report_of(cine(), made_by=made_by)
        assert list(report) == [*KEYS, "made_by"] and report["made_by"] == made_by

    def test_of_the_user_s_phases(self) -> None:
        report = report_of(cine(), measurements=measure(labels(), cine(), CARDIAC, case="x", ed=7, es=3))
        assert report["ed"] == {"phase": 7, "chosen": "user"} and report["es"] == {"phase": 3, "chosen": "user"}

    @pytest.mark.parametrize(("known", "spacing"), [(True, [0.05, 0.04]), (False, None)])
    def test_of_a_photograph(self, known: bool, spacing: list[float] | None) -> None:
        series = photo_series((8, 6), (0.05, 0.04), known)
        report = report_of(series, np.ones((8, 6), np.uint8), DERMOSCOPY)
        assert "ed" not in report and "es" not in report
        assert report["input"]["spacing_mm"] == spacing and report["input"]["shape"] == [3, 8, 6]
        assert report["input"]["phase_times_ms"] == [] and report["input"]["modality"] is None

    def test_of_frames_are_only_the_numbers(self, tmp_path: Path) -> None:
        save_series(linear_series(phases=2, modality="MR"), tmp_path / "in")
        series = read_series(tmp_path / "in", phase="all")
        report = report_of(series, np.zeros(tuple(series.image.shape), np.uint8))
        count = series.image.shape[0] * series.image.shape[3]
        assert (report["input"]["frames"], report["input"]["sop_instances"]) == (count, count)
        uids = [frame.sop_instance_uid for phase in series.frames for frame in phase]
        assert not any(uid in json.dumps(report) for uid in uids)


class TestPrivacy:
    def test_of_dicom_nothing_but_the_modality_is_told(self, tmp_path: Path) -> None:
        planted = [part for value in Identity().planted.values() for part in value.split("^") if len(part) > 3]
        files = linear_series(modality="MR", identity=Identity())
        assert all(value in str(files[0]) for value in planted)
        save_series(files, tmp_path / "in")
        series = read_series(tmp_path / "in")
        mask = np.zeros(tuple(series.image.shape), np.uint8)
        measurements = measure(mask, series, CARDIAC, case="x")
        text = json.dumps(report_of(series, mask))
        for content in (text, measurements.to_json(), measurements.to_text()):
            assert not [value for value in (*planted, "Planted", "PLANTED", str(tmp_path)) if value in content]
        assert '"MR"' in text

    def test_no_paths(self) -> None:
        series = cine(path=Path("/home/DOE_JANE/scan.nii.gz"))
        text = json.dumps(report_of(series))
        assert "DOE" not in text and "/home" not in text and "somewhere" not in text
        assert not re.search(r"\"/|\\\\", text)


class TestFingerprint:
    def test_is_of_shape_type_voxels_and_affine(self) -> None:
        series = cine()
        digest = hashlib.sha256(b"(2, 6, 5, 4) float32 ")
        digest.update(np.linspace(0, 1000, 240).astype("<f4").tobytes() + AFFINE.astype("<f8").tobytes())
        assert fingerprint(series) == digest.hexdigest()

    def test_is_the_same_for_the_same_data(self) -> None:
        other = cine(path=Path("other"), format="dicom", modality="MR", phases=(0, 1), phase_times_ms=())
        assert fingerprint(cine()) == fingerprint(other)
        values = np.linspace(0, 1000, 240).astype(np.float32).reshape(SHAPE)
        turned = torch.from_numpy(values.transpose(3, 2, 1, 0).copy()).permute(3, 2, 1, 0)  # other strides
        assert not turned.is_contiguous()
        image = MetaTensor(turned, affine=torch.from_numpy(AFFINE))
        assert fingerprint(replace(cine(), image=image)) == fingerprint(cine())

    def test_changes_with_a_voxel_the_shape_the_type_and_the_affine(self) -> None:
        values = np.linspace(0, 1000, 240).astype(np.float32).reshape(SHAPE)
        voxel = values.copy()
        voxel[1, 2, 3, 1] = np.nextafter(voxel[1, 2, 3, 1], np.float32(np.inf))
        moved, scaled = AFFINE.copy(), AFFINE.copy()
        moved[0, 3], scaled[1, 1] = 1e-9, -1.25000001
        series = [
            cine(),
            volume_series(SHAPE, AFFINE, voxel),
            volume_series((2, 5, 6, 4), AFFINE, values.reshape(2, 5, 6, 4)),
            volume_series(SHAPE, moved, values),
            volume_series(SHAPE, scaled, values),
            replace(cine(), image=MetaTensor(torch.from_numpy(values.astype(np.float64)), affine=torch.tensor(AFFINE))),
        ]
        assert len({fingerprint(series) for series in series}) == len(series)

    def test_of_photographs(self) -> None:
        one = photo_series((8, 6))
        other = photo_series((8, 6), values=one.image.numpy() ^ (np.arange(144).reshape(3, 8, 6) == 77))
        assert fingerprint(one) != fingerprint(other) and fingerprint(one) == fingerprint(photo_series((8, 6)))


class TestFile:
    def test_reads_back(self, tmp_path: Path) -> None:
        report = report_of(cine(), notes=["Größe: 心臓"])
        write_report(tmp_path / "x.json", report)
        assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == report
        assert "Größe: 心臓".encode() in (tmp_path / "x.json").read_bytes()
        with pytest.raises(InputRefused, match="EXISTS"):
            write_report(tmp_path / "x.json", report)
        write_report(tmp_path / "x.json", {"a": 1}, overwrite=True)
        assert (tmp_path / "x.json").read_text() == '{\n  "a": 1\n}\n'

    def test_file_names_that_are_no_utf_8(self, tmp_path: Path) -> None:
        report = report_of(cine(), files=[b"case\xff_seg.nii.gz".decode("utf-8", "surrogateescape")])
        write_report(tmp_path / "x.json", report)
        assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == report

    @pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
    def test_numbers_that_are_not_finite(self, tmp_path: Path, wrong: float) -> None:
        with pytest.raises(ValueError, match="JSON compliant"):
            write_report(tmp_path / "x.json", report_of(cine(), seconds={"read": wrong}))
        assert not list(tmp_path.iterdir())

    def test_joins_a_transaction(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), AtomicFiles(overwrite=False) as files:
            write_report(tmp_path / "x.json", report_of(cine()), files=files)
            raise KeyError
        assert not list(tmp_path.iterdir())
