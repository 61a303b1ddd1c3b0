"""A whole node in this process: results, pages, refusals, faults, restarts; nothing of the patient is shown."""

from __future__ import annotations

import base64
import contextlib
import logging
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from dicom_results import dciodvfy_errors
from hospital import TOKEN, configure, datasets, needs_dcmtk, node_here, rule, storescu, tiny, wait_until, write_study
from pydicom import dcmread

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs.atomic import CannotWrite
from convformer_monai.phantoms.dicom import save_dataset
from convformer_monai.serve import node as node_module
from convformer_monai.serve import state as state_module
from convformer_monai.serve import web as web_module
from convformer_monai.serve import worker as worker_module
from convformer_monai.serve.node import Node, load_segmenters, owned
from convformer_monai.serve.pages import summary

pytestmark = needs_dcmtk
SHARE = {"name": "share", "kind": "folder", "path": "share"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("cardiac", tmp_path_factory.mktemp("bundle") / "cardiac")


@pytest.fixture(scope="module")
def segmenters(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    _, config = configure(tmp_path_factory.mktemp("load"), [rule("cardiac", bundle, ["share"])], [SHARE])
    return load_segmenters(config)


class Hospital:
    """Makes nodes of one folder, one after the other."""

    def __init__(self, folder: Path, bundle: Path, segmenters: Any) -> None:
        self.folder, self.bundle, self.segmenters = folder, bundle, segmenters

    @contextlib.contextmanager
    def node(self, **more: Any) -> Iterator[Node]:
        outputs = more.pop("outputs", ["dicom-seg", "dicom-sr", "dicom-sc", "dicom-rtstruct", "nifti"])
        rules = [rule("cardiac", self.bundle, ["share"], outputs=outputs)]
        _, config = configure(self.folder, rules, more.pop("destinations", [SHARE]), **more)
        with node_here(config, self.segmenters) as node:
            yield node

    def shared(self) -> list[Path]:
        return sorted(path for path in (self.folder / "share").rglob("*") if path.is_file())


@pytest.fixture
def hospital(tmp_path: Path, bundle: Path, segmenters: Any) -> Hospital:
    return Hospital(tmp_path / "hospital", bundle, segmenters)


def jobs(node: Node) -> dict[str, int]:
    return dict(summary(node.state)["jobs"])


def get(node: Node, path: str, **headers: str) -> requests.Response:
    assert node.web is not None
    return requests.get(f"http://127.0.0.1:{node.web.port}{path}", headers=headers, timeout=20)


def allowed(node: Node, path: str) -> requests.Response:
    return get(node, path, Authorization=f"Bearer {TOKEN}")


def test_a_study_is_answered(hospital: Hospital, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    sent = write_study(tmp_path / "in", "cardiac", 1, slices=3, SeriesDescription="Planteddescription")
    with hospital.node() as node:
        assert storescu(node.listener.port, sent).returncode == 0
        wait_until(lambda: len(hospital.shared()) >= 10, "the results")
        source = dcmread(sent[0])
        names = {path.name for path in hospital.shared()}
        assert {f"{source.SeriesInstanceUID}{ending}" for ending in ("_seg.dcm", "_sr.dcm", "_sc.dcm")} <= names
        for path in hospital.shared():
            assert path.parent.name == source.StudyInstanceUID
            if path.suffix == ".dcm":
                result = dcmread(path)
                assert result.PatientID == source.PatientID and result.StudyInstanceUID == source.StudyInstanceUID
                assert dciodvfy_errors(path) == []
            else:
                assert b"lanted" not in path.read_bytes().lower()
        wait_until(lambda: jobs(node) == {"done": 1}, "the end")
        pages = [allowed(node, path) for path in ("/", "/ready", "/metrics", "/status", "/health")]
        assert all(page.status_code == 200 for page in pages)
        shown = "".join(page.text for page in pages)
        assert 'convformer_node_jobs_now{state="done"} 1' in shown and str(source.StudyInstanceUID) in pages[0].text
    said = caplog.text + shown
    for value in ("Planted", "PLANTED", "1931121", "20190911"):
        assert value not in said
    state = (hospital.folder / "state" / "state.sqlite").read_bytes()
    assert b"lanted" not in state.lower() and (hospital.folder / "state").stat().st_mode & 0o077 == 0


def test_pages_want_the_token(hospital: Hospital) -> None:
    with hospital.node() as node:
        assert get(node, "/health").text == "healthy\n"
        for path in ("/", "/ready", "/metrics", "/status", "/nowhere", "/health/"):
            assert get(node, path).status_code == 401
            assert get(node, path, Authorization="Bearer wrong").status_code == 401
            assert get(node, path, Authorization=f"Basic {TOKEN}").status_code == 401
        basic = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
        assert get(node, "/ready", Authorization=f"Basic {basic}").text == "ready\n"
        assert allowed(node, "/nowhere").status_code == 404
        assert node.web is not None
        with socket.create_connection(("127.0.0.1", node.web.port), timeout=20) as raw:
            raw.sendall(b"\0" * 70_000 + b"\r\n\r\n")
            with contextlib.suppress(OSError):
                while raw.recv(1000):
                    pass
        idle = [socket.create_connection(("127.0.0.1", node.web.port), timeout=20) for _ in range(20)]
        assert get(node, "/health").status_code == 200
        for one in idle:
            one.close()


def test_a_request_that_drips_in_is_cut(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module._Handler, "timeout", 0.5)
    with hospital.node() as node:
        assert node.web is not None
        with socket.create_connection(("127.0.0.1", node.web.port), timeout=20) as raw:
            raw.sendall(b"GET /")
            with contextlib.suppress(OSError):
                for _ in range(40):
                    raw.sendall(b"x")
                    time.sleep(0.1)
                pytest.fail("the connection stays open")
        assert get(node, "/health").status_code == 200


def test_pages_with_tls(hospital: Hospital, certificates: Path) -> None:
    tls = {"cert": str(certificates / "node.pem"), "key": str(certificates / "node.key")}
    hospital.folder.mkdir()
    with hospital.node(web={"port": 0, "token_file": "token", "tls": tls}) as node:
        assert node.web is not None
        address = f"https://localhost:{node.web.port}/health"
        with socket.create_connection(("127.0.0.1", node.web.port)):  # who shakes no hands
            assert requests.get(address, verify=str(certificates / "ca.pem"), timeout=20).text == "healthy\n"


def test_what_cannot_be_segmented_is_refused_and_shown(hospital: Hospital, tmp_path: Path) -> None:
    made = datasets("cardiac", 1, slices=4)
    del made[1]  # a slice is missing
    files = [save_dataset(one, tmp_path / f"{number}.dcm") for number, one in enumerate(made)]
    with hospital.node() as node:
        storescu(node.listener.port, files)
        wait_until(lambda: jobs(node) == {"refused": 1}, "the refusal")
        assert "MISSING_SLICES" in allowed(node, "/").text or "UNEVEN_SPACING" in allowed(node, "/").text
        assert hospital.shared() == [] and get(node, "/health").status_code == 200


def test_a_fault_is_tried_again_and_then_kept(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*_: Any, **__: Any) -> None:
        raise RuntimeError("a fault, of Plantedname")

    monkeypatch.setattr(worker_module, "AGAIN_S", 0.1)
    with monkeypatch.context() as patch, hospital.node(attempts=2) as node:
        patch.setattr(worker_module, "process", faulty)
        storescu(node.listener.port, write_study(tmp_path / "in", "cardiac", 1))
        wait_until(lambda: jobs(node) == {"failed": 1}, "the end of the tries")
        (name,) = node.dead.names()
        assert "RuntimeError" in (node.dead.folder / name / "fault.txt").read_text()
        assert "Planted" not in allowed(node, "/").text
    with hospital.node() as node:
        assert jobs(node) == {"failed": 1}
        assert node.state.retry_dead() == (1, 0)
        wait_until(lambda: jobs(node) == {"done": 1}, "the job")


@pytest.mark.parametrize(
    ("refusal", "attempts"),
    [
        (CannotWrite(RefusalCode.CANNOT_WRITE, "no space"), 1),
        (InputRefused(RefusalCode.OUT_OF_MEMORY, "the image does not fit"), 2),  # each is an attempt
    ],
)
def test_a_full_disk_or_memory_is_waited_for(
    refusal: InputRefused, attempts: int, hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [True]
    real = worker_module.process

    def sometimes(*values: Any, **options: Any) -> Any:
        if full[0]:
            full[0] = False
            raise refusal
        return real(*values, **options)

    monkeypatch.setattr(worker_module, "WAIT_S", 0.2)
    monkeypatch.setattr(worker_module, "process", sometimes)
    with hospital.node(attempts=attempts) as node:
        storescu(node.listener.port, write_study(tmp_path / "in", "cardiac", 1))
        wait_until(lambda: jobs(node) == {"done": 1}, "room for the job")
        assert node.counts.get("jobs", "waiting") == 1


def test_what_never_fits_into_memory_is_refused(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any, **__: Any) -> None:
        raise InputRefused(RefusalCode.OUT_OF_MEMORY, "the image does not fit")

    monkeypatch.setattr(worker_module, "WAIT_S", 0.1)
    monkeypatch.setattr(worker_module, "process", too_large)
    with hospital.node(attempts=3) as node:
        storescu(node.listener.port, write_study(tmp_path / "in", "cardiac", 1))
        wait_until(lambda: jobs(node) == {"refused": 1}, "the end of the attempts")
        assert node.counts.get("jobs", "waiting") == 2
        assert node.state.rows("SELECT code FROM jobs")[0]["code"] == "OUT_OF_MEMORY"


def test_below_the_watermark_nothing_is_taken_and_the_node_is_not_ready(hospital: Hospital, tmp_path: Path) -> None:
    limits = {"min_free_mb": 2**24, "network_seconds": 10}
    with hospital.node(limits=limits) as node:
        assert storescu(node.listener.port, write_study(tmp_path / "in", "cardiac", 1)).returncode != 0
        answer = allowed(node, "/ready")
        assert answer.status_code == 503 and "watermark" in answer.text
        assert get(node, "/health").status_code == 200
        assert node.state.rows("SELECT * FROM instances") == []


def test_what_ends_the_process_each_time_is_given_up(hospital: Hospital, tmp_path: Path) -> None:
    with hospital.node(quiet_seconds=3600) as node:
        storescu(node.listener.port, write_study(tmp_path / "in", "cardiac", 1))
        node.state.complete([str(datasets("cardiac", 1)[0].StudyInstanceUID)])
        node._stop.set()
        node.router.route_all()
        for attempt in (1, 2, 3):  # three starts that were killed
            job = node.state.next_job()
            assert job is not None and job.attempts == attempt
            if attempt < 3:
                node.state.recover(3)
    with hospital.node() as node:
        assert jobs(node) == {"failed": 1}
        assert node.state.rows("SELECT code FROM jobs")[0]["code"] == "ATTEMPTS"
        assert node.dead.names() == ["job-00000001"]


def test_a_job_that_was_interrupted_gives_the_same_objects(hospital: Hospital, tmp_path: Path) -> None:
    files = write_study(tmp_path / "in", "cardiac", 1)
    with hospital.node() as node:
        storescu(node.listener.port, files)
        wait_until(lambda: len(hospital.shared()) >= 10, "the results")
    first = {path.name: dcmread(path) for path in hospital.shared() if path.suffix == ".dcm"}
    with hospital.node() as node:
        node.state._db.execute("DELETE FROM deliveries")
        for path in (hospital.folder / "state" / "results").rglob("*_report.json"):
            path.unlink()  # as if it had been killed before its last file
        for path in hospital.shared():
            path.unlink()
        node.state._db.execute("UPDATE jobs SET state = 'queued', due = 0")
        wait_until(lambda: len(hospital.shared()) >= 10, "the results again")
    again = {path.name: dcmread(path) for path in hospital.shared() if path.suffix == ".dcm"}
    assert {name: one.SOPInstanceUID for name, one in again.items()} == {
        name: one.SOPInstanceUID for name, one in first.items()
    }
    seg = next(name for name in again if name.endswith("_seg.dcm"))
    np.testing.assert_array_equal(again[seg].pixel_array, first[seg].pixel_array)


def test_a_job_whose_end_cannot_be_written_is_done_again(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "UNWRITTEN_S", 0.0)
    monkeypatch.setattr(node_module, "PAUSE_S", 0.1)
    with hospital.node(attempts=1) as node:
        failures, done = [sqlite3.OperationalError("database or disk is full")], node.state.done

        def full_once(*arguments: Any) -> None:
            if failures:
                raise failures.pop()
            done(*arguments)

        monkeypatch.setattr(node.state, "done", full_once)
        storescu(node.listener.port, write_study(tmp_path / "in", "cardiac", 1))
        wait_until(lambda: jobs(node) == {"done": 1}, "the job", 20)
        assert not failures and node.state.rows("SELECT attempts FROM jobs")[0]["attempts"] == 1


def test_a_job_that_takes_longer_than_the_stop_is_done_at_the_next_start(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def endless(*_: Any, **__: Any) -> None:
        begun.set()
        go_on.wait(60)
        raise RuntimeError("too late")

    with monkeypatch.context() as patch, hospital.node(stop_seconds=0.3, attempts=1) as node:
        patch.setattr(worker_module, "process", endless)
        storescu(node.listener.port, write_study(tmp_path / "in", "cardiac", 1))
        assert begun.wait(60)
    go_on.set()
    with hospital.node(attempts=1) as node:
        wait_until(lambda: jobs(node) == {"done": 1}, "the job")
        assert node.state.rows("SELECT attempts FROM jobs")[0]["attempts"] == 1


def test_a_destination_that_is_no_more(hospital: Hospital, tmp_path: Path) -> None:
    down = {"name": "pacs", "kind": "dicom", "ae": "PACS", "host": "127.0.0.1", "port": 1}
    with hospital.node(destinations=[SHARE, down]) as node:
        storescu(node.listener.port, write_study(tmp_path / "in", "cardiac", 1))
        wait_until(lambda: jobs(node) == {"done": 1}, "the job")
        wait_until(lambda: set(summary(node.state)["deliveries"][SHARE["name"]]) == {"sent"}, "the deliveries")
        node.state._db.execute("UPDATE deliveries SET destination = 'pacs', state = 'pending', due = 0")
        wait_until(lambda: "cannot be reached" in allowed(node, "/").text, "a try")
        assert 'reachable{destination="pacs"} 0' in allowed(node, "/metrics").text
    with hospital.node() as node:
        assert set(summary(node.state)["deliveries"]["pacs"]) == {"dead"}


def test_two_nodes_do_not_share_a_folder_or_a_port(hospital: Hospital, bundle: Path, tmp_path: Path) -> None:
    with hospital.node() as node:
        with pytest.raises(InputRefused, match="in use by another node"), owned(node.config.folder):
            pass
        rules = [rule("cardiac", bundle, ["share"])]
        _, config = configure(tmp_path / "other", rules, [SHARE], port=node.listener.port, listen="127.0.0.1")
        with pytest.raises(InputRefused, match=r"error\[NODE\]: port"), node_here(config, hospital.segmenters):
            pass


def test_a_state_of_another_version_is_refused(hospital: Hospital) -> None:
    with hospital.node() as node:
        node.state._db.execute("PRAGMA user_version = 99")
    with pytest.raises(InputRefused, match="the state is of version 99"), hospital.node():
        pass
