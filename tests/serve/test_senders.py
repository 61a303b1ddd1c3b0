"""Results on their way: again until they are stored, given up for good reasons only, kept with the reason then."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from dicom_results import CASES
from hospital import needs_orthanc
from pacs import Pacs, orthanc
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from servers import free_port

from convformer_monai.outputs.dicom_sc import write_dicom_sc
from convformer_monai.phantoms.dicom import save_dataset
from convformer_monai.serve.config import Destination, Tls
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.dead import DeadLetters
from convformer_monai.serve.records import NewJob
from convformer_monai.serve.senders import CannotDeliver, Sender, deliver_to
from convformer_monai.serve.state import State
from convformer_monai.serve.tls import server_context

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DICOM file that a node would send."""
    import numpy as np

    folder = tmp_path_factory.mktemp("result")
    series = CASES["ct"].read(folder / "in")
    return write_dicom_sc(folder / "x_sc.dcm", np.zeros((8, 8, 3), np.uint8), series)


class Script:
    """Delivers as it is told: ``None`` stores, an error is raised."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers, self.stored = list(answers), list[str]()

    def __call__(self, path: Path) -> None:
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        self.stored.append(path.name)

    def close(self) -> None:
        pass


class Queue:
    """A sender with some files to send."""

    def __init__(self, folder: Path, deliver: Any, *, give_up_hours: float = 72.0) -> None:
        self.folder = folder
        self.state, self.dead = State(folder / "state.sqlite"), DeadLetters(folder)
        place = Destination("there", "folder", first_wait_s=0.0, longest_wait_s=0.0, give_up_hours=give_up_hours)
        self.sender = Sender(place, folder, self.state, Counts(), self.dead, deliver)

    def put(self, *names: str) -> None:
        self.state.add_instance(_instance())
        ((study, received),) = self.state.complete_studies(0)
        self.state.settle(study, received, [NewJob("1", "rule", "digest", ())], [])
        job = self.state.next_job()
        assert job is not None
        for name in names:
            (self.folder / name).write_bytes(b"result")
        self.state.done(job.id, {"there": names}, ())

    def states(self) -> list[str]:
        return [row["state"] for row in self.state.rows("SELECT state FROM deliveries ORDER BY id")]


def _instance() -> Any:
    from convformer_monai.serve.records import Instance

    return Instance("1.2.3", "1.2", "1.2.1", "1", "x", 1, "A")


def test_a_file_is_sent_until_it_is_stored_and_then_no_more(tmp_path: Path) -> None:
    script = Script(CannotDeliver("down"), RuntimeError("of a library, with Plantedname"), CannotDeliver("down"))
    queue = Queue(tmp_path, script)
    queue.put("a", "b")
    for _ in range(10):
        queue.sender.run_one()
    assert sorted(script.stored) == ["a", "b"] and queue.states() == ["sent", "sent"]
    assert not queue.sender.run_one() and queue.dead.names() == []
    errors = [row["error"] for row in queue.state.rows("SELECT error FROM deliveries")]
    assert not any("Planted" in error for error in errors)


def test_waits_grow(tmp_path: Path) -> None:
    queue = Queue(tmp_path, Script(*[CannotDeliver("down")] * 50))
    queue.sender.destination = replace(queue.sender.destination, first_wait_s=10.0, longest_wait_s=35.0)
    queue.put("a")
    waits = []
    for _ in range(4):
        assert queue.sender.run_one() and not queue.sender.run_one()
        queue.sender.paused_until = 0.0
        (row,) = queue.state.rows("SELECT due, created FROM deliveries")
        waits.append(row["due"] - row["created"])
        queue.state._db.execute("UPDATE deliveries SET due = 0")
    assert [round(wait, -1) for wait in waits] == pytest.approx([10, 20, 40, 40], abs=6)
    assert waits == sorted(waits)


def test_a_destination_that_is_down_is_tried_with_one_file_and_then_gets_all(tmp_path: Path) -> None:
    script = Script(CannotDeliver("down"), CannotDeliver("down"))
    queue = Queue(tmp_path, script)
    queue.sender.destination = replace(queue.sender.destination, first_wait_s=1000.0, longest_wait_s=5000.0)
    queue.put("a", "b", "c", "d")
    assert queue.sender.run_one() and not queue.sender.run_one() and not queue.sender.reachable
    for _ in range(8):
        queue.sender.paused_until = 0.0
        queue.sender.run_one()
    assert sorted(script.stored) == ["c", "d"] and queue.sender.reachable
    attempts = [row["attempts"] for row in queue.state.rows("SELECT attempts FROM deliveries ORDER BY id")]
    assert attempts == [1, 1, 1, 1]


@pytest.mark.parametrize("why", ["for good", "too old", "gone"])
def test_what_fails_for_good_is_kept_with_the_reason(why: str, tmp_path: Path) -> None:
    script = Script(CannotDeliver("status A900", for_good=why == "for good"))
    queue = Queue(tmp_path, script, give_up_hours=0.0 if why == "too old" else 72.0)
    queue.put("a", "b")
    if why == "gone":
        (tmp_path / "a").unlink()
    for _ in range(3):
        queue.sender.run_one()
    assert queue.states() == ["dead", "sent"]
    (name,) = queue.dead.names()
    reason = json.loads((tmp_path / "dead" / name / "reason.json").read_text())
    assert reason["destination"] == "there" and reason["job"] == 1 and reason["attempts"] == 1
    assert reason["reason"] == ("the result is no longer there" if why == "gone" else "status A900")
    assert (tmp_path / "dead" / name / "a").exists() == (why != "gone")
    if why == "gone":
        return
    assert queue.state.retry_dead() == (0, 1)
    queue.sender.run_one()
    assert queue.states() == ["sent", "sent"]


def test_a_result_of_before_a_long_stop_is_tried_as_long_as_others(tmp_path: Path) -> None:
    before = Queue(tmp_path, Script())
    before.put("a")
    before.state._db.execute("UPDATE deliveries SET created = created - 100 * 3600")
    script = Script(CannotDeliver("down"))
    there = replace(before.sender.destination, give_up_hours=72.0)
    sender = Sender(there, tmp_path, before.state, Counts(), before.dead, script)
    assert sender.run_one() and before.states() == ["pending"]
    assert sender.run_one() and before.states() == ["sent"]


def test_a_folder_gets_complete_files_by_study(tmp_path: Path, result: Path) -> None:
    place = Destination("share", "folder", path=tmp_path / "share")
    deliver = deliver_to(place, 5)
    deliver(result)
    deliver(result)
    (stored,) = (path for path in (tmp_path / "share").rglob("*") if path.is_file())
    assert stored.read_bytes() == result.read_bytes() and stored.parent.name == result.parent.name
    (tmp_path / "share" / result.parent.name / result.name).unlink()
    (tmp_path / "share" / result.parent.name / result.name).mkdir()
    with pytest.raises(CannotDeliver, match="cannot be written"):
        deliver(result)


class Peer:
    """A PACS that answers each C-STORE with a status."""

    def __init__(self, status: int, classes: tuple[str, ...] = (SECONDARY_CAPTURE,), title: str = "PACS") -> None:
        entity = AE(title)
        entity.require_called_aet = True
        for one in classes or ("1.2.840.10008.1.1",):
            entity.add_supported_context(one)
        self.port, self.stored = free_port(), list[str]()
        handlers: Any = [(evt.EVT_C_STORE, self._store)]
        self.status = status
        self.server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def _store(self, event: evt.Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))  # type: ignore[union-attr]
        return self.status


@pytest.mark.parametrize(
    ("status", "classes", "called", "expected"),
    [
        (0x0000, (SECONDARY_CAPTURE,), "PACS", None),
        (0xB000, (SECONDARY_CAPTURE,), "PACS", None),  # stored, with a warning
        (0x0111, (SECONDARY_CAPTURE,), "PACS", None),  # there already
        (0xA700, (SECONDARY_CAPTURE,), "PACS", ("status A700", False)),
        (0xA900, (SECONDARY_CAPTURE,), "PACS", ("status A900", True)),
        (0xC001, (SECONDARY_CAPTURE,), "PACS", ("status C001", True)),
        (0x0000, (), "PACS", ("does not take the SOP class", True)),
        (0x0000, (SECONDARY_CAPTURE,), "OTHER", ("rejects the association", False)),
    ],
)
def test_answers_of_a_pacs(
    status: int, classes: tuple[str, ...], called: str, expected: tuple[str, bool] | None, result: Path
) -> None:
    peer = Peer(status, classes)
    deliver = deliver_to(Destination("p", "dicom", called, "127.0.0.1", peer.port, "CONVFORMER"), 5)
    try:
        if expected is None:
            deliver(result)
            deliver(result)
            assert peer.stored == [str(dcmread(result).SOPInstanceUID)] * 2
        else:
            with pytest.raises(CannotDeliver) as caught:
                deliver(result)
            assert (caught.value.reason, caught.value.for_good) == expected
    finally:
        deliver.close()
        peer.server.shutdown()


@pytest.mark.parametrize("accepted", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("written", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_file_goes_as_it_is_where_the_pacs_takes_that(
    accepted: Any, written: Any, result: Path, tmp_path: Path
) -> None:
    dataset = dcmread(result)
    path = save_dataset(dataset, tmp_path / "x.dcm", transfer_syntax=written)
    entity, arrived = AE("PACS"), list[Any]()
    entity.add_supported_context(SECONDARY_CAPTURE, accepted)
    handlers: Any = [
        (evt.EVT_C_STORE, lambda event: arrived.append((event.context.transfer_syntax, event.dataset)) or 0)
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    deliver = deliver_to(Destination("p", "dicom", "PACS", "127.0.0.1", server.server_address[1], "CONVFORMER"), 5)
    deliver(path)
    deliver.close()
    server.shutdown()
    ((syntax, received),) = arrived
    assert syntax == accepted and received.PixelData == dataset.PixelData


def test_tls_to_a_pacs(certificates: Path, result: Path) -> None:
    tls = Tls(certificates / "node.pem", certificates / "node.key", certificates / "ca.pem")
    entity, stored = AE("PACS"), list[str]()
    entity.add_supported_context(SECONDARY_CAPTURE)
    handlers: Any = [(evt.EVT_C_STORE, lambda event: stored.append(event.request.AffectedSOPInstanceUID) or 0)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=server_context(tls))
    place = Destination("p", "dicom", "PACS", "localhost", server.server_address[1], "CONVFORMER", tls=tls)
    deliver = deliver_to(place, 5)
    try:
        deliver(result)
        deliver.close()
        assert len(stored) == 1
        for wrong in (None, Tls(certificates / "other.pem", certificates / "other.key", certificates / "ca.pem")):
            with pytest.raises(CannotDeliver):
                deliver_to(replace(place, tls=wrong), 5)(result)
        assert len(stored) == 1
    finally:
        deliver.close()
        server.shutdown()


def test_a_pacs_that_is_down_and_comes_back(result: Path) -> None:
    peer = Peer(0)
    deliver = deliver_to(Destination("p", "dicom", "PACS", "127.0.0.1", peer.port, "CONVFORMER"), 5)
    deliver(result)
    peer.server.shutdown()
    for association in peer.server.ae.active_associations:
        association.abort()
    with pytest.raises(CannotDeliver) as caught:
        deliver(result)
        deliver(result)
    assert not caught.value.for_good
    again = AE("PACS")
    again.add_supported_context(SECONDARY_CAPTURE)
    handlers: Any = [(evt.EVT_C_STORE, lambda event: 0)]
    server = again.start_server(("127.0.0.1", peer.port), block=False, evt_handlers=handlers)
    deliver(result)
    deliver.close()
    server.shutdown()


class _Web(BaseHTTPRequestHandler):
    status, body = 200, b"{}"

    def do_POST(self) -> None:  # noqa: N802
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status if self.headers.get("Authorization") == "Bearer secret" else 401)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Web)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    server.shutdown()
    server.server_close()


def failed(reason: int) -> bytes:
    """An answer with a FailedSOPSequence."""
    item = {"00081197": {"vr": "US", "Value": [reason]}}
    return json.dumps({"00081198": {"vr": "SQ", "Value": [item]}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "token", "expected"),
    [
        (200, b"{}", "secret", None),
        (200, b"", "secret", None),
        (202, b"{}", "secret", None),
        (200, failed(0x0110), "secret", ("did not store it (reason 0110)", False)),
        (409, failed(0x0111), "secret", None),  # there already
        (409, failed(0xA700), "secret", ("did not store it (reason A700)", False)),
        (409, failed(0xA900), "secret", ("did not store it (reason A900)", True)),
        (202, failed(0xC122), "secret", ("did not store it (reason C122)", True)),
        (409, failed(0x0122), "secret", ("did not store it (reason 0122)", True)),
        (409, b"{}", "secret", ("answers 409", False)),
        (409, b"", "secret", ("answers 409", False)),
        (404, b"", "secret", ("answers 404", False)),  # another address, perhaps
        (400, b"", "secret", ("answers 400", True)),
        (503, b"{}", "secret", ("answers 503", False)),
        (302, b"", "secret", ("answers 302", False)),
        (200, b"{}", "wrong", ("answers 401", False)),
    ],
)
def test_answers_of_stow(
    status: int, body: bytes, token: str, expected: Any, web: str, result: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Web, "status", status)
    monkeypatch.setattr(_Web, "body", body)
    deliver = deliver_to(Destination("web", "stow", url=web, token=token), 5)
    if expected is None:
        deliver(result)
        return
    with pytest.raises(CannotDeliver) as caught:
        deliver(result)
    assert (caught.value.reason, caught.value.for_good) == expected


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    with orthanc(tmp_path_factory.mktemp("pacs")) as one:
        yield one


@needs_orthanc
def test_stow_to_a_real_pacs(pacs: Pacs, result: Path) -> None:
    deliver = deliver_to(Destination("web", "stow", url=pacs.dicomweb), 20)
    deliver(result)
    deliver(result)
    (series,) = pacs.series(Modality="OT")
    (name,) = series["instances"]
    assert pacs.fetch(name).SOPInstanceUID == dcmread(result).SOPInstanceUID
    nowhere = deliver_to(Destination("web", "stow", url="http://127.0.0.1:1/dicom-web"), 5)
    with pytest.raises(CannotDeliver, match=r"cannot be reached \(ConnectionError\)"):
        nowhere(result)
