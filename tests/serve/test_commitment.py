"""Storage commitment: what is confirmed, and reports that arrive, also late."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dicom_port import Port, ask_commitment
from hospital import CALLER, NODE_AE, datasets, needs_dcmtk, storescu, write_study
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance  # type: ignore[attr-defined]
from servers import free_port

from convformer_monai.serve import commitment as commitment_module
from convformer_monai.serve import reports as reports_module
from convformer_monai.serve.commitment import Commitment
from convformer_monai.serve.config import Caller
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.listener import CLASSES
from convformer_monai.serve.state import State

pytestmark = needs_dcmtk


def test_storage_commitment_is_not_deflated_and_has_a_size(
    open_port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port = open_port()
    entity = AE(CALLER)
    entity.add_requested_context(StorageCommitmentPushModel, DeflatedExplicitVRLittleEndian)
    entity.add_requested_context(StorageCommitmentPushModel, ImplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port.number, ae_title=NODE_AE)
    assert [one.transfer_syntax for one in association.accepted_contexts] == [[ImplicitVRLittleEndian]]
    request = Dataset()
    request.TransactionUID, request.ReferencedSOPSequence = generate_uid(), datasets("cardiac", 1)[:0]
    monkeypatch.setattr(commitment_module, "MOST_BYTES", 50)
    monkeypatch.setattr(evt.Event, "action_information", property(lambda event: pytest.fail("was parsed")))
    status, _ = association.send_n_action(request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    association.release()
    assert status.Status == 0x0115
    assert "too large" in caplog.text


@pytest.mark.parametrize("own_association", [False, True])
def test_storage_commitment(own_association: bool, open_port: Callable[..., Port], tmp_path: Path) -> None:
    there = free_port() if own_association else None
    port = open_port(callers=(Caller(CALLER, commitment=("127.0.0.1", there) if there else None),))
    made = datasets("cardiac", 1)
    storescu(port.number, write_study(tmp_path / "in", "cardiac", 1)[:1])
    ((kind, report),) = ask_commitment(port, made, there)
    assert kind == 2 and len(report.ReferencedSOPSequence) == len(report.FailedSOPSequence) == 1
    assert report.FailedSOPSequence[0].ReferencedSOPInstanceUID == made[1].SOPInstanceUID
    assert port.state.complete_studies(3600) == []
    storescu(port.number, write_study(tmp_path / "in", "cardiac", 1))
    ((kind, report),) = ask_commitment(port, made, there)
    assert kind == 1 and len(report.ReferencedSOPSequence) == 2 and "FailedSOPSequence" not in report
    assert [study for study, _ in port.state.complete_studies(3600)] == [str(made[0].StudyInstanceUID)]


def ask(port: Port, request: Dataset) -> int:
    """Asks for storage commitment; returns the status of the response."""
    entity = AE(CALLER)
    entity.add_requested_context(StorageCommitmentPushModel)
    association = entity.associate("127.0.0.1", port.number, ae_title=NODE_AE)
    status, _ = association.send_n_action(request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    association.release()
    return int(status.Status)


def request_for(dataset: Dataset) -> Dataset:
    item, request = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    request.TransactionUID, request.ReferencedSOPSequence = generate_uid(), [item]
    return request


def test_a_request_of_storage_commitment_that_is_malformed(open_port: Callable[..., Port]) -> None:
    port, request = open_port(), request_for(datasets("cardiac", 1)[0])
    del request.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert ask(port, request) == 0x0115
    request.ReferencedSOPSequence = []
    assert ask(port, request) == 0x0115


def test_what_is_no_longer_on_the_disk_is_not_confirmed(open_port: Callable[..., Port], tmp_path: Path) -> None:
    port, made = open_port(), datasets("cardiac", 1)
    storescu(port.number, write_study(tmp_path / "in", "cardiac", 1))
    known = port.state.known(str(made[0].SOPInstanceUID))
    assert known is not None
    (port.config.folder / known.file).unlink()
    ((kind, report),) = ask_commitment(port, made, None)
    (failed,) = report.FailedSOPSequence
    assert kind == 2 and failed.FailureReason == 0x0112 and failed.ReferencedSOPInstanceUID == known.uid


def test_a_report_waits_for_its_receiver_also_through_a_restart(
    open_port: Callable[..., Port], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = free_port()
    port = open_port(callers=(Caller(CALLER, commitment=("127.0.0.1", there)),))
    request = request_for(datasets("cardiac", 1)[0])
    monkeypatch.setattr(commitment_module, "WAIT_S", 0.0)
    assert ask(port, request) == 0
    for _ in range(8):
        assert port.commitment.report_one()  # nobody is there
    again = Commitment(port.config, State(port.config.folder / "state.sqlite"), CLASSES, Counts())
    reports: list[Dataset] = []
    entity = AE(CALLER)
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    handlers: Any = [(evt.EVT_N_EVENT_REPORT, lambda event: (reports.append(event.event_information) or 0, None))]
    server = entity.start_server(("127.0.0.1", there), block=False, evt_handlers=handlers)
    assert again.report_one() and not again.report_one()
    server.shutdown()
    assert [report.TransactionUID for report in reports] == [request.TransactionUID]


def test_only_so_many_reports_wait(open_port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch) -> None:
    port = open_port(callers=(Caller(CALLER, commitment=("127.0.0.1", 1)),))
    monkeypatch.setattr(reports_module, "MOST", 2)
    request = request_for(datasets("cardiac", 1)[0])
    assert [ask(port, request) for _ in range(3)] == [0, 0, 0x0213]
    here = open_port()
    here.commitment._free = threading.BoundedSemaphore(1)
    here.commitment._free.acquire()
    assert ask(here, request) == 0x0213


@pytest.mark.parametrize(("error", "status"), [(sqlite3.OperationalError("full"), 0x0110), (MemoryError(), 0x0213)])
def test_a_fault_of_ours_has_a_status_of_n_action(
    error: Exception, status: int, open_port: Callable[..., Port], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise error

    port = open_port()
    monkeypatch.setattr(port.state, "known", failing)
    assert ask(port, request_for(datasets("cardiac", 1)[0])) == status
