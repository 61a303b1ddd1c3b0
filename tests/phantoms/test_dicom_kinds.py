"""What ``convformer-monai phantom dicom`` writes: whose it is, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from convformer_monai.errors import InputRefused
from convformer_monai.phantoms.dicom.kinds import write_kind
from convformer_monai.readers import read_series


def first(written: list[Path]) -> Dataset:
    path = written[0]
    return dcmread(path if path.is_file() else min(path.iterdir()), stop_before_pixels=True)


def test_another_seed_is_another_patient_and_another_kind_another_examination(tmp_path: Path) -> None:
    made = {
        (kind, seed): first(write_kind(kind, tmp_path / f"{kind}{seed}", seed=seed, num_phases=1))
        for kind in ("dermoscopy", "cardiac")
        for seed in (0, 1)
    }
    assert len({str(dataset.SOPInstanceUID) for dataset in made.values()}) == 4
    assert len({str(dataset.StudyInstanceUID) for dataset in made.values()}) == 4
    patients = {seed: {made[kind, seed].PatientID for kind in ("dermoscopy", "cardiac")} for seed in (0, 1)}
    assert len(patients[0]) == len(patients[1]) == 1 and patients[0] != patients[1]


@pytest.mark.parametrize(("kind", "name"), [("cardiac", "cardiac.nii.gz"), ("head-ct", "head_ct.nii.gz")])
def test_files_of_the_user_stay(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / name).write_text("mine")
    series, truth = write_kind(kind, tmp_path, num_phases=1)
    assert (tmp_path / name).read_text() == "mine" and series.is_dir() and truth.is_file()


def test_two_series_are_not_mixed(tmp_path: Path) -> None:
    """Fewer files in the folder of more would be half of each."""
    write_kind("cine", tmp_path, num_phases=2)
    write_kind("cine", tmp_path, num_phases=2)
    with pytest.raises(InputRefused, match="other DICOM files") as caught:
        write_kind("ct", tmp_path)
    assert caught.value.code == "EXISTS"
    assert read_series(tmp_path, phase="all").image.shape[0] == 2
