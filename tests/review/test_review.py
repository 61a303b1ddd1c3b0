"""What is listed, decided, corrected and exported, without a browser."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
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
from convformer_monai.review.standing import fingerprint, standing
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


def test_files_of_an_earlier_run_are_not_shown(out: Path) -> None:
    (out / "b_report.html").write_text("of a mask that is gone")
    assert only(out, "b").page is not None
    report = json.loads((out / "b_report.json").read_text())
    (out / "b_report.json").write_text(json.dumps({**report, "files": ["b_seg.dcm"]}))
    assert only(out, "b").page is only(out, "b").mask is None


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
    assert not list(out.glob("review.sqlite3-*")), "no log that another host could not share"
    with sqlite3.connect(out / "review.sqlite3") as database:
        rows = database.execute("select decision, reason from decisions order by number").fetchall()
    assert rows == [("rejected", "the apex is missing"), ("accepted", "")]


@pytest.mark.parametrize(
    ("decision", "reason"),
    [("rejected", "  "), ("perhaps", ""), ("accepted", "x" * 2001), ("", ""), ("rejected", "half \ud83d")],
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


def test_a_decision_is_about_one_mask(out: Path, tmp_path: Path) -> None:
    case, store = only(out, "b"), Store(out)
    store.decide(case, "accepted", mask=fingerprint(case, "accepted"))
    keep_correction(only(out, "ward/a"), write_mask(tmp_path / "sent.nii.gz"))
    corrected = only(out, "ward/a")
    store.decide(corrected, "corrected", mask=fingerprint(corrected, "corrected"))
    assert {name: made.decision for name, made in standing(find_results(out), store).items()} == {
        "b": "accepted",
        "ward/a": "corrected",
    }
    write_mask(out / "b_seg.nii.gz")  # segmented again, by other weights
    write_mask(out / "ward" / "a_corrected_label.nii.gz", np.ones(SHAPE, np.uint8))
    found = standing(find_results(out), store)
    assert (found["b"].decision, found["b"].reason) == ("open", "was accepted for another mask")
    assert found["ward/a"].decision == "open"
    assert ",open,was accepted for another mask," in to_csv(find_results(out), found)


def test_a_database_of_a_former_version(out: Path) -> None:
    with sqlite3.connect(out / "review.sqlite3") as database:
        database.execute(
            "create table decisions (number integer primary key, name text, decision text, reason text, time text)"
        )
        database.execute("insert into decisions (name, decision, reason, time) values ('b', 'accepted', '', '2026')")
    store = Store(out)
    assert standing(find_results(out), store)["b"].decision == "accepted"
    store.decide(only(out, "b"), "rejected", "motion", "abc")
    assert store.all()["b"].mask == "abc"


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_result(out, os.fsdecode(b"M\xfcller"))
    (case,) = find_results(out)
    store = Store(out)
    store.decide(case, "accepted")
    assert case.shown == r"M\udcfcller" and standing([case], store)[case.name].decision == "accepted"
    assert r"M\udcfcller" in to_csv([case], store.all())
    assert json.loads(json.dumps(case.to_json()))["name"] == case.shown


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


def test_an_earlier_correction_is_kept(out: Path, tmp_path: Path) -> None:
    keep_correction(only(out, "b"), write_mask(tmp_path / "first.nii.gz"))
    kept = (out / "b_corrected_label.nii.gz").read_bytes()
    for _ in range(2):
        keep_correction(only(out, "b"), write_mask(tmp_path / "second.nii.gz", np.ones(SHAPE, np.uint8)))
    assert (out / "b_1_corrected_label.nii.gz").read_bytes() == kept
    assert (out / "b_2_corrected_label.nii.gz").is_file()
    assert np.asarray(nib.load(out / "b_corrected_label.nii.gz").dataobj).all()
    assert [case.name for case in find_results(out)] == ["b", "ward/a"]
    with pytest.raises(InputRefused, match="holds no image"):  # none of them is one to segment
        find_cases(out)


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
        assert len(train) + len(val) == 7 and len(val) >= 1
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
        (case,) = lists["val"]
        name = case["id"]
        assert case == {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz", "id": name, "patient": name}

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

    def test_nothing_of_the_user_is_replaced(self, out: Path, images: Path, tmp_path: Path) -> None:
        Store(out).decide(only(out, "b"), "accepted")
        study = tmp_path / "study"
        study.mkdir()
        images.rename(study / "images")
        own = study / "images"
        before = (own / "b.nii.gz").read_bytes()
        with pytest.raises(InputRefused) as caught:
            export_review(out, own, study)
        assert caught.value.code == "EXISTS"
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "datalist.json").write_text('{"train": []}')
        (tmp_path / "third" / "labels").mkdir(parents=True)
        for name in ("other", "third"):
            with pytest.raises(InputRefused, match="did not make"):
                export_review(out, own, tmp_path / name)
        assert (own / "b.nii.gz").read_bytes() == before and not (own / "b.nii.gz").is_symlink()
        assert not (study / "labels").exists() and not (study / "datalist.json").exists()

    def test_a_second_round_keeps_the_images_of_the_first(self, out: Path, images: Path, tmp_path: Path) -> None:
        Store(out).decide(only(out, "b"), "accepted")
        first = tmp_path / "first"
        export_review(out, images, first)
        with pytest.raises(InputRefused, match="images themselves"):
            export_review(out, first / "images", first)
        export_review(out, first / "images", tmp_path / "second")
        assert (tmp_path / "second" / "images" / "b.nii.gz").resolve() == images / "b.nii.gz"

    def test_cases_of_one_name_stay_apart(self, out: Path, images: Path, tmp_path: Path) -> None:
        nib.Nifti1Image(np.full(SHAPE, 7, np.int16), AFFINE).to_filename(images / "ward_a.nii.gz")
        write_result(out, "ward_a")
        store = Store(out)
        for name in ("ward/a", "ward_a"):
            store.decide(only(out, name), "accepted")
        export_review(out, images, tmp_path / "data")
        lists = json.loads((tmp_path / "data" / "datalist.json").read_text())
        entries = [*lists["train"], *lists["val"]]
        assert sorted(case["id"] for case in entries) == ["ward_a", "ward_a_2"]
        values = {case["id"]: nib.load(tmp_path / "data" / case["image"]).get_fdata().max() for case in entries}
        assert sorted(values.values()) == [1, 7]

    def test_a_patient_is_in_one_list_and_stays_there(self, out: Path, images: Path, tmp_path: Path) -> None:
        names = [f"p{number}_{moment}" for number in range(20) for moment in ("ed", "es")]
        for name in names:
            nib.Nifti1Image(np.ones(SHAPE, np.int16), AFFINE).to_filename(images / f"{name}.nii.gz")
            write_result(out, name)
        store = Store(out)
        validated: set[str] = set()
        for count in (30, 40):
            for name in names[:count]:
                store.decide(only(out, name), "accepted")
            export_review(out, images, tmp_path / "data")
            lists = json.loads((tmp_path / "data" / "datalist.json").read_text())
            train, val = ({case["patient"] for case in lists[name]} for name in ("train", "val"))
            assert not train & val and 0 < len(val) < 10 and validated <= val
            validated = val

    @pytest.mark.parametrize("hashes", ["none", "all", "mixed"])
    def test_nobody_changes_lists_as_patients_come_in(
        self, out: Path, images: Path, tmp_path: Path, hashes: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever the hashes say of those who come first."""
        names = [f"p{number}" for number in range(12)]
        every = {"none": 10**6, "all": 1, "mixed": 5}[hashes]
        monkeypatch.setattr("convformer_monai.review.export.EVERY", every)
        store, before = Store(out), {}
        for count, name in enumerate(names, 1):
            nib.Nifti1Image(np.ones(SHAPE, np.int16), AFFINE).to_filename(images / f"{name}.nii.gz")
            write_result(out, name)
            store.decide(only(out, name), "accepted")
            if count < 2:
                continue
            export_review(out, images, tmp_path / "data")
            lists = json.loads((tmp_path / "data" / "datalist.json").read_text())
            now = {entry["patient"]: part for part in ("train", "val") for entry in lists[part]}
            assert {patient: now[patient] for patient in before} == before
            assert set(now.values()) == {"train", "val"}
            before = now

    @pytest.mark.parametrize("kept", ["all", "1"])
    def test_phases_of_a_cine_become_volumes(self, out: Path, images: Path, tmp_path: Path, kept: str) -> None:
        cine = np.stack([np.full(SHAPE, 10 * phase + 1, np.int16) for phase in range(3)], -1)
        nib.Nifti1Image(cine, AFFINE).to_filename(images / "cine.nii.gz")
        phases = [0, 1, 2] if kept == "all" else [1]
        base = write_result(out, "cine")
        report = json.loads((out / "cine_report.json").read_text())
        report |= {"input": {"phases": phases}, "options": {"phase": kept, "series_uid": None}}
        (out / "cine_report.json").write_text(json.dumps(report))
        labels = np.stack([np.full(SHAPE, phase % 4, np.uint8) for phase in phases], -1)
        nib.Nifti1Image(labels if kept == "all" else labels[..., 0], AFFINE).to_filename(f"{base}_seg.nii.gz")
        Store(out).decide(only(out, "cine"), "accepted")
        export_review(out, images, tmp_path / "data")
        lists = json.loads((tmp_path / "data" / "datalist.json").read_text())
        entries = [*lists["train"], *lists["val"]]
        assert len(entries) == len(phases) and {case["patient"] for case in entries} == {"cine"}
        for case, phase in zip(sorted(entries, key=lambda case: case["id"]), phases, strict=True):
            image, label = (nib.load(tmp_path / "data" / case[key]) for key in ("image", "label"))
            assert image.shape == label.shape == SHAPE and np.allclose(image.affine, label.affine)
            assert (image.get_fdata() == 10 * phase + 1).all() and (label.get_fdata() == phase).all()

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
