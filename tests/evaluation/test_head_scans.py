"""Scores of whole heads and of single slices."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from convformer_monai.bundle import Bundle
from convformer_monai.errors import InputRefused
from convformer_monai.evaluation import head_report
from convformer_monai.evaluation.head_report import report_peaks, report_scans
from convformer_monai.evaluation.head_scans import Answer, scan_scores, score_head, score_slice
from convformer_monai.networks import Windowed
from convformer_monai.training.head_ct_pool import head_ct_folds

SIDE = 64


def square(x: int, y: int, size: int = 6) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[x : x + size, y : y + size] = True
    return mask


def test_a_head_is_found_by_its_marked_slices_only() -> None:
    mask = np.zeros((4, 4, 8), bool)
    mask[0, 0, 1] = mask[0, 0, 7] = True
    score = score_head("a", ["subdural"], [1, 2], Answer(mask, ("ONE", "OTHER")), 0.5)
    assert score.flags == "ONE OTHER"
    assert (score.found, score.marked, score.marked_found) == (True, 2, 1)
    assert (score.others, score.others_found, score.ml) == (4, 1, 1.0)  # slices 0 and 3 lie beside blood
    elsewhere = score_head("b", ["subdural"], [4], Answer(mask), 0.5)
    assert not elsewhere.found and elsewhere.blood and elsewhere.others_found == 2
    free = score_head("c", [], [], Answer(mask), 0.5)
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
    kit = {"id": "k", "patient": "k", "source": "kit", "label": "q_centre_mask.png", "image": "q_centre.png"}
    (tmp_path / "datalist.json").write_text(json.dumps({"heads": heads, "expert": expert, "gold": [kit]}))
    return tmp_path


SOURCES = {"expert": {"window": [0, 80]}, "kit": {"window": [0, 80], "extent_mm": 2 * SIDE}}


def bright(image: Any, patient: str) -> Answer:
    values = np.asarray(nib.load(image).dataobj) if isinstance(image, Path) else np.asarray(image)[0]
    return Answer((values > 50) & (patient != "k"), ("MAYBE_MISSED",) if patient in ("k", "p2") else ())


def test_scores_of_both_lists(data: Path) -> None:
    heads, slices = scan_scores(data, bright, SOURCES)
    assert [(head.case, head.found, head.marked_found, head.ml) for head in heads] == [
        ("p1", True, 4, 36 * 4 * 5 / 1000),
        ("p2", False, 0, 0.0),
    ]
    found = {(score.case, score.seen_in): score for score in slices}
    alone = {("p1_centre", "expert"), ("q_centre", "expert"), ("q_other", "expert")}
    assert set(found) == {("p1_centre", "heads"), *alone, ("k", "gold")}
    assert found["p1_centre", "heads"].dice == found["p1_centre", "expert"].dice == 1.0
    assert found["p1_centre", "expert"].kinds == "subdural epidural"
    assert found["q_centre", "expert"].dice == 0.0 and found["q_other", "expert"].findings == 1
    assert (found["k", "gold"].area_mm2, found["k", "gold"].flags) == (36 * 4.0, "MAYBE_MISSED")


def test_report_and_files(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_report, "segment_with", lambda *_, **__: bright)
    monkeypatch.setattr(head_report, "sources_of", lambda _: SOURCES)
    text = report_scans("hemorrhage", data, tmp_path / "out", overlays=1)
    pictures = {path.name for path in (tmp_path / "out" / "overlays").iterdir()}
    assert pictures == {"worst_q_centre.png", "median_q_centre.png", "best_p1_centre.png"}
    assert "| epidural | 1 | 1 | 0 of 0 | 4 | 4 | 1 | 0 |" in text
    assert "| 1 | 0 | 0 | 0.0 | 0.0 | 1 of 1 |" in text
    with (tmp_path / "out" / "slices.csv").open() as file:
        assert {row["case"] for row in csv.DictReader(file)} == {"p1_centre", "q_centre", "q_other", "k"}
    results = json.loads((tmp_path / "out" / "scans.json").read_text())["results"]
    alone = results["Expert slices alone"][0]
    assert (alone["with blood"], alone["Dice"], alone["nothing found"]) == (2, 0.5, 1)
    assert results["Gold slices"][0]["empty mask and flagged"] == "1 of 1"
    assert (alone["lesions found"], alone["findings that are blood"]) == ("1 of 2", "1 of 3")


def test_slices_without_a_patient_are_named_as_the_folds_name_them(data: Path) -> None:
    """So the network that segments one is that of the fold which held it out."""
    lists = json.loads((data / "datalist.json").read_text())
    lists["normal"] = [{"id": f"normal_{n:03}", "image": "p1_centre.png", "label": None} for n in range(20)]
    (data / "datalist.json").write_text(json.dumps(lists))
    asked: list[str] = []

    def segment(image: Any, patient: str) -> Answer:
        asked.append(patient)
        return bright(image, patient)

    scan_scores(data, segment, {**SOURCES, "normal": {"window": [0, 80], "extent_mm": 2 * SIDE}}, ["normal"])
    assert asked == [f"normal_run{n // 2}" for n in range(20)]
    assert set(asked) <= head_ct_folds(data, ["expert", "normal"]).keys()


def test_a_datalist_without_either_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "datalist.json").write_text('{"val": []}')
    with pytest.raises(InputRefused, match="heads"):
        scan_scores(tmp_path, bright, SOURCES)


def test_one_fold_leaves_out_the_patients_of_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the five networks only that of the fold is there."""
    bundle, runs = Bundle("hemorrhage"), tmp_path / "runs"
    folds = head_ct_folds(data, bundle.read("train")["sections"])
    (runs / f"fold{folds['q']}").mkdir(parents=True)
    shutil.copy(bundle.weights, runs / f"fold{folds['q']}" / "best.pt")
    monkeypatch.setattr(head_report, "sources_of", lambda _: SOURCES)
    report_scans("hemorrhage", data, tmp_path / "out", runs=runs, folds=[folds["q"]])
    with (tmp_path / "out" / "slices.csv").open() as file:
        patients = {row["patient"] for row in csv.DictReader(file)}
    assert "q" in patients and patients <= {name for name, fold in folds.items() if fold == folds["q"]} | {"k"}
    with pytest.raises(InputRefused):
        report_scans("hemorrhage", data, tmp_path / "out", runs=runs)


def test_thresholds_by_the_networks_of_the_folds(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network runs once for each image, however many thresholds there are."""
    bundle, runs, passes = Bundle("hemorrhage"), tmp_path / "runs", []
    for fold in range(5):
        (runs / f"fold{fold}").mkdir(parents=True)
        shutil.copy(bundle.weights, runs / f"fold{fold}" / "best.pt")
    forward = Windowed.forward
    monkeypatch.setattr(Windowed, "forward", lambda self, x: passes.append(len(x)) or forward(self, x))
    monkeypatch.setattr(head_report, "sources_of", lambda _: SOURCES)
    counts = []
    for points in (((0.5, 0.9),), ((0.5, 0.9), (0.5, 0.5), (0.3, 0.5))):
        passes.clear()
        text = report_peaks("hemorrhage", data, tmp_path / "out", runs, points)
        counts.append(sum(passes))
    assert counts[0] == counts[1] > 0 and text.count("\n") == 4
    with (tmp_path / "out" / "peaks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["peak"] for row in rows] == ["0.9", "0.5", "0.5"] and rows[0]["heads found"].endswith(" of 1")
