"""What a worker does with one case, and what its status says then."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_series import write_volume
from tiny_cohort import DEADLY, FAULTY, job_for, write_study

from convformer_monai.cohort import segment_cases
from convformer_monai.cohort.manifest import Entry
from convformer_monai.cohort.plan import Job, Plan, make_plan
from convformer_monai.cohort.status import Status, read_status, write_status
from convformer_monai.cohort.storage import place_of
from convformer_monai.cohort.worker import do_case
from convformer_monai.errors import InputRefused
from convformer_monai.locks import hold
from convformer_monai.outputs.writer import Options


def plan_for(entries: list[Entry], job: Job) -> Plan:
    return make_plan("list.csv", entries, job, place_of(job.output))


def study(studies: Path, name: str = "s0") -> Entry:
    return Entry(name, str(studies / f"{name}.nii.gz"))


def status_of(job: Job, entry: Entry) -> Status:
    status = read_status(place_of(job.output), entry.case)
    assert status is not None
    return status


def test_a_case_is_done_once(bundle: Path, studies: Path, out: Path) -> None:
    job, entry = job_for(bundle, out), study(studies)
    first = do_case(entry, job)
    assert first.status is not None and not first.before
    assert (first.status.state, first.status.attempts, first.status.pid) == ("done", 1, os.getpid())
    assert first.status == status_of(job, entry)
    written = (out / "s0_seg.nii.gz").stat().st_mtime_ns
    again = do_case(entry, dataclasses.replace(job, run="r2"))
    assert again.before and again.status == first.status and (out / "s0_seg.nii.gz").stat().st_mtime_ns == written
    assert plan_for([entry], job).todo == []


def test_running_is_said_before_the_work_begins(
    bundle: Path, studies: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, entry = job_for(bundle, out), study(studies)
    seen: list[Status] = []

    def stopped(*_: object, **__: object) -> None:
        seen.append(status_of(job, entry))
        raise KeyboardInterrupt

    monkeypatch.setattr("convformer_monai.cohort.worker.process", stopped)
    with pytest.raises(KeyboardInterrupt):
        do_case(entry, job)
    assert (seen[0].state, seen[0].attempts) == ("running", 1)
    assert plan_for([entry], job).todo == [entry]


@pytest.mark.parametrize("change", ["options", "weights", "input", "results"])
def test_what_is_changed_is_done_anew(bundle: Path, studies: Path, out: Path, change: str) -> None:
    job, entry = job_for(bundle, out), study(studies)
    do_case(entry, job)
    if change == "options":
        job = dataclasses.replace(job, options=Options(preview=True))
    elif change == "weights":
        described = dataclasses.replace(job.bundles[""], weights_sha256="0" * 64)
        job = dataclasses.replace(job, bundles={"": described})
    elif change == "input":
        write_study(Path(entry.path), 99)
    else:
        (out / "s0_report.json").unlink()
    assert plan_for([entry], job).todo == [entry]


def test_a_refusal_is_final_until_the_input_changes(bundle: Path, studies: Path, out: Path) -> None:
    job, entry = job_for(bundle, out), study(studies, "bad")
    first = do_case(entry, job).status
    assert first is not None and (first.state, first.code) == ("refused", "NOT_NIFTI") and first.message
    job = dataclasses.replace(job, run="r2")
    assert plan_for([entry], job).before == [first]
    assert do_case(entry, job).status == first
    write_study(Path(entry.path), 1)
    assert plan_for([entry], job).todo == [entry]
    second = do_case(entry, job).status
    assert second is not None and (second.state, second.attempts) == ("done", 1)


def test_results_of_other_options_are_not_overwritten_and_that_is_not_final(
    bundle: Path, studies: Path, out: Path
) -> None:
    entry = study(studies)
    do_case(entry, job_for(bundle, out))
    other = job_for(bundle, out, "r2", options=Options(preview=True))
    refused = do_case(entry, other).status
    assert refused is not None and (refused.state, refused.code) == ("refused", "EXISTS")
    assert plan_for([entry], job_for(bundle, out, "r3", options=Options(preview=True))).todo == [entry]
    done = do_case(entry, job_for(bundle, out, "r4", options=Options(preview=True, overwrite=True))).status
    assert done is not None and done.state == "done" and (out / "s0_preview.png").is_file()


def test_overwrite_does_each_case_once_a_run(bundle: Path, studies: Path, out: Path) -> None:
    entry = study(studies)
    do_case(entry, job_for(bundle, out))
    job = job_for(bundle, out, "r2", options=Options(overwrite=True))
    assert plan_for([entry], job).todo == [entry]
    first = do_case(entry, job)
    written = (out / "s0_seg.nii.gz").stat().st_mtime_ns
    again = do_case(entry, job)
    assert (first.before, again.before) == (False, False) and again.status == first.status
    assert (out / "s0_seg.nii.gz").stat().st_mtime_ns == written


def test_a_fault_is_tried_again_as_often_as_allowed(bundle: Path, out: Path, tmp_path: Path) -> None:
    entry = Entry("x", str(write_study(tmp_path / "in" / "x.nii.gz", 0, FAULTY)))
    job = job_for(bundle, out)
    for attempt in (1, 2, 2):
        status = do_case(entry, job).status
        assert status is not None and (status.state, status.code, status.attempts) == ("failed", "FAULT", attempt)
    assert "ZeroDivisionError" in (out / "x_fault.txt").read_text()
    assert plan_for([entry], job).todo == []
    retry = dataclasses.replace(job, run="r2", retry_failed=True)
    assert plan_for([entry], retry).todo == [entry]
    for attempt in (1, 2, 2):
        status = do_case(entry, retry).status
        assert status is not None and status.attempts == attempt
    write_study(Path(entry.path), 0)
    done = do_case(entry, retry).status
    assert done is not None and done.state == "done" and not (out / "x_fault.txt").exists()


def test_a_run_that_was_killed_is_no_fault_of_its_case(
    bundle: Path, studies: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = study(studies)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for number in range(3):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("convformer_monai.cohort.worker.process", stopped)
            do_case(entry, job_for(bundle, out, f"r{number}"))
    status = do_case(entry, job_for(bundle, out, "r3")).status
    assert status is not None and (status.state, status.attempts) == ("done", 1)


def test_a_case_with_which_runs_end_comes_last_and_alone_and_is_given_up(
    bundle: Path, studies: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [study(studies), study(studies, "s1")]

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    plans = []
    for number in range(4):
        job = job_for(bundle, out, f"r{number}")
        plans.append(plan_for(entries, job))
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr("convformer_monai.cohort.worker.process", stopped)
            do_case(entries[0], job)
        assert status_of(job, entries[0]).stops == number
    assert [([entry.case for entry in plan.todo], plan.alone) for plan in plans] == [
        (["s0", "s1"], 0),
        (["s0", "s1"], 0),
        (["s1", "s0"], 1),
        (["s1", "s0"], 1),
    ]
    last = job_for(bundle, out, "r4")
    assert plan_for(entries, last).alone == 1
    status = do_case(entries[0], last).status
    assert status is not None and (status.state, status.stops) == ("quarantined", 0)
    assert status.message.startswith("4 runs ended while they did it") and "alone" not in status.message
    assert "nothing else to do" in (out / "s0_fault.txt").read_text()
    retry = job_for(bundle, out, "r5", retry_failed=True)
    assert plan_for(entries, retry).alone == 0 and do_case(entries[0], retry).status.state == "done"


def test_runs_that_ended_with_other_input_do_not_count(bundle: Path, studies: Path, out: Path) -> None:
    entry = study(studies)
    do_case(entry, job_for(bundle, out))
    status = dataclasses.replace(status_of(job_for(bundle, out), entry), state="running", run="r0", stops=9)
    (out / "s0_report.json").unlink()
    write_status(place_of(str(out)), status)
    assert plan_for([entry], job_for(bundle, out)).alone == 1
    write_study(Path(entry.path), 99)
    assert plan_for([entry], job_for(bundle, out)).alone == 0


CHILD = """
import sys
from convformer_monai.cohort.manifest import Entry
from convformer_monai.cohort.plan import Job, describe_bundle
from convformer_monai.cohort.worker import do_case
from convformer_monai.outputs.writer import Options
bundle, out, case, path = sys.argv[1:]
job = Job("r1", out, {"": describe_bundle(bundle)}, Options(), device="cpu")
do_case(Entry(case, path), job)
"""


def test_a_case_that_kills_its_worker_twice_is_quarantined(bundle: Path, out: Path, tmp_path: Path) -> None:
    entry = Entry("x", str(write_study(tmp_path / "in" / "x.nii.gz", 0, DEADLY)))
    job = job_for(bundle, out)
    pids = set()
    for attempt in (1, 2):
        command = [sys.executable, "-c", CHILD, str(bundle), str(out), entry.case, entry.path]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == -9, done.stderr
        status = status_of(job, entry)
        assert (status.state, status.attempts) == ("running", attempt)
        pids.add(status.pid)
    assert len(pids) == 2 and os.getpid() not in pids
    status = do_case(entry, job).status
    assert status is not None and (status.state, status.attempts) == ("quarantined", 2)
    assert "2 times" in (out / "x_fault.txt").read_text()
    later = dataclasses.replace(job, run="r2")
    assert plan_for([entry], later).todo == [] and do_case(entry, later).before
    retry = dataclasses.replace(job, run="r3", retry_failed=True)
    assert plan_for([entry], retry).todo == [entry]
    assert {path.name for path in out.glob(".*")} == {".cohort"}


def test_a_case_that_was_done_when_its_worker_died_is_not_done_again(bundle: Path, studies: Path, out: Path) -> None:
    job, entry = job_for(bundle, out), study(studies)
    status = do_case(entry, job).status
    assert status is not None
    written = (out / "s0_seg.nii.gz").stat().st_mtime_ns
    write_status(place_of(str(out)), dataclasses.replace(status, state="running", attempts=2))
    again = do_case(entry, job).status
    assert again is not None and again.state == "done" and (out / "s0_seg.nii.gz").stat().st_mtime_ns == written


def test_a_case_that_another_process_holds(bundle: Path, studies: Path, out: Path) -> None:
    job, entry = job_for(bundle, out), study(studies)
    with hold(out / entry.case) as ours:
        assert ours and do_case(entry, job).status is None
    outcome = do_case(entry, job)
    assert outcome.status is not None and outcome.status.state == "done"


def test_what_segment_did_is_done_and_the_other_way_round(bundle: Path, studies: Path, out: Path) -> None:
    (studies / "bad.nii.gz").unlink()
    segment_cases(studies, out, bundle, Options(), device="cpu", quiet=True)
    written = {path: path.stat().st_mtime_ns for path in out.glob("*_seg.nii.gz")}
    outcome = do_case(study(studies), job_for(bundle, out))
    assert outcome.before and outcome.status is not None and outcome.status.state == "done"
    assert {path: path.stat().st_mtime_ns for path in out.glob("*_seg.nii.gz")} == written
    for path in out.glob("s0*"):
        path.unlink()
    do_case(study(studies), job_for(bundle, out, "r2"))
    summary = segment_cases(studies, out, bundle, Options(), device="cpu", quiet=True)
    assert [result.status for result in summary.results] == ["skipped", "skipped"]


def test_the_bundle_of_the_worker_is_that_of_the_run(bundle: Path, studies: Path, out: Path) -> None:
    job = job_for(bundle, out)
    other = dataclasses.replace(job.bundles[""], config_sha256="0" * 64)
    with pytest.raises(InputRefused) as refusal:
        do_case(study(studies), dataclasses.replace(job, bundles={"": other}))
    assert refusal.value.code == "WEIGHTS_HASH"


def test_phase_and_series_of_the_manifest_are_options_of_the_case(bundle: Path, out: Path) -> None:
    job = job_for(bundle, out, options=Options(phase="ed"))
    assert job.options_of(Entry("a", "x")).phase == "ed"
    chosen = job.options_of(Entry("a", "x", series_uid="1.2", phase="3"))
    assert (chosen.phase, chosen.series_uid) == ("3", "1.2")
    assert job.made_by(Entry("a", "x"), "i") != job.made_by(Entry("a", "x", phase="3"), "i")


def test_a_missing_input_is_named(bundle: Path, studies: Path, out: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputRefused) as refusal:
        plan_for([study(studies), study(studies, "gone")], job_for(bundle, out))
    assert refusal.value.code == "MANIFEST" and "gone.nii.gz does not exist" in caplog.text


def test_files_that_a_killed_run_left_are_not_in_the_way(bundle: Path, studies: Path, out: Path) -> None:
    """``segment`` was killed while its results got their names, after this process has looked into the folder."""
    job = job_for(bundle, out)
    do_case(study(studies), job)
    (out / ".0.partial.nii.gz").write_text("half")
    os.link(out / ".0.partial.nii.gz", out / "s1_seg.nii.gz")
    names = [("s1_seg.nii.gz", ".0.partial.nii.gz"), ("s1_report.json", ".1.partial.json")]
    (out / ".1.partial.json").write_text("half")
    entries = [{"target": target, "temporary": temporary} for target, temporary in names]
    lines = [json.dumps(entry) for entry in [*entries, {"commit": True, "new": True}]]
    (out / ".2.convformer-journal").write_text("\n".join(lines) + "\n")
    status = do_case(study(studies, "s1"), job).status
    assert status is not None and status.state == "done", status
    assert [path.name for path in out.glob(".*")] == [".cohort"]


@pytest.mark.parametrize("change", ["path", "older input", "flips", "config"])
def test_results_of_something_else_are_not_taken_for_these(bundle: Path, studies: Path, out: Path, change: str) -> None:
    entry = study(studies)
    do_case(entry, job_for(bundle, out))
    written = {path: path.read_bytes() for path in out.glob("s0_*")}
    old = Path(entry.path).stat().st_mtime - 1000
    flips = change == "flips"
    if change == "path":
        entry = Entry("s0", str(studies / "s1.nii.gz"))
        os.utime(entry.path, (old, old))
    elif change == "older input":
        write_study(Path(entry.path), 99)
        os.utime(entry.path, (old, old))
    elif change == "config":
        inference = json.loads((bundle / "configs" / "inference.json").read_text())
        (bundle / "configs" / "inference.json").write_text(json.dumps({**inference, "amp": False}))
    other = job_for(bundle, out, "r2", flips=flips)
    assert plan_for([entry], other).todo == [entry]
    refused = do_case(entry, other).status
    assert refused is not None and (refused.state, refused.code) == ("refused", "EXISTS")
    assert {path: path.read_bytes() for path in out.glob("s0_*")} == written
    if change != "config":
        return
    replaced = do_case(entry, job_for(bundle, out, "r3", options=Options(overwrite=True))).status
    assert replaced is not None and replaced.state == "done"


def test_results_are_known_again_after_a_run_with_other_options(bundle: Path, studies: Path, out: Path) -> None:
    entry = study(studies)
    do_case(entry, job_for(bundle, out))
    do_case(entry, job_for(bundle, out, "r2", flips=True))
    outcome = do_case(entry, job_for(bundle, out, "r3"))
    assert outcome.before and outcome.status is not None and outcome.status.state == "done"
    assert outcome.status.flags


@pytest.mark.parametrize("removed", ["_seg.nii.gz", "_report.json", ""])
def test_a_case_whose_files_are_gone_is_done_again(bundle: Path, studies: Path, out: Path, removed: str) -> None:
    entry = Entry("ward/s0", str(studies / "s0.nii.gz"))
    do_case(entry, job_for(bundle, out))
    written = {path.name: path.read_bytes() for path in (out / "ward").iterdir()}
    for path in out.glob(f"ward/s0{removed or '_*'}"):
        path.unlink()
    again = job_for(bundle, out, "r2")
    assert plan_for([entry], again).todo == [entry]
    outcome = do_case(entry, again)
    assert not outcome.before and outcome.status is not None and outcome.status.state == "done"
    assert {path.name for path in (out / "ward").iterdir()} == set(written)
    assert (out / "ward" / "s0_seg.nii.gz").read_bytes() == written["s0_seg.nii.gz"]
    assert plan_for([entry], job_for(bundle, out, "r3")).todo == []


def test_a_mask_that_nobody_knows_is_not_replaced(bundle: Path, studies: Path, out: Path) -> None:
    out.mkdir()
    (out / "s0_seg.nii.gz").write_text("drawn by hand")
    for run in ("r1", "r2"):
        status = do_case(study(studies), job_for(bundle, out, run)).status
        assert status is not None and status.code == "EXISTS"
    assert (out / "s0_seg.nii.gz").read_text() == "drawn by hand"


def test_results_inside_of_a_case_do_not_change_it(bundle: Path, tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 900, (40, 36, 3)).astype(np.int16)
    series = write_volume(tmp_path / "series", volume, np.diag([-1.5, -1.5, 8.0, 1.0]))
    entry, out = Entry("x", str(series)), series / "out"
    first = do_case(entry, job_for(bundle, out)).status
    assert first is not None and first.state == "done", first
    assert plan_for([entry], job_for(bundle, out, "r2")).todo == []


def test_overwrite_does_not_depend_on_clocks(
    bundle: Path, studies: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that did the cases is an hour ahead; what another run does meanwhile is left to it."""
    entry = study(studies)
    monkeypatch.setattr("convformer_monai.cohort.worker.now", lambda: "2999-01-01T00:00:00.000+00:00")
    do_case(entry, job_for(bundle, out))
    first, second = (job_for(bundle, out, run, options=Options(overwrite=True)) for run in ("r2", "r3"))
    (planned,), (also,) = plan_for([entry], first).todo, plan_for([entry], second).todo
    monkeypatch.setattr("convformer_monai.cohort.worker.now", lambda: "2000-01-01T00:00:00.000+00:00")
    done = do_case(planned, first)
    assert not done.before and done.status is not None and done.status.run == "r2"
    shared = do_case(also, second)
    assert shared.before and shared.status == done.status
