"""Scores of whole heads and of single slices."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from convformer_monai.errors import InputRefused
from convformer_monai.evaluation import head_scans
from convformer_monai.evaluation.head_scans import report_scans, scan_scores, score_head, score_slice

SIDE = 64


def square(x: int, y: int, size: int = 6) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[x : x + size, y : y + size] = True
    return mask


def test_a_head_is_found_by_its_marked_slices_only() -> None:
    mask = np.zeros((4, 4, 8), bool)
    mask[0, 0, 1] = mask[0, 0, 7] = True
    score = score_head("a", ["subdural"], [1, 2], mask, 0.5)
    assert (score.found, score.marked, score.marked_found) == (True, 2, 1)
    assert (score.others, score.others_found, score.ml) == (4, 1, 1.0)  # slices 0 and 3 lie beside blood
    elsewhere = score_head("b", ["subdural"], [4], mask, 0.5)
    assert not elsewhere.found and elsewhere.blood and elsewhere.others_found == 2
    free = score_head("c", [], [], mask, 0.5)
    assert not free.blood and not free.found and (free.others, free.others_found) == (8, 2)


def test_lesions_and_findings_are_counted_by_parts() -> None:
    truth = square(5, 5) | square(40, 40)
    found = square(8, 8) | square(20, 50)
    score = score_slice(found, truth, 4.0)
    assert score["dice"] == pytest.approx(2 * 9 / 144) and score["hit"]
    assert (score["lesions"], score["lesions_found"], score["findings"], score["findings_true"]) == (2, 1, 2, 1)
    assert (score["area_mm2"], score["found_mm2"]) == (288.0, 288.0)
    nothing = score_slice(found, np.zeros_like(truth), 1.0)
    assert np.isnan(nothing["dice"]) and not nothing["hit"] and nothing["findings"] == 2


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A bleeding head with an expert mask in slice 3, a head without blood, and slices of others."""
    affine = np.diag([-1.0, -1.0, 5.0, 1.0])
    for name in ("p1", "p2"):
        volume = np.full((SIDE, SIDE, 6), 30, np.int16)
        if name == "p1":
            volume[square(10, 20)[..., None] & (np.arange(6) >= 2)] = 65
        nib.save(nib.Nifti1Image(volume, affine), tmp_path / f"{name}.nii.gz")
    picture = np.where(square(10, 20), 207, 96).astype(np.uint8)
    for name, image, mask in (("p1_centre", picture, square(10, 20)), ("q_centre", picture, square(30, 20))):
        Image.fromarray(image.T).save(tmp_path / f"{name}.png")
        Image.fromarray((mask * 255).astype(np.uint8).T).save(tmp_path / f"{name}_mask.png")
    expert = [
        {"id": "p1_centre", "patient": "p1", "source": "a", "blood": True, "label": "p1_centre_mask.png"},
        {"id": "q_centre", "patient": "q", "source": "b", "blood": True, "label": "q_centre_mask.png"},
        {"id": "q_other", "patient": "q", "source": "b", "blood": False, "label": None, "image": "q_centre.png"},
        {"id": "r", "patient": "r", "source": "b", "blood": True, "label": "q_centre_mask.png", "mask_complete": False},
    ]
    for case in expert:
        case.update({"image": case.get("image", f"{case['id']}.png"), "spacing": 1.0})
    expert[3]["image"] = "q_centre.png"
    heads: list[dict[str, Any]] = [
        {"id": "p1", "patient": "p1", "image": "p1.nii.gz", "blood": True, "kinds": ["subdural", "epidural"]},
        {"id": "p2", "patient": "p2", "image": "p2.nii.gz", "blood": False},
    ]
    heads[0] |= {"blood_slices": [2, 3, 4, 5], "expert_slices": {"centre": 3, "up15mm": None}}
    (tmp_path / "datalist.json").write_text(json.dumps({"heads": heads, "expert": expert}))
    return tmp_path


def bright(image: Any, _patient: str) -> np.ndarray:
    values = np.asarray(nib.load(image).dataobj) if isinstance(image, Path) else np.asarray(image)[0]
    return values > 50


def test_scores_of_both_lists(data: Path) -> None:
    heads, slices = scan_scores(data, bright)
    assert [(head.case, head.found, head.marked_found, head.ml) for head in heads] == [
        ("p1", True, 4, 36 * 4 * 5 / 1000),
        ("p2", False, 0, 0.0),
    ]
    found = {(score.case, score.in_head): score for score in slices}
    assert set(found) == {("p1_centre", True), ("p1_centre", False), ("q_centre", False), ("q_other", False)}
    assert found["p1_centre", True].dice == found["p1_centre", False].dice == 1.0
    assert found["p1_centre", False].kinds == "subdural epidural"
    assert found["q_centre", False].dice == 0.0 and found["q_other", False].findings == 1


def test_report_and_files(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_scans, "segment_with", lambda *_: bright)
    text = report_scans("hemorrhage", data, tmp_path / "out")
    assert "| epidural | 1 | 1 | 4 | 4 | 1 | 0 |" in text
    assert "| 1 | 0 | 0 | 0.0 | 0.0 |" in text
    with (tmp_path / "out" / "slices.csv").open() as file:
        assert {row["case"] for row in csv.DictReader(file)} == {"p1_centre", "q_centre", "q_other"}
    results = json.loads((tmp_path / "out" / "scans.json").read_text())["results"]
    alone = results["Expert slices alone"][0]
    assert (alone["with blood"], alone["Dice"], alone["nothing found"]) == (2, 0.5, 1)
    assert (alone["lesions found"], alone["findings that are blood"]) == ("1 of 2", "1 of 3")


def test_a_datalist_without_either_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "datalist.json").write_text('{"val": []}')
    with pytest.raises(InputRefused, match="heads"):
        scan_scores(tmp_path, bright)
