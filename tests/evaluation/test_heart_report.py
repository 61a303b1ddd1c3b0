"""Heart function in an evaluation, against figures worked out by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from convformer_monai.evaluation.heart_report import function_of, write_heart_report
from convformer_monai.evaluation.metrics import StructureScore, VolumeScore


def volume(patient: str, phase: str, **millilitres: tuple[float, float]) -> VolumeScore:
    """Of structures with a predicted and a reference volume."""
    parts = tuple(StructureScore(name, 0.9, 1.0, 0.5, *both) for name, both in millilitres.items())
    return VolumeScore(f"{patient}_{phase}", patient, phase, parts)


def heart(patient: str, lv: tuple[tuple[float, float], tuple[float, float]]) -> list[VolumeScore]:
    """Of a left ventricle with (predicted, reference) volumes at end diastole and end systole."""
    rest = {"RV": (100.0, 100.0), "MYO": (110.0, 100.0)}
    return [volume(patient, phase, LV=both, **rest) for phase, both in zip(("ED", "ES"), lv, strict=True)]


def test_pairs_are_of_patients_with_both_phases() -> None:
    scores = [*heart("a", ((120.0, 100.0), (60.0, 40.0))), volume("b", "ED", LV=(1, 1), RV=(1, 1), MYO=(1, 1))]
    values = {pair.measurement: (pair.predicted, pair.reference) for pair in function_of(scores)}
    assert values["lv_ef"] == (50.0, 60.0)
    assert values["lv_edv"] == (120.0, 100.0)
    assert values["lv_esv"] == (60.0, 40.0)
    assert values["rv_ef"] == (0.0, 0.0)
    assert values["myocardial_mass"] == pytest.approx((115.5, 105.0))
    assert {pair.patient for pair in function_of(scores)} == {"a"}


def test_a_patient_with_two_scans_is_left_out() -> None:
    """End diastole of one scan and end systole of the other would be taken for one heart."""
    twice = [*heart("a", ((120.0, 100.0), (60.0, 50.0))), *heart("a", ((220.0, 200.0), (90.0, 80.0)))]
    assert {pair.patient for pair in function_of([*twice, *heart("b", ((120.0, 100.0), (60.0, 40.0)))])} == {"b"}


def test_an_empty_ventricle_has_no_ejection_fraction() -> None:
    names = [pair.measurement for pair in function_of(heart("a", ((0.0, 100.0), (0.0, 40.0))))]
    assert "lv_ef" not in names and "lv_edv" in names


@pytest.fixture
def origin(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "datalist.json").write_text("{}")
    (tmp_path / "model.pt").write_bytes(b"weights")
    named = {"name": "hearts", "bundle_version": "1", "section": "val"}
    return {**named, "weights": tmp_path / "model.pt", "dataset_dir": tmp_path}


def test_report_states_bias_and_limits(tmp_path: Path, origin: dict[str, object]) -> None:
    scores = heart("a", ((120.0, 100.0), (60.0, 40.0))) + heart("b", ((100.0, 100.0), (54.0, 50.0)))
    out = tmp_path / "out"
    text = write_heart_report(scores, out, **origin)
    # ejection fractions: 50 against 60, 46 against 50; differences -10 and -4: mean -7, SD 4.243
    assert "| lv_ef           | 2        | 55.0 %          | -7.0 points | -15.3 to +1.3           |" in text
    assert text.split("\n\n", 1)[1] in (out / "summary.md").read_text()
    found = json.loads((out / "summary.json").read_text())["function"]["lv_ef"]
    assert found["bias"] == pytest.approx(-7) and found["limits"] == pytest.approx([-15.316, 1.316], abs=1e-3)
    with open(out / "function.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"patient": "b", "measurement": "lv_esv", "unit": "mL", "predicted": "54.0", "reference": "50.0"} in rows
    assert (out / "agreement_lv_ef.png").stat().st_size > 1000


def test_one_patient_has_no_limits(tmp_path: Path, origin: dict[str, object]) -> None:
    text = write_heart_report(heart("a", ((120.0, 100.0), (60.0, 40.0))), tmp_path / "out", **origin)
    assert "limits of agreement" not in text and not (tmp_path / "out" / "function.csv").exists()
