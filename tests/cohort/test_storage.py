"""Images from and results to object storage: in memory, and on moto's S3 server."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny_cohort import FAULTY, job_for, write_study

from convformer_monai.cli import main
from convformer_monai.cohort.manifest import Entry
from convformer_monai.cohort.plan import make_plan
from convformer_monai.cohort.status import Status, all_statuses, write_status
from convformer_monai.cohort.storage import Place, fetched, fingerprint, is_url, place_of
from convformer_monai.cohort.tables import write_tables
from convformer_monai.cohort.worker import Outcome, do_case
from convformer_monai.errors import InputRefused
from convformer_monai.outputs.writer import Options

fsspec = pytest.importorskip("fsspec", reason="needs the extra cluster")


@pytest.fixture
def memory(studies: Path) -> Iterator[str]:
    """Object storage in the memory of this process, with the studies in it; its URL."""
    system = fsspec.filesystem("memory")
    system.put(str(studies), "/bucket/in", recursive=True)
    yield "memory://bucket"
    system.store.clear()
    system.pseudo_dirs.clear()


def test_a_case_from_and_to_object_storage(bundle: Path, memory: str, studies: Path, out: Path) -> None:
    job, place = job_for(bundle, Path("x"), output=f"{memory}/out"), place_of(f"{memory}/out")
    entries = [Entry(f"ward/{name}", f"{memory}/in/{name}.nii.gz") for name in ("s0", "s1", "bad")]
    assert make_plan("list.csv", entries, job, place).todo == entries
    outcomes = [do_case(entry, job) for entry in entries]
    assert [one.status.state for one in outcomes if one.status] == ["done", "done", "refused"]
    assert make_plan("list.csv", entries, job, place).todo == []
    system = fsspec.filesystem("memory")
    names = {path.rpartition("/")[2] for path in system.find("/bucket/out/ward")}
    local = job_for(bundle, out)
    do_case(Entry("s0", str(studies / "s0.nii.gz")), local)
    assert {name for name in names if name.startswith("s0")} == {path.name for path in out.glob("s0*")}
    for ending in ("_seg.nii.gz", "_measurements.csv"):
        expected = (out / f"s0{ending}").read_bytes().replace(b"s0,", b"ward/s0,")
        assert system.cat(f"/bucket/out/ward/s0{ending}") == expected
    files = write_tables(place, job, quiet=True)
    assert f"{memory}/out/measurements.parquet" in files
    assert set(pd.read_csv(f"{memory}/out/measurements.csv")["case"]) == {"ward/s0", "ward/s1"}
    assert "ward/bad" in system.cat("/bucket/out/refused.csv").decode()
    assert {status.state for status in all_statuses(place)} == {"done", "refused"}


def test_a_fault_is_kept_and_goes_with_success(bundle: Path, memory: str, tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.put_file(str(write_study(tmp_path / "x.nii.gz", 0, FAULTY)), "/bucket/in/x.nii.gz")
    job, entry = job_for(bundle, Path("x"), output=f"{memory}/out"), Entry("x", f"{memory}/in/x.nii.gz")
    status = do_case(entry, job).status
    assert status is not None and status.state == "failed"
    assert "ZeroDivisionError" in system.cat("/bucket/out/x_fault.txt").decode()
    system.put_file(str(write_study(tmp_path / "x.nii.gz", 0)), "/bucket/in/x.nii.gz")
    status = do_case(entry, job).status
    assert status is not None and status.state == "done" and not system.exists("/bucket/out/x_fault.txt")


def test_a_series_is_a_folder_of_objects(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    for number in range(3):
        system.pipe_file(f"/series/one/{number}.dcm", bytes([number]))
    with fetched("memory://series/one") as path:
        assert path.is_dir() and sorted(file.name for file in path.iterdir()) == ["0.dcm", "1.dcm", "2.dcm"]
    assert not path.exists()
    before = fingerprint("memory://series/one")
    system.pipe_file("/series/one/2.dcm", b"longer")
    assert before is not None and fingerprint("memory://series/one") not in (before, None)
    assert fingerprint("memory://series/none") is None
    system.store.clear()


def test_fingerprints_of_folders(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    assert fingerprint(str(tmp_path / "none")) is None
    (tmp_path / "series" / "a").write_text("1")
    before = fingerprint(str(tmp_path / "series"))
    assert fingerprint(f"file://{tmp_path}/series") == before and not is_url(f"file://{tmp_path}")
    (tmp_path / "series" / "b").write_text("1")
    assert fingerprint(str(tmp_path / "series")) != before


def test_storage_that_is_not_known() -> None:
    with pytest.raises(InputRefused) as refusal:
        place_of("nowhere://bucket/out")
    assert refusal.value.code == "OPTION"


@pytest.mark.slow
def test_a_cohort_on_s3(bundle: Path, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest, the images and the results are in a bucket of moto's server."""
    moto = pytest.importorskip("moto.server", reason="needs the extra dev")
    pytest.importorskip("s3fs", reason="needs the extra cluster")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ):
            monkeypatch.setenv(name, value)
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("hospital")
        system.put(f"{studies}/", "hospital/in/", recursive=True)
        rows = "".join(f"{name},in/{name}.nii.gz\n" for name in ("s0", "s1", "bad"))
        system.pipe_file("hospital/list.csv", f"case,path\n{rows}".encode())
        command = ["cohort", "s3://hospital/list.csv", "-o", "s3://hospital/out", "-b", str(bundle), "-q"]
        command += ["--workers", "1", "--device", "cpu"]
        assert main(command) == 2
        states = {status.case: status.state for status in all_statuses(place_of("s3://hospital/out"))}
        assert states == {"s0": "done", "s1": "done", "bad": "refused"}
        report = json.loads(system.cat("hospital/out/s0_report.json"))
        assert all(system.exists(f"hospital/out/{name}") for name in report["files"])
        assert system.exists("hospital/out/cohort.html")
        assert set(pd.read_parquet("s3://hospital/out/measurements.parquet")["case"]) == {"s0", "s1"}
        modified = system.info("hospital/out/s0_seg.nii.gz")["LastModified"]
        assert main(command) == 2
        assert system.info("hospital/out/s0_seg.nii.gz")["LastModified"] == modified
    finally:
        server.stop()


def objects(folder: str) -> dict[str, bytes]:
    system = fsspec.filesystem("memory")
    return {path: system.cat(path) for path in system.find(folder) if "/.cohort/" not in path}


def test_results_of_other_options_are_not_replaced(bundle: Path, memory: str) -> None:
    def run(number: int, **values: object) -> Outcome:
        return do_case(entry, job_for(bundle, Path("x"), f"r{number}", output=f"{memory}/out", **values))

    def state(outcome: Outcome) -> tuple[str, str]:
        assert outcome.status is not None
        return outcome.status.state, outcome.status.code

    entry = Entry("ward/s0", f"{memory}/in/s0.nii.gz")
    assert state(run(1)) == ("done", "")
    written = objects("/bucket/out")
    for number, flips in ((2, True), (3, True)):
        assert state(run(number, flips=flips)) == ("refused", "EXISTS") and objects("/bucket/out") == written
    again = run(4)
    assert state(again) == ("done", "") and again.before and objects("/bucket/out") == written
    assert state(run(5, flips=True, options=Options(overwrite=True))) == ("done", "")
    assert objects("/bucket/out") != written
    fsspec.filesystem("memory").rm_file("/bucket/out/ward/s0_report.json")
    assert state(run(6)) == ("refused", "EXISTS"), "a mask of whoever made it"


@pytest.mark.parametrize("kept", ["nothing", "some", "all"])
def test_an_upload_that_was_cut_off_is_done_again(
    bundle: Path, memory: str, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    """The worker is killed while it uploads results, or when it has."""
    place, entry = place_of(f"{memory}/out"), Entry("s0", f"{memory}/in/s0.nii.gz")
    job = job_for(bundle, Path("x"), output=f"{memory}/out")
    upload = type(place.system).put_file
    most = {"nothing": 0, "some": 2, "all": 100}[kept]

    def cut_off(self: Any, here: str, there: str, **options: Any) -> None:
        if len(objects("/bucket/out")) >= most:
            raise KeyboardInterrupt
        upload(self, here, there, **options)

    def killed(place: Place, status: Status) -> None:
        if status.state == "done":
            raise KeyboardInterrupt
        write_status(place, status)

    with monkeypatch.context() as patched:
        patched.setattr(type(place.system), "put_file", cut_off)
        patched.setattr("convformer_monai.cohort.worker.write_status", killed)
        with pytest.raises(KeyboardInterrupt):
            do_case(entry, job)
    left = objects("/bucket/out")
    assert len(left) == min(most, 6) and ("/bucket/out/s0_report.json" in left) == (kept == "all")
    status = do_case(entry, dataclasses.replace(job, run="r2")).status
    assert status is not None and status.state == "done"
    assert len(objects("/bucket/out")) == 6


def test_a_folder_that_cannot_be_made(bundle: Path, studies: Path, out: Path) -> None:
    (out / ".cohort").mkdir(parents=True)
    (out / ".cohort" / "status").write_text("in the way, as a full disk is")
    with pytest.raises(InputRefused) as refusal:
        do_case(Entry("s0", str(studies / "s0.nii.gz")), job_for(bundle, out))
    assert refusal.value.code == "CANNOT_WRITE" and "cannot be made" in refusal.value.message
