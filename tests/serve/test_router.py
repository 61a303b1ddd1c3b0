"""Complete studies become jobs: by rule, once, and anew when they have grown."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

import pytest
from hospital import datasets
from pydicom.dataset import Dataset

from convformer_monai.outputs.writer import Options
from convformer_monai.phantoms.dicom import Identity, localizer, save_dataset
from convformer_monai.readers.dicom import parsing
from convformer_monai.serve.config import Keep, Limits, NodeConfig, Rule
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.dead import DeadLetters
from convformer_monai.serve.intake import Intake
from convformer_monai.serve.janitor import SETTLED, clean_up, remove_orphans
from convformer_monai.serve.listener import CLASSES
from convformer_monai.serve.router import Router
from convformer_monai.serve.state import State

MADE_BY = {"some": ("Some", "1", "abc"), "other": ("Other", "1", "def")}


def rule(name: str = "one", bundle: str = "some", **more: Any) -> Rule:
    match = {"modality": ("MR",), **more.pop("match", {})}
    return Rule(name, match, bundle, Options(formats=("dicom-seg",)), ("pacs",), **more)


class Hospital:
    """Intake and router without their threads."""

    def __init__(self, folder: Path, *rules: Rule, **more: Any) -> None:
        self.folder, self.inbox = folder / "node", folder / "in"
        self.folder.mkdir()
        self.inbox.mkdir()
        values = {"quiet_s": 0.0, **more}
        self.config = NodeConfig("N", "", 0, self.folder, (), rules, {}, **values)
        self.state, self.counts = State(self.folder / "state.sqlite"), Counts()
        self.intake = Intake(self.folder, self.state, Limits(min_free_mb=1), CLASSES, self.counts)
        self.router = Router(self.config, self.state, MADE_BY, self.counts)

    def send(self, made: list[Dataset], source: str = "SCANNER") -> None:
        for dataset in made:
            path = save_dataset(dataset, self.inbox / "one.dcm")
            self.intake.take(path.read_bytes(), source)

    def jobs(self) -> list[tuple[str, str, int, int]]:
        """Rule, state, version and number of images of all jobs."""
        rows = self.state.rows("SELECT * FROM jobs ORDER BY id")
        return [(row["rule"], row["state"], row["version"], row["files"].count(".dcm")) for row in rows]

    def do_next(self) -> None:
        """What the worker does, without the work."""
        job = self.state.next_job()
        assert job is not None
        self.state.done(job.id, {}, ())

    def files(self) -> int:
        return sum(path.is_file() for path in (self.folder / "incoming").rglob("*"))


@pytest.mark.parametrize(
    ("match", "changes", "source", "fits"),
    [
        ({}, {}, "SCANNER", True),
        ({"modality": ("CT", "MR")}, {}, "SCANNER", True),
        ({"body_part": ("heart",)}, {}, "SCANNER", True),
        ({"body_part": ("HEAD",)}, {}, "SCANNER", False),
        ({"series_description": ("*sax*", "*short*")}, {"SeriesDescription": "cine SAX stack"}, "SCANNER", True),
        ({"series_description": ("*sax*",)}, {"SeriesDescription": "4ch"}, "SCANNER", False),
        ({"series_description": ("*sax*",)}, {}, "SCANNER", False),
        ({"protocol": ("cardiac?",)}, {"ProtocolName": "Cardiac1"}, "SCANNER", True),
        ({"calling_ae": ("CT*", "SCANNER")}, {}, "SCANNER", True),
        ({"calling_ae": ("CT*",)}, {}, "SCANNER", False),
    ],
)
def test_a_rule_takes_what_fits_all_its_patterns(
    match: dict[str, Any], changes: dict[str, str], source: str, fits: bool, tmp_path: Path
) -> None:
    hospital = Hospital(tmp_path, rule(match=match))
    hospital.send(datasets("cardiac", 1, **changes), source)
    assert hospital.router.route_all() == int(fits)
    assert hospital.counts.get("series_unmatched") == int(not fits)
    assert hospital.files() == (2 if fits else 0)  # what no rule takes is dropped


def test_the_first_rule_takes_a_series_and_what_none_takes_may_be_kept(tmp_path: Path) -> None:
    first = rule("heart", match={"body_part": ("HEART",)})
    hospital = Hospital(tmp_path, first, rule("any", "other"), unmatched="keep")
    hospital.send(datasets("cardiac", 1))
    hospital.send(datasets("cardiac", 1, series=2, BodyPartExamined="LIVER"))
    hospital.send(datasets("hemorrhage", 1, series=3))
    scout = localizer(modality="MR", identity=Identity(patient=1, series=9))
    hospital.send([scout])
    assert hospital.router.route_all() == 2
    assert sorted(hospital.jobs()) == [("any", "queued", 1, 2), ("heart", "queued", 1, 2)]
    assert hospital.counts.get("series_unmatched") == 2 and hospital.files() == 7
    hospital.send(datasets("cardiac", 1))  # sent twice: known, so nothing is open
    assert hospital.router.route_all() == 0 and len(hospital.jobs()) == 2


def test_a_study_is_complete_after_a_quiet_time_or_when_said(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, rule(), quiet_s=3600.0)
    made = datasets("cardiac", 1)
    hospital.send(made[:1])
    assert hospital.router.route_all() == 0
    hospital.state.complete([str(made[0].StudyInstanceUID)])
    hospital.send(made[1:])  # more has come: not complete
    assert hospital.router.route_all() == 0
    hospital.state.complete([str(made[0].StudyInstanceUID)])
    assert hospital.router.route_all() == 1 and hospital.jobs() == [("one", "queued", 1, 2)]


def test_what_comes_while_a_study_is_routed_opens_it_again(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, rule())
    made = datasets("cardiac", 1)
    hospital.send(made[:1])
    ((study, received),) = hospital.state.complete_studies(0)
    hospital.send(made[1:])
    assert hospital.router.route(study, received) == 0 and hospital.jobs() == []
    assert hospital.router.route_all() == 1 and hospital.jobs() == [("one", "queued", 1, 2)]


@pytest.mark.parametrize("when_grown", ["new-version", "ignore"])
def test_a_study_that_grows(when_grown: str, tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, rule(when_grown=when_grown))
    made = datasets("cardiac", 1, slices=4)
    hospital.send(made[:2])
    hospital.router.route_all()
    hospital.send(made[2:3])  # before its job has begun: one answer
    hospital.router.route_all()
    assert hospital.jobs() == [("one", "queued", 1, 3)]
    hospital.do_next()
    hospital.send(made[3:])  # afterwards
    hospital.router.route_all()
    new = [("one", "queued", 2, 4)] if when_grown == "new-version" else []
    assert hospital.jobs() == [("one", "done", 1, 3), *new]


def test_a_refusal_is_not_the_first_answer(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, rule(when_grown="ignore"))
    made = datasets("cardiac", 1, slices=4)
    hospital.send(made[:2])
    hospital.router.route_all()
    job = hospital.state.next_job()
    assert job is not None
    hospital.state.end_job(job.id, "refused", "MISSING_SLICES", "")
    hospital.send(made[2:])  # so that it is whole
    hospital.router.route_all()
    assert hospital.jobs() == [("one", "refused", 1, 2), ("one", "queued", 2, 4)]


def test_a_late_series_after_an_upgrade_does_not_answer_the_others_again(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, rule())
    hospital.send(datasets("cardiac", 1))
    hospital.router.route_all()
    hospital.do_next()
    hospital.router.made_by = {"some": ("Some", "2", "abc")}
    hospital.send(datasets("cardiac", 1, series=2, slices=3))
    assert hospital.router.route_all() == 1
    assert hospital.jobs() == [("one", "done", 1, 2), ("one", "queued", 1, 3)]


def test_photographs_are_images_by_themselves_and_a_whole_study_may_be_one(tmp_path: Path) -> None:
    photos = rule("photos", match={"modality": ("DMS",)})
    hospital = Hospital(tmp_path, photos, rule("cine", whole_study=True))
    first, second = (datasets("dermoscopy", 1, series=7)[0] for _ in "12")
    second.SOPInstanceUID = f"{second.SOPInstanceUID[:60]}.7"
    hospital.send([first, second, *datasets("cardiac", 1), *datasets("cardiac", 1, series=2)])
    hospital.router.route_all()
    assert sorted(hospital.jobs()) == [("cine", "queued", 1, 4)] + [("photos", "queued", 1, 1)] * 2


def test_images_go_when_their_time_is_over_and_a_part_of_a_series_is_not_answered(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, rule(), keep=Keep(images_hours=0.0, results_hours=0.0))
    dead = DeadLetters(hospital.folder)
    made = datasets("cardiac", 1, slices=3)
    hospital.send(made[:2])
    hospital.router.route_all()
    clean_up(hospital.config, hospital.state, dead)
    assert hospital.files() == 2  # the job is still to do
    hospital.do_next()
    time.sleep(0.01)
    clean_up(hospital.config, hospital.state, dead)
    assert hospital.files() == 0
    hospital.send(made[:2])  # the whole again, as it was answered
    assert hospital.router.route_all() == 0 and len(hospital.jobs()) == 1
    clean_up(hospital.config, hospital.state, dead)
    hospital.send(made[2:])  # only what is new
    hospital.router.route_all()
    assert hospital.jobs()[1:] == [("one", "refused", 2, 1)]
    assert hospital.state.rows("SELECT code FROM jobs WHERE version = 2")[0][0] == "INCOMPLETE"
    hospital.send(made)  # the whole series, as the refusal asks for
    assert hospital.router.route_all() == 1
    assert hospital.jobs()[1:] == [("one", "queued", 2, 3)]


@pytest.mark.parametrize("what", ["missing", "damaged"])
def test_a_series_whose_first_file_is_bad_is_not_forgotten(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hospital = Hospital(tmp_path, rule())
    hospital.send(datasets("cardiac", 1, slices=3))
    ((study, _),) = hospital.state.complete_studies(0)
    first = hospital.folder / hospital.state.instances_of(study)[0].file
    first.unlink() if what == "missing" else first.write_bytes(first.read_bytes()[:132])
    hospital.router.route_all()
    assert hospital.jobs() == [("one", "refused", 1, 2) if what == "missing" else ("one", "queued", 1, 3)]
    assert hospital.files() == (2 if what == "missing" else 3)
    assert ("gone from the folder" in caplog.text) == (what == "missing")


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "too many"), MemoryError()])
def test_a_study_that_cannot_be_read_now_waits(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = Hospital(tmp_path, rule())
    hospital.send(datasets("cardiac", 1))
    hospital.send(datasets("cardiac", 2))
    place = hospital.folder / hospital.state.instances_of(str(datasets("cardiac", 1)[0].StudyInstanceUID))[0].file

    def failing(path: Any, *arguments: Any, **more: Any) -> Any:
        if Path(path).parent == place.parent:
            raise error
        return open(path, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(parsing, "open", failing, raising=False)
        assert hospital.router.route_all() == 1 and hospital.files() == 4
    assert hospital.router.route_all() == 1
    assert hospital.jobs() == [("one", "queued", 1, 2)] * 2


def test_a_part_of_a_whole_study_is_not_answered(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, rule(whole_study=True, match={"body_part": ("HEART",)}), keep=Keep(images_hours=0.0))
    hospital.send(datasets("cardiac", 1) + datasets("cardiac", 1, series=2))
    hospital.send(datasets("cardiac", 1, series=3, BodyPartExamined="LIVER"))
    hospital.router.route_all()
    hospital.do_next()
    hospital.send(datasets("cardiac", 1, series=4))
    hospital.router.route_all()
    assert hospital.jobs() == [("one", "done", 1, 4), ("one", "queued", 2, 6)]
    hospital.do_next()
    time.sleep(0.01)
    clean_up(hospital.config, hospital.state, DeadLetters(hospital.folder))
    hospital.send(datasets("cardiac", 1, series=5))
    hospital.router.route_all()
    assert hospital.jobs()[2:] == [("one", "refused", 3, 2)]


def test_what_is_sent_again_while_old_files_are_removed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital = Hospital(tmp_path, rule(), keep=Keep(images_hours=0.0))
    made = datasets("cardiac", 1)
    hospital.send(made)
    hospital.router.route_all()
    hospital.do_next()
    time.sleep(0.01)
    forget = hospital.state.forget_files

    def and_then_they_come_again(files: Any) -> Any:
        gone = forget(files)
        hospital.send(made)
        return gone

    monkeypatch.setattr(hospital.state, "forget_files", and_then_they_come_again)
    clean_up(hospital.config, hospital.state, DeadLetters(hospital.folder))
    kept = hospital.state.instances_of(str(made[0].StudyInstanceUID))
    assert all(one.present and (hospital.folder / one.file).is_file() for one in kept) and hospital.files() == 2
    assert forget([(one.uid, one.file) for one in kept]) == []  # the study is open again


def test_cleaning_looks_at_kept_images_only_also_in_an_old_state(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, rule())
    hospital.state._db.executescript("DROP INDEX kept_instances; DROP TABLE reports;")  # of an earlier version
    hospital.state.close()
    state = State(hospital.folder / "state.sqlite")
    plan = [row["detail"] for row in state.rows(f"EXPLAIN QUERY PLAN {SETTLED}", 0, 0, 0)]
    assert any("kept_instances" in step for step in plan)
    assert not any(step.startswith("SCAN") and "kept_instances" not in step for step in plan)


def test_images_of_what_failed_stay_for_another_try(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, rule(), keep=Keep(images_hours=0.0, results_hours=0.0, dead_days=1.0))
    dead = DeadLetters(hospital.folder)
    hospital.send(datasets("cardiac", 1))
    hospital.router.route_all()
    job = hospital.state.next_job()
    assert job is not None
    hospital.state.end_job(job.id, "failed", "FAULT", "")
    time.sleep(0.01)
    clean_up(hospital.config, hospital.state, dead)
    assert hospital.files() == 2 and hospital.state.retry_dead() == (1, 0)
    hospital.do_next()
    time.sleep(0.01)
    clean_up(hospital.config, hospital.state, dead)
    assert hospital.files() == 0


def test_files_that_were_never_acknowledged_are_removed_at_the_start(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, rule())
    hospital.send(datasets("cardiac", 1))
    folder = next(path for path in (hospital.folder / "incoming").iterdir() if path.is_dir())
    for orphan in (folder / "orphan.dcm", hospital.folder / "incoming" / "x.part"):
        orphan.write_bytes(b"x")
    assert remove_orphans(hospital.folder, hospital.state) == 2 and hospital.files() == 2


def test_another_version_of_the_bundle_is_another_answer(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, rule(), keep=Keep(images_hours=0.0))
    hospital.send(datasets("cardiac", 1))
    hospital.router.route_all()
    hospital.do_next()
    time.sleep(0.01)
    clean_up(hospital.config, hospital.state, DeadLetters(hospital.folder))
    hospital.router.made_by = {"some": ("Some", "2", "abc")}
    hospital.send(datasets("cardiac", 1))
    assert hospital.router.route_all() == 1
    assert [job[2] for job in hospital.jobs()] == [1, 2]
