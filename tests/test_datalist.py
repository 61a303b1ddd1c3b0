import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from convformer_monai.datalist import find_images, read_cases
from convformer_monai.errors import InputRefused

Write = Callable[[Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a datalist beside a.nii.gz and b.nii.gz."""
    for name in "ab":
        image = nib.Nifti1Image(np.zeros((4, 4, 2), dtype=np.int16), np.diag([1.5, 1.5, 8, 1]))
        image.to_filename(tmp_path / f"{name}.nii.gz")

    def put(content: Any) -> Path:
        (tmp_path / "datalist.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path

    return put


ENTRY = {"image": "a.nii.gz", "label": "b.nii.gz"}


def test_reads_a_section_with_absolute_paths(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    full = {**ENTRY, "id": "patient002_frame01", "phase": "ED", "group": "DCM", "lv_ml": 2.5}
    folder = write({"train": [], "val": [full, {**ENTRY, "id": "x_1", "patient": 7}]})
    monkeypatch.chdir(folder)
    for first, second in (read_cases("."), read_cases(folder / "datalist.json")):
        assert (first["id"], first["patient"], first["phase"]) == ("patient002_frame01", "patient002", "ED")
        assert (second["patient"], second["phase"]) == ("7", "")
        assert Path(first["image"]).is_absolute() and Path(first["label"]).samefile(folder / "b.nii.gz")
        assert first["image_path"] == first["image"]


def test_id_defaults_to_the_image_and_stays_when_a_folder_has_its_name(write: Write) -> None:
    folder = write({"test": [ENTRY, {**ENTRY, "id": "patient001"}]})
    (folder / "patient001").mkdir()  # MONAI's own reader would make a path of the id
    assert [case["id"] for case in read_cases(folder, "test")] == ["a", "patient001"]


def test_entry_that_is_there_twice_is_taken_once(write: Write) -> None:
    assert len(read_cases(write({"val": [ENTRY, {**ENTRY, "id": "b"}, ENTRY]}))) == 2


def test_missing_label_and_patient_are_told_as_such_where_that_is_asked_for(write: Write) -> None:
    folder = write({"normal": [{"image": "a.nii.gz", "label": None, "id": "normal_1", "source": "x"}]})
    (case,) = read_cases(folder, "normal", without_labels=True, patient_from_id=False)
    assert (case["label"], case["patient"], case["source"]) == ("", "", "x")
    with pytest.raises(InputRefused, match="names no label"):
        read_cases(folder, "normal")


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ({"train": [ENTRY], "val": []}, "DATALIST_EMPTY", "'val'.*empty"),
        ({"train": [ENTRY]}, "DATALIST_SECTION", "no section 'val', it has 'train'; add it; evaluate"),
        ([ENTRY], "DATALIST_SECTION", "no section at all"),
        ("{", "DATALIST_INVALID", "JSON"),
        ({"val": ["a.nii.gz"]}, "DATALIST_INVALID", "not an object"),
        ({"val": [{"image": "a.nii.gz"}]}, "DATALIST_INVALID", "names no label"),
        ({"val": [{**ENTRY, "image": 3}]}, "DATALIST_INVALID", "names no image"),
        ({"val": [ENTRY, {**ENTRY, "label": "a.nii.gz"}]}, "DATALIST_INVALID", "'a' is used 2 times"),
        ({"val": [{**ENTRY, "label": "c.nii.gz"}]}, "FILE_NOT_FOUND", "c.nii.gz does not exist"),
        ({"val": [{**ENTRY, "image": "c.nii.gz"}]}, "FILE_NOT_FOUND", "c.nii.gz does not exist"),
    ],
)
def test_unusable_datalists_are_refused(write: Write, content: Any, code: str, message: str) -> None:
    with pytest.raises(InputRefused, match=message) as refusal:
        read_cases(write(content))
    assert refusal.value.code == code
    assert "\n" not in refusal.value.message


@pytest.mark.parametrize("where", ["nowhere", 2024])
def test_missing_datalist_is_refused(tmp_path: Path, where: object) -> None:
    with pytest.raises(InputRefused, match="the folder that holds datalist.json, or the path"):
        read_cases(tmp_path / where if isinstance(where, str) else where)


def test_what_was_found_is_said_once(tmp_path, caplog):
    """MONAI asks twice: for the bundle's dataset, and when it runs."""
    caplog.set_level("INFO", "convformer_monai")
    for name in ("a.nrrd", "a_gt.nrrd"):
        (tmp_path / name).touch()
    find_images(None, tmp_path, allow_none=True)
    assert caplog.messages == []
    find_images(None, tmp_path)
    assert [message.split(":")[0] for message in caplog.messages] == ["1 file is left out", str(tmp_path)]


class TestShare:
    @staticmethod
    def patients(folder: Path, share: float, seed: int = 0) -> list[str]:
        return [case["patient"] for case in read_cases(folder, "train", share=share, seed=seed)]

    @pytest.fixture
    def folder(self, write: Write) -> Path:
        entries = [{**ENTRY, "id": f"p{n:02d}_{phase}"} for n in range(20) for phase in ("ed", "es")]
        for entry in entries:
            (write([]) / f"{entry['id']}.nii.gz").write_bytes((write([]) / "a.nii.gz").read_bytes())
            entry["image"] = f"{entry['id']}.nii.gz"
        return write({"train": entries})

    def test_whole_patients_and_smaller_shares_within_larger_ones(self, folder: Path) -> None:
        few, more = self.patients(folder, 0.1), self.patients(folder, 0.5)
        assert (len(few), len(set(few)), len(more), len(set(more))) == (4, 2, 20, 10)
        assert set(few) < set(more) and more == sorted(more)
        assert len(self.patients(folder, 1.0)) == 40 and len(self.patients(folder, 0.001)) == 2

    def test_seed_chooses(self, folder: Path) -> None:
        assert self.patients(folder, 0.25) == self.patients(folder, 0.25)
        assert len({tuple(self.patients(folder, 0.25, seed)) for seed in range(4)}) > 1

    @pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
    def test_wrong(self, folder: Path, share: float) -> None:
        with pytest.raises(ValueError, match="share must be above 0 and up to 1"):
            read_cases(folder, "train", share=share)
