"""What is listed, decided, corrected and exported, without a browser."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import sqlite3
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from results_folder import AFFINE, SHAPE, write_mask, write_result

from convformer_monai.cli import main
from convformer_monai.commands.view import export_review
from convformer_monai.datalist import read_cases
from convformer_monai.errors import InputRefused
from convformer_monai.phantoms import cardiac_phantom
from convformer_monai.readers.cases import find_cases
from convformer_monai.review.cases import ReviewCase, find_results
from convformer_monai.review.corrections import corrected_mask, keep_correction
from convformer_monai.review.export import export_datalist
from convformer_monai.review.store import Store, to_csv


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    write_result(folder, "b", flags=("EF_IMPLAUSIBLE", "MANY_PARTS"), doubt=0.2, fraction=9.0)
    write_result(folder, "ward/a", fraction=None)
    return folder


def only(folder: Path, name: str) -> ReviewCase:
    return next(case for case in find_results(folder) if case.name == name)


def test_cases_are_listed_with_what_one_filters_by(out: Path) -> None:
    (out / "broken_report.json").write_text("{")
    (out / "other_report.json").write_text("{}")
    first, second = find_results(out)
    assert (first.name, second.name) == ("b", "ward/a") and first.id != second.id and first.id.isalnum()
    assert [code for code, _ in first.flags] == ["EF_IMPLAUSIBLE", "MANY_PARTS"] and first.doubt == 0.2
    assert first.numbers == {"lv_ef": 9.0}  # not those of single phases
    assert second.numbers == {"lv_ef": None} and second.doubt is None
    assert first.mask == out / "b_seg.nii.gz" and first.page is None


@pytest.mark.parametrize(("name", "code"), [("nowhere", "FOLDER_NOT_FOUND"), (".", "NO_IMAGES")])
def test_folders_without_results_are_refused(tmp_path: Path, name: str, code: str) -> None:
    with pytest.raises(InputRefused) as caught:
        find_results(tmp_path / name)
    assert caught.value.code == code


def test_the_last_decision_counts_and_none_is_lost(out: Path) -> None:
    case, store = only(out, "b"), Store(out)
    store.decide(case, "rejected", " the apex is missing ")
    store.decide(case, "accepted")
    assert Store(out).all()["b"].decision == "accepted" and "ward/a" not in store.all()
    with sqlite3.connect(out / "review.sqlite3") as database:
        rows = database.execute("select decision, reason from decisions order by number").fetchall()
    assert rows == [("rejected", "the apex is missing"), ("accepted", "")]


@pytest.mark.parametrize(
    ("decision", "reason"), [("rejected", "  "), ("perhaps", ""), ("accepted", "x" * 2001), ("", "")]
)
def test_decisions_that_are_refused(out: Path, decision: str, reason: str) -> None:
    with pytest.raises(InputRefused) as caught:
        Store(out).decide(only(out, "b"), decision, reason)
    assert caught.value.code == "OPTION" and Store(out).all() == {}


def _decide_often(folder: Path, reason: str) -> None:
    store, case = Store(folder), only(folder, "b")
    for number in range(20):
        store.decide(case, "rejected", f"{reason} {number}")


def test_two_processes_decide_at_once(out: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_decide_often, args=(out, reason)) for reason in ("one", "two")]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    with sqlite3.connect(out / "review.sqlite3") as database:
        assert database.execute("select count(*) from decisions").fetchone() == (40,)


def test_a_database_that_is_none_is_refused(out: Path) -> None:
    (out / "review.sqlite3").write_text("no database, " * 200)
    with pytest.raises(InputRefused) as caught:
        Store(out)
    assert caught.value.code == "CANNOT_WRITE"


def test_csv_has_a_row_for_each_case_and_no_formula(out: Path) -> None:
    store = Store(out)
    store.decide(only(out, "b"), "rejected", "=1+1, wrong")
    rows = list(csv.DictReader(io.StringIO(to_csv(find_results(out), store.all()))))
    assert [(row["case"], row["decision"], row["reason"]) for row in rows] == [
        ("b", "rejected", "'=1+1, wrong"),
        ("ward/a", "open", ""),
    ]
    assert rows[0]["flags"] == "EF_IMPLAUSIBLE MANY_PARTS" and rows[0]["doubt"] == "0.2" and rows[1]["doubt"] == ""


class TestCorrections:
    def test_kept_on_the_grid_of_the_mask(self, out: Path, tmp_path: Path) -> None:
        case = only(out, "b")
        assert corrected_mask(case) is None
        sent = np.zeros(SHAPE, np.uint8)
        sent[1, 2, 0] = 2
        turned = AFFINE.copy()
        turned[0, 0] *= -1
        turned[0, 3] = AFFINE[0, 0] * (SHAPE[0] - 1)
        upload = write_mask(tmp_path / "sent.nii.gz", sent[::-1].copy(), turned)  # the same place, stored backwards
        kept = keep_correction(case, upload)
        assert kept == corrected_mask(case) == out / "b_corrected_label.nii.gz"
        image = nib.load(kept)
        assert np.array_equal(np.asarray(image.dataobj), sent) and np.allclose(image.affine, AFFINE)
        assert image.get_data_dtype() == np.uint8
        keep_correction(case, write_mask(tmp_path / "again.nii.gz"))
        assert np.asarray(nib.load(kept).dataobj)[2, 2, 0] == 1
        with pytest.raises(InputRefused, match="holds no image"):  # nothing to segment again
            find_cases(out)

    @pytest.mark.parametrize("code", ["LABEL_MISALIGNED", "LABEL_UNKNOWN", "NOT_NIFTI"])
    def test_what_does_not_fit_is_refused_and_nothing_changes(self, out: Path, tmp_path: Path, code: str) -> None:
        upload = tmp_path / "sent.nii.gz"
        if code == "LABEL_MISALIGNED":
            shifted = AFFINE.copy()
            shifted[0, 3] = 0.7
            write_mask(upload, affine=shifted)
        elif code == "LABEL_UNKNOWN":
            write_mask(upload, np.full(SHAPE, 9, np.uint8))
        else:
            upload.write_bytes(b"no image")
        with pytest.raises(InputRefused) as caught:
            keep_correction(only(out, "b"), upload)
        assert caught.value.code == code and corrected_mask(only(out, "b")) is None

    def test_of_a_photograph(self, tmp_path: Path) -> None:
        folder = tmp_path / "out"
        base = write_result(folder, "p", bundle="dermoscopy")
        (folder / "p_seg.nii.gz").unlink()
        Image.new("L", (20, 10)).save(f"{base}_seg.png")
        sent = Image.new("L", (20, 10))
        sent.putpixel((19, 3), 255)
        sent.save(tmp_path / "sent.png")
        kept = keep_correction(only(folder, "p"), tmp_path / "sent.png")
        pixels = np.asarray(Image.open(kept))
        assert kept.name == "p_corrected_label.png" and pixels[3, 19] == 255 and pixels.sum() == 255
        Image.new("L", (10, 20)).save(tmp_path / "sent.png")
        with pytest.raises(InputRefused) as caught:
            keep_correction(only(folder, "p"), tmp_path / "sent.png")
        assert caught.value.code == "LABEL_MISALIGNED"


class TestDataset:
    @pytest.fixture
    def images(self, out: Path, tmp_path: Path) -> Path:
        folder = tmp_path / "images"
        for name in ("b", "ward/a", *(f"c{number}" for number in range(6))):
            path = folder / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.Nifti1Image(np.ones(SHAPE, np.int16), AFFINE).to_filename(path)
        for number in range(6):
            write_result(out, f"c{number}")
        return folder

    def test_training_reads_it(self, out: Path, images: Path, tmp_path: Path) -> None:
        store = Store(out)
        for case in find_results(out):
            store.decide(case, "accepted")
        store.decide(only(out, "c0"), "rejected", "motion")
        keep_correction(only(out, "ward/a"), write_mask(tmp_path / "sent.nii.gz"))
        store.decide(only(out, "ward/a"), "corrected")
        export_review(out, images, tmp_path / "data")
        train, val = (read_cases(tmp_path / "data", section) for section in ("train", "val"))
        assert len(train) == 6 and len(val) == 1
        by_id = {case["id"]: case for case in [*train, *val]}
        assert "c0" not in by_id and (tmp_path / "data" / "decisions.csv").is_file()
        corrected = nib.load(by_id["ward_a"]["label"]).get_fdata()
        assert corrected[2, 2, 0] == 1
        assert np.array_equal(nib.load(by_id["b"]["label"]).get_fdata(), nib.load(out / "b_seg.nii.gz").get_fdata())
        assert Path(by_id["b"]["image"]).resolve() == images / "b.nii.gz"
        before = (tmp_path / "data" / "datalist.json").read_bytes()
        export_review(out, images, tmp_path / "data")  # again, in place of the first
        assert (tmp_path / "data" / "datalist.json").read_bytes() == before

    def test_of_two_cases_one_validates(self, out: Path, images: Path, tmp_path: Path) -> None:
        store = Store(out)
        for name in ("b", "c1"):
            store.decide(only(out, name), "accepted")
        assert export_datalist(find_results(out), store.all(), images, tmp_path / "data") == {"train": 1, "val": 1}
        lists = json.loads((tmp_path / "data" / "datalist.json").read_text())
        assert lists["val"] == [{"image": "images/c1.nii.gz", "label": "labels/c1.nii.gz", "id": "c1"}]

    def test_what_cannot_be_made_is_refused(self, out: Path, images: Path, tmp_path: Path) -> None:
        store = Store(out)
        with pytest.raises(InputRefused, match="no case is accepted") as caught:
            export_datalist(find_results(out), store.all(), images, tmp_path / "data")
        assert caught.value.code == "NO_LABELS"
        store.decide(only(out, "b"), "accepted")
        (images / "b.nii.gz").unlink()
        with pytest.raises(InputRefused) as caught:
            export_datalist(find_results(out), store.all(), images, tmp_path / "data")
        assert caught.value.code == "FILE_NOT_FOUND" and not (tmp_path / "data").exists()
        write_result(out, "head", bundle="hemorrhage")
        store.decide(only(out, "head"), "accepted")
        with pytest.raises(InputRefused, match="several bundles"):
            export_datalist(find_results(out), store.all(), images, tmp_path / "data")

    @pytest.mark.slow
    @pytest.mark.slow
    def test_fine_tuning_takes_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        out, images = tmp_path / "out", tmp_path / "images"
        images.mkdir()
        for name in ("a", "b"):
            phantom = cardiac_phantom(shape=(64, 64, 3), spacing=(2.4, 2.4, 14.0), seed=ord(name))
            _, truth = phantom.save(images, name)
            truth.rename(write_result(out, name).with_name(f"{name}_seg.nii.gz"))
            Store(out).decide(only(out, name), "accepted")
        monkeypatch.chdir(tmp_path)
        assert main(["view", "out", "--images", "images", "--export", "reviewed"]) == 0
        options = ["--max_epochs", "1", "--batch_size", "2", "--device", "cpu"]
        command = [sys.executable, "-m", "convformer_monai.cli", "train", "cardiac", "--data", "reviewed", "--finetune"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "runs" / "cardiac-finetune" / "best.pt").is_file()
