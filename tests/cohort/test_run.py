"""A whole cohort on worker processes of this machine."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from tiny_cohort import DEADLY, FAULTY, job_for, write_study

from convformer_monai.cli import main
from convformer_monai.cohort.manifest import Entry
from convformer_monai.cohort.plan import Plan
from convformer_monai.cohort.status import Status, all_statuses, write_status
from convformer_monai.cohort.storage import fingerprint, place_of
from convformer_monai.cohort.tables import write_tables
from convformer_monai.cohort.worker import do_case
from convformer_monai.locks import hold


def run(source: Path, out: Path, bundle: Path, *more: str) -> int:
    arguments = ["cohort", str(source), "-o", str(out), "-b", str(bundle), "--device", "cpu"]
    return main([*arguments, *(() if "--workers" in more else ("--workers", "1")), *more])


def stopped_twice(bundle: Path, out: Path, entry: Entry) -> None:
    """Leaves a case as two runs do that end with it."""
    job = job_for(bundle, out, "r1")
    origin = job.made_by(entry, fingerprint(entry.path, job.output) or "")
    status = Status(entry.case, entry.path, "running", "tiny", origin, attempts=1, stops=1, run="r1")
    write_status(place_of(str(out)), status)


def states(out: Path) -> dict[str, str]:
    return {status.case: status.state for status in all_statuses(place_of(str(out)))}


@pytest.mark.slow
def test_a_cohort_with_every_kind_of_case(
    bundle: Path, studies: Path, out: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write_study(studies / "ward" / "deadly.nii.gz", 0, DEADLY)
    write_study(studies / "faulty.nii.gz", 0, FAULTY)
    assert run(studies, out, bundle, "--dry-run") == 0
    said = capsys.readouterr().out
    assert said.startswith("5 to do\n0 done before\n") and "time: unknown" in said and not out.exists()
    assert run(studies, out, bundle, "--json", "--workers", "2") == 1
    counts = {"done": 2, "refused": 1, "failed": 1, "quarantined": 1}
    assert json.loads(capsys.readouterr().out)["counts"] == counts
    assert "1 quarantined: error[FAULT]: ward/deadly: its worker died 2 times" in caplog.text
    assert "2 done (2 with flags of doubt), 1 refused, 1 failed, 1 quarantined; 0 of them before" in caplog.text
    expected = {"s0": "done", "s1": "done", "bad": "refused", "faulty": "failed", "ward/deadly": "quarantined"}
    assert states(out) == expected

    table = pd.read_parquet(out / "measurements.parquet")
    assert set(table["case"]) == {"s0", "s1"} and table["value"].dtype == float
    with (out / "measurements.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(table)
    with (out / "refused.csv").open(newline="") as file:
        rows = {row["case"]: (row["state"], row["code"]) for row in csv.DictReader(file)}
    assert rows == {
        "bad": ("refused", "NOT_NIFTI"),
        "faulty": ("failed", "FAULT"),
        "ward/deadly": ("quarantined", "FAULT"),
    }
    assert "ward/deadly" in (out / "cohort.html").read_text()
    assert [path.name for path in out.rglob(".*")] == [".cohort"]
    assert not [*(out / ".cohort" / "logs").iterdir()]

    written = {path: path.stat().st_mtime_ns for path in out.glob("*_seg.nii.gz")}
    assert run(studies, out, bundle, "--json") == 1  # nothing is to be done, and no worker is started
    printed = json.loads(capsys.readouterr().out)
    assert printed["counts"] == counts and printed["before"] == 5
    write_study(studies / "faulty.nii.gz", 0)
    (studies / "ward" / "deadly.nii.gz").unlink()
    assert run(studies, out, bundle, "--retry", "failed") == 2
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert states(out)["faulty"] == "done"


@pytest.mark.slow
def test_a_manifest_with_two_bundles(bundle: Path, studies: Path, out: Path, tmp_path: Path, bundle_root: Path) -> None:
    (tmp_path / "list.csv").write_text(
        f"case,path,bundle,phase\na/x,in/s0.nii.gz,,\na/y,in/s1.nii.gz,{bundle},0\nz,in/s0.nii.gz,,\n"
    )
    assert run(tmp_path / "list.csv", out, bundle, "--shard", "1/2") == 0
    assert not (out / "measurements.csv").exists() and len(states(out)) < 3
    assert run(tmp_path / "list.csv", out, bundle, "--shard", "2/2") == 0
    assert states(out) == {"a/x": "done", "a/y": "done", "z": "done"}
    assert run(tmp_path / "list.csv", out, bundle) == 0
    assert set(pd.read_csv(out / "measurements.csv")["case"]) == {"a/x", "a/y", "z"}
    report = json.loads((out / "a" / "y_report.json").read_text())
    assert report["options"]["phase"] == "0"


def test_a_dry_run_as_json(bundle: Path, studies: Path, out: Path, capsys: pytest.CaptureFixture) -> None:
    def said() -> dict:
        assert run(studies, out, bundle, "--dry-run", "--json") == 0
        return json.loads(capsys.readouterr().out)

    before = {"done": 0, "refused": 0, "failed": 0, "quarantined": 0}
    assert said() == {"to_do": 3, "before": before, "at_a_time": 1, "seconds_a_case": None, "seconds": None}
    do_case(Entry("s0", str(studies / "s0.nii.gz")), job_for(bundle, out))
    plan = said()
    assert plan["to_do"] == 2 and plan["before"] == {**before, "done": 1}
    assert plan["seconds"] == 2 * plan["seconds_a_case"] > 0


LIVE = """
import sys, time
from convformer_monai.cohort.worker import _prepare_process
_prepare_process(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""


def test_logs_of_workers_of_other_runs_stay(bundle: Path, out: Path) -> None:
    command = [sys.executable, "-c", LIVE, str(out)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "ready\n"
    logs = out / ".cohort" / "logs"
    (logs / "dead-1.log").touch()
    (logs / "dead-2.log").write_text("Segmentation fault")
    write_tables(place_of(str(out)), job_for(bundle, out), quiet=True)
    left = {path.name.rpartition("-")[2] for path in logs.iterdir()}
    other.communicate(timeout=60)
    assert left == {f"{other.pid}.log", "2.log"}
    write_tables(place_of(str(out)), job_for(bundle, out), quiet=True)
    assert [path.name for path in logs.iterdir()] == ["dead-2.log"]


def test_an_unknown_bundle_of_the_manifest(
    bundle: Path,
    studies: Path,
    out: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "list.csv").write_text("case,path,bundle\nx,in/s0.nii.gz,nowhere\n")
    assert run(tmp_path / "list.csv", out, bundle) == 2
    assert "error[MANIFEST]" in capsys.readouterr().err and not out.exists()
    assert "bundle nowhere: nowhere is not a bundle" in caplog.text


def test_a_case_of_another_run_is_waited_for(
    bundle: Path, studies: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convformer_monai.cohort.run.HELD_SECONDS", 0.1)
    (studies / "bad.nii.gz").unlink()
    ended = []
    with hold(out / "s0") as ours:
        assert ours
        thread = threading.Thread(target=lambda: ended.append(run(studies, out, bundle)))
        thread.start()
        deadline = time.monotonic() + 120
        while states(out).get("s1") != "done" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert states(out) == {"s1": "done"} and not ended
    thread.join(timeout=120)
    assert ended == [0] and states(out) == {"s0": "done", "s1": "done"}


@pytest.mark.slow
def test_two_cohorts_beside_segment(bundle: Path, tmp_path: Path, out: Path) -> None:
    """Each case is done by one of the three, and the table is that of all."""
    names = {f"s{seed:02}" for seed in range(40)}
    for seed, name in enumerate(sorted(names)):
        write_study(tmp_path / "in" / f"{name}.nii.gz", seed)
    common = ["-o", str(out), "-b", str(bundle), "--device", "cpu", "--json", "-q"]
    cohort = ["cohort", str(tmp_path / "in"), *common, "--workers", "1"]
    commands = [cohort, cohort, ["segment", "-i", str(tmp_path / "in"), *common]]
    python = [sys.executable, "-m", "convformer_monai.cli"]
    pipe = subprocess.PIPE
    runs = [subprocess.Popen([*python, *words], stdout=pipe, stderr=pipe, text=True) for words in commands]
    done = []
    for run in runs:
        said, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors
        result = json.loads(said)
        if "cases" in result:
            done.append(sum(case["status"] == "done" for case in result["cases"]))
        else:
            assert result["counts"]["done"] == len(names)
            done.append(result["counts"]["done"] - result["before"])
    assert sum(done) == len(names), done
    assert set(pd.read_csv(out / "measurements.csv")["case"]) == names
    assert states(out) == dict.fromkeys(names, "done")
    assert [path.name for path in out.rglob(".*")] == [".cohort"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed(bundle: Path, tmp_path: Path, out: Path, number: int) -> None:
    """The cases that have begun are done; the same command does the others."""
    for seed in range(60):
        write_study(tmp_path / "in" / f"s{seed:02}.nii.gz", seed)
    arguments = ["cohort", str(tmp_path / "in"), "-o", str(out), "-b", str(bundle), "--workers", "1", "--device", "cpu"]
    command = [sys.executable, "-m", "convformer_monai.cli", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while "done" not in states(out).values() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; what is done is complete" in said
    found = states(out)
    assert 0 < len(found) < 60 and set(found.values()) == {"done"}
    assert main(arguments) == 0
    assert len(states(out)) == 60 and {status.attempts for status in all_statuses(place_of(str(out)))} == {1}


@pytest.mark.slow
def test_the_workers_end_with_their_run(bundle: Path, tmp_path: Path, out: Path) -> None:
    """The run is killed; its workers, which leave signals to it, go by themselves."""
    for seed in range(60):
        write_study(tmp_path / "in" / f"s{seed:02}.nii.gz", seed)
    arguments = ["cohort", str(tmp_path / "in"), "-o", str(out), "-b", str(bundle), "--workers", "1", "--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-m", "convformer_monai.cli", *arguments, "-q"])
    deadline = time.monotonic() + 120
    while not states(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    (worker,) = {status.pid for status in all_statuses(place_of(str(out)))}
    process.kill()
    process.wait()
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


@pytest.mark.slow
def test_a_task_that_dask_gives_up_is_handed_out_again(
    bundle: Path, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What becomes of a case is for its status to say, which counts the deaths of its own."""
    monkeypatch.setattr("convformer_monai.cohort.engines.LOSSES", 1)
    write_study(tmp_path / "in" / "deadly.nii.gz", 0, DEADLY)
    write_study(tmp_path / "in" / "good.nii.gz", 0)
    assert run(tmp_path / "in", out, bundle) == 1
    assert states(out) == {"deadly": "quarantined", "good": "done"}


@pytest.mark.slow
def test_workers_that_die_while_they_load_the_network(
    bundle: Path, studies: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("convformer_monai.cohort.engines.LOSSES", 1)
    inference = json.loads((bundle / "configs" / "inference.json").read_text())
    inference["network_def"] = "$__import__('os').kill(__import__('os').getpid(), 9)"
    (bundle / "configs" / "inference.json").write_text(json.dumps(inference))
    assert run(studies, out, bundle) == 2
    assert "error[CLUSTER]: the workers die before they have begun a case" in capsys.readouterr().err
    assert states(out) == {}


def test_without_the_extra(bundle: Path, studies: Path, out: Path) -> None:
    code = "import sys; sys.modules['distributed'] = None; from convformer_monai.cli import run; run()"
    words = ["cohort", str(studies), "-o", str(out), "-b", str(bundle)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and not out.exists()
    assert done.stderr.startswith("error[MISSING_PACKAGE]: a cohort needs distributed: pip install")


def test_options_that_do_not_go_together(bundle: Path, studies: Path, out: Path, capsys: pytest.CaptureFixture) -> None:
    for more in (["--engine", "dask"], ["--scheduler", "tcp://127.0.0.1:1"], ["--shard", "3/2"]):
        assert run(studies, out, bundle, *more) == 2
        assert capsys.readouterr().err.count("error[OPTION]") == 1
    assert not out.exists()


def test_a_scheduler_that_does_not_answer(
    bundle: Path, studies: Path, out: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convformer_monai.cohort.engines.CONNECT_SECONDS", 1)
    arguments = ["cohort", str(studies), "-o", str(out), "-b", str(bundle), "--engine", "dask"]
    assert main([*arguments, "--scheduler", "tcp://127.0.0.1:9"]) == 2
    assert "error[CLUSTER]: no Dask scheduler answers at tcp://127.0.0.1:9" in capsys.readouterr().err


def test_options_of_the_results_reach_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def plan(source: str, output: str, bundle: str, options: object, how: object) -> Plan:
        seen.append(options)
        return Plan([])

    monkeypatch.setattr("convformer_monai.cohort.run.plan_cohort", plan)
    chosen = ["--seg-type", "labelmap", "--format", "dicom-seg", "--ed", "1", "--es", "4", "--phase", "es"]
    assert main(["cohort", "studies", "-o", "out", "--dry-run", *chosen]) == 0
    (options,) = seen
    assert (options.seg_type, options.formats, options.ed, options.es) == ("LABELMAP", ("dicom-seg",), 1, 4)
    assert options.phase == "es"


@pytest.mark.slow
def test_cases_with_which_runs_ended_are_done_one_by_one_at_the_end(
    bundle: Path, studies: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (studies / "bad.nii.gz").unlink()
    for number in range(2, 5):
        write_study(studies / f"s{number}.nii.gz", number)
    for name in ("s0", "s1"):
        stopped_twice(bundle, out, Entry(name, str(studies / f"{name}.nii.gz")))
    assert run(studies, out, bundle, "--workers", "2") == 0
    assert "the last 2 one by one: runs ended while they did them" in caplog.text
    ended = {status.case: (status.started, status.finished) for status in all_statuses(place_of(str(out)))}
    assert states(out) == dict.fromkeys(["s0", "s1", "s2", "s3", "s4"], "done")
    others = max(ended[name][1] for name in ("s2", "s3", "s4"))
    first, second = sorted((ended["s0"], ended["s1"]))
    assert others <= first[0] and first[1] <= second[0]
