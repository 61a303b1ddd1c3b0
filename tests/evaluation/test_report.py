import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from convformer_monai.errors import InputRefused
from convformer_monai.evaluation import StructureScore, VolumeScore, write_report

NAN = float("nan")


def volume(patient: str, phase: str, rv: StructureScore | None = None) -> VolumeScore:
    dice = 0.9 if phase == "ED" else 0.8
    rv = rv or StructureScore("RV", dice, 3.0, 1.0, 101, 100)
    return VolumeScore(f"{patient}_{phase}", patient, phase, (rv, StructureScore("LV", dice, 2.0, 0.5, 48, 50)))


@pytest.fixture
def report(tmp_path: Path) -> dict[str, Any]:
    missed = StructureScore("RV", 0.0, NAN, NAN, 0, 100)
    scores = [volume("p1", "ED"), volume("p1", "ES"), volume("p2", "ED"), volume("p2", "ES", missed)]
    (tmp_path / "model.pt").write_bytes(b"weights")
    (tmp_path / "datalist.json").write_bytes(b"list")
    out = tmp_path / "deep" / "out"
    text = write_report(
        scores, out, "My bundle", "1.2.3", tmp_path / "model.pt", tmp_path, "val", {"device": "cpu", "odd": object}
    )
    rows = {path.name: list(csv.DictReader(path.open())) for path in out.glob("*.csv")}
    return {"text": text, "json": json.loads((out / "summary.json").read_text()), "out": out, **rows}


def test_the_heading_names_the_weights(report: dict[str, Any], tmp_path: Path) -> None:
    heading = f"My bundle 1.2.3, weights {tmp_path.name}/model.pt, section 'val'"
    assert report["text"].startswith(f"{heading}\n")
    assert (report["out"] / "summary.md").read_text().startswith(f"# {heading}\n")


def test_a_row_for_each_case_and_structure(report: dict[str, Any]) -> None:
    rows = report["per_case.csv"]
    assert len(rows) == 8
    assert rows[0] == {
        "case": "p1_ED",
        "patient": "p1",
        "phase": "ED",
        "structure": "RV",
        "dice": "0.9",
        "hd95_mm": "3.0",
        "asd_mm": "1.0",
        "predicted_ml": "101",
        "reference_ml": "100",
        "state": "scored",
    }
    assert (rows[6]["hd95_mm"], rows[6]["state"]) == ("", "missed")


def test_summary_for_machines(report: dict[str, Any]) -> None:
    content = report["json"]
    assert content["headline"]["mean"] == pytest.approx((0.9 + 0.8 + 0.9 + 0.4) / 4)
    assert content["weights"] == {"file": "model.pt", "sha256": hashlib.sha256(b"weights").hexdigest()}
    assert content["data"]["sha256"] == hashlib.sha256(b"list").hexdigest()
    assert content["bundle"] == {"name": "My bundle", "version": "1.2.3"}
    assert {"convformer_monai", "torch", "monai", "numpy", "scipy", "python"} <= content["versions"].keys()
    assert content["results"].keys() == {"ED", "ES", "all"}
    rv = content["results"]["ES"]["RV"]
    assert (rv["volumes"], rv["one_empty"], rv["both_empty"]) == (2, 1, 0)
    assert (rv["hd95_mm"]["volumes"], rv["hd95_mm"]["mean"], rv["hd95_mm"]["ci95_low"]) == (1, 3.0, None)
    assert rv["dice"]["mean"] == pytest.approx(0.4)
    assert content["results"]["all"]["mean"]["dice"]["ci95_low"] == pytest.approx((0.9 + 0.4) / 2)


def test_the_two_summaries_agree(report: dict[str, Any]) -> None:
    rows = report["summary.csv"]
    assert len(rows) == 3 * (4 + 4 + 3)
    for row in rows:
        values = report["json"]["results"][row["phase"]][row["structure"]][row["metric"]]
        assert {key: "" if value is None else str(value) for key, value in values.items()}.items() <= row.items()


def test_summary_for_people(report: dict[str, Any]) -> None:
    text = report["text"]
    assert "Dice per volume averaged over RV, LV: 0.7500 (95% CI 0.650 to 0.850), 4 volumes of 2 patients." in text
    assert "| ED    | LV        | 2       | 0.900 ± 0.000 [0.900, 0.900] | 0.900  | 2.00 ± 0.00 [2.00, 2.00]" in text
    assert "(n = 3)" in text
    assert "RV: missed or invented in 1 of 4 volumes, absent from prediction and reference in 0" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 9 and len({len(line) for line in lines}) == 1
    written = (report["out"] / "summary.md").read_text()
    assert all(line in written for line in lines) and hashlib.sha256(b"weights").hexdigest() in written


def test_output_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "datalist.json").touch()
    with pytest.raises(InputRefused, match="OUTPUT_DIR"):
        write_report([volume("a", "ED")], tmp_path / "file" / "out", "b", "1", tmp_path / "file", tmp_path, "val")
