"""What is taken, and what is not: repeats, mismatches, paths in UIDs, bombs, damage, limits, full disks."""

from __future__ import annotations

import errno
import io
import os
import random
import sqlite3
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hospital import datasets
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from convformer_monai.phantoms.dicom import save_dataset
from convformer_monai.readers.dicom import parsing
from convformer_monai.serve import intake as intake_module
from convformer_monai.serve.config import Limits
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.intake import MISMATCH, NO_SPACE, NO_SUCH_CLASS, NOT_UNDERSTOOD, Intake, NotTaken, file_of
from convformer_monai.serve.listener import CLASSES
from convformer_monai.serve.records import Instance
from convformer_monai.serve.state import State

FUZZED = int(os.environ.get("CONVFORMER_FUZZED", "1500"))


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    folder = tmp_path / "node"
    folder.mkdir()
    return Intake(folder, State(folder / "state.sqlite"), Limits(min_free_mb=1), CLASSES, Counts())


def content_of(dataset: Dataset, folder: Path, **options: object) -> bytes:
    return save_dataset(dataset, folder / "one.dcm", **options).read_bytes()  # type: ignore[arg-type]


@pytest.fixture
def good(tmp_path: Path) -> bytes:
    return content_of(datasets("cardiac", 1)[0], tmp_path)


def files(intake: Intake) -> list[Path]:
    return [path for path in (intake.folder / "incoming").rglob("*") if path.is_file()]


def check_refused(intake: Intake, content: bytes, status: int, reason: str, **options: object) -> None:
    before = files(intake)
    with pytest.raises(NotTaken) as caught:
        intake.take(content, "SCANNER", **options)  # type: ignore[arg-type]
    assert (caught.value.status, caught.value.reason) == (status, reason)
    assert "Planted" not in str(caught.value) and str(caught.value).startswith("error[NOT_TAKEN]: ")
    assert files(intake) == before and intake.counts.get("instances_refused", reason) >= 1


def test_an_instance_is_kept_as_it_came_and_a_repeat_changes_nothing(intake: Intake, good: bytes) -> None:
    one = intake.take(good, "SCANNER")
    assert (intake.folder / one.file).read_bytes() == good
    assert one.source == "SCANNER" and intake.state.known(one.uid) == one
    again = intake.take(good, "ANOTHER", claimed=(one.class_uid, one.uid))
    assert again == one and len(files(intake)) == 1
    assert intake.take(good, "SCANNER") == one
    assert intake.counts.get("instances_taken") == 1 and intake.counts.get("instances_repeated") == 2


def test_a_file_that_somebody_removed_is_taken_again(intake: Intake, good: bytes) -> None:
    one = intake.take(good, "SCANNER")
    (intake.folder / one.file).unlink()
    again = intake.take(good, "SCANNER", claimed=(one.class_uid, one.uid))
    assert replace(again, file=one.file) == one and again.file != one.file
    assert (intake.folder / again.file).read_bytes() == good and intake.state.known(one.uid) == again


def test_what_comes_twice_at_once_is_kept_once(intake: Intake, good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[Instance] = []

    def another(folder: Path) -> None:
        monkeypatch.undo()
        first.append(intake.take(good, "ANOTHER"))

    monkeypatch.setattr(intake_module, "_sync", another)
    with pytest.raises(NotTaken) as caught:
        intake.take(good, "SCANNER")
    assert caught.value.status == NO_SPACE
    assert files(intake) == [intake.folder / first[0].file] and intake.state.known(first[0].uid) == first[0]


def test_a_dataset_gets_its_meta_information(intake: Intake, tmp_path: Path) -> None:
    dataset = datasets("cardiac", 1)[0]
    encoded = content_of(dataset, tmp_path, transfer_syntax=ImplicitVRLittleEndian)
    start = dcmread(io.BytesIO(encoded), stop_before_pixels=True).file_meta.FileMetaInformationGroupLength + 144
    content = file_of(encoded[start:], dataset.SOPClassUID, dataset.SOPInstanceUID, str(ImplicitVRLittleEndian))
    kept = dcmread(intake.folder / intake.take(content, "SCANNER").file)
    assert kept.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert kept.PixelData == dataset.PixelData and kept.PatientName == dataset.PatientName


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SOPInstanceUID", "../../../../etc/passwd"),
        ("StudyInstanceUID", "/tmp/evil"),
        ("SeriesInstanceUID", "1.2.3/../../4"),
        ("SOPInstanceUID", "1." * 40 + "1"),
        ("StudyInstanceUID", ""),
        ("SeriesInstanceUID", "1.2.\n3"),
        ("StudyInstanceUID", ".."),
        ("SOPInstanceUID", "1.2.$(touch x)"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_uid_that_is_none_leads_nowhere(keyword: str, value: str, intake: Intake, tmp_path: Path) -> None:
    dataset = datasets("cardiac", 1)[0]
    setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    path = tmp_path / "evil.dcm"
    dataset.save_as(path, implicit_vr=False, little_endian=True)
    content = path.read_bytes()
    content = (
        content
        if content[128:132] == b"DICM"
        else file_of(content, dataset.SOPClassUID, "1.2.3", ExplicitVRLittleEndian)
    )
    check_refused(intake, content, MISMATCH, "uid")
    if keyword == "SOPInstanceUID":
        check_refused(intake, content, MISMATCH, "uid", claimed=(dataset.SOPClassUID, value))


def test_what_is_not_what_its_sender_says(intake: Intake, good: bytes, tmp_path: Path) -> None:
    dataset = datasets("cardiac", 1)[0]
    check_refused(intake, good, MISMATCH, "mismatch", claimed=(str(dataset.SOPClassUID), "1.2.3"))
    intake.take(good, "SCANNER")
    dataset.StudyInstanceUID = "1.2.3"
    check_refused(intake, content_of(dataset, tmp_path), MISMATCH, "mismatch")
    dataset.SOPInstanceUID, dataset.SOPClassUID = "1.2.4", "1.2.840.10008.5.1.4.1.1.66.4"
    check_refused(intake, content_of(dataset, tmp_path), NO_SUCH_CLASS, "class")


def test_what_is_damaged(intake: Intake, good: bytes, tmp_path: Path) -> None:
    pixels = good.rfind(b"\xe0\x7f\x10\x00")
    for content, reason in [
        (b"", "not DICOM"),
        (b"GET / HTTP/1.1\r\n\r\n" * 20, "not DICOM"),
        (good[:140], "damaged"),
        (good[:pixels], "damaged"),
    ]:
        check_refused(intake, content, NOT_UNDERSTOOD, reason)


def test_a_bomb_is_not_unpacked(intake: Intake, good: bytes, tmp_path: Path) -> None:
    """Zeros, deflated to a thousandth (PS3.5 section A.5)."""
    dataset = datasets("cardiac", 2)[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = b"".join(packer.compress(bytes(2**24)) for _ in range(20)) + packer.flush()
    content = file_of(packed, dataset.SOPClassUID, dataset.SOPInstanceUID, DeflatedExplicitVRLittleEndian)
    assert len(content) < 2**20
    check_refused(intake, content, NOT_UNDERSTOOD, "damaged")


def test_limits(intake: Intake, good: bytes, tmp_path: Path) -> None:
    usual = intake.limits
    big = good + bytes(2**20)
    intake.limits = replace(usual, instance_mb=1)
    check_refused(intake, big, NO_SPACE, "instance size")
    intake.limits = replace(usual, study_instances=1)
    first, second = (content_of(one, tmp_path) for one in datasets("cardiac", 3))
    intake.take(first, "SCANNER")
    check_refused(intake, second, NO_SPACE, "study size")
    assert intake.take(first, "SCANNER")  # what is there stays
    intake.limits = replace(usual, min_free_mb=2**40)
    intake._looked = 0.0
    assert not intake.has_space()
    check_refused(intake, second, NO_SPACE, "disk")


def test_a_full_disk_is_no_fault(intake: Intake, good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(intake.state, "add_instance", full)
        with pytest.raises(NotTaken) as caught:
            intake.take(good, "SCANNER")
        assert caught.value.status == NO_SPACE
    assert intake.take(good, "SCANNER").present  # as it is sent again


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "too many"), OSError(errno.EIO, "disk"), MemoryError()])
def test_a_fault_of_the_machine_is_not_one_of_the_instance(
    error: Exception, intake: Intake, good: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(parsing, "open", failing, raising=False)
        check_refused(intake, good, NO_SPACE, "storage")
    assert intake.take(good, "SCANNER").present


def mutated(good: bytes, random_numbers: random.Random) -> bytes:
    """A file with some bytes changed, doubled, left out or cut."""
    content = bytearray(good)
    for _ in range(random_numbers.randint(1, 12)):
        place = random_numbers.randrange(128, min(len(content), 1600))
        what = random_numbers.randrange(5)
        if what == 0:
            content[place] = random_numbers.randrange(256)
        elif what == 1:
            content[place : place + 4] = random_numbers.choice([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f", b"SQ\0\0"])
        elif what == 2:
            del content[place : place + random_numbers.randrange(1, 9)]
        elif what == 3:
            content[place:place] = content[place : place + random_numbers.randrange(1, 30)]
        elif random_numbers.random() < 0.2:
            del content[place:]
        if len(content) < 200:
            break
    return bytes(content)


def test_fuzzed_instances_are_taken_or_refused(intake: Intake, good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set ``CONVFORMER_FUZZED`` for more of them."""
    synced: list[Callable[..., None]] = []
    monkeypatch.setattr(os, "fsync", synced.append)  # as fast as it goes
    random_numbers, taken = random.Random(1), 0
    for _ in range(FUZZED):
        try:
            intake.take(mutated(good, random_numbers), "SCANNER")
            taken += 1
        except NotTaken:
            pass
    refused = sum(count for (name, _), count in intake.counts.all().items() if name == "instances_refused")
    assert taken + refused == FUZZED and 0 < taken < FUZZED
    assert len(files(intake)) == intake.counts.get("instances_taken")
    assert intake.state.rows("PRAGMA integrity_check")[0][0] == "ok"
    assert all(path.is_relative_to(intake.folder) for path in files(intake))
