"""What the tests of the DICOM port share: a port without the rest of a node, and who asks it for commitment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hospital import CALLER, NODE_AE, wait_until
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.presentation import build_role
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance  # type: ignore[attr-defined]

from convformer_monai.serve.commitment import Commitment
from convformer_monai.serve.config import Caller, Limits, NodeConfig
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.intake import Intake
from convformer_monai.serve.listener import CLASSES, Listener
from convformer_monai.serve.state import State

QUICK = Limits(associations=6, per_host=4, instance_mb=1, min_free_mb=1, association_s=1.0, network_s=2.0)


class Port:
    """A listener with its intake, without the rest of a node."""

    def __init__(self, folder: Path, **options: Any) -> None:
        folder.mkdir()
        callers = options.pop("callers", (Caller(CALLER),))
        values = {"limits": QUICK, **options}
        self.config = NodeConfig(NODE_AE, "0.0.0.0", 0, folder, callers, (), {}, **values)
        self.state, self.counts = State(folder / "state.sqlite"), Counts()
        self.intake = Intake(folder, self.state, self.config.limits, CLASSES, self.counts)
        self.commitment = Commitment(self.config, self.state, CLASSES, self.counts)
        self.listener = Listener(self.config, self.intake, self.commitment, self.counts)

    @property
    def number(self) -> int:
        return self.listener.port

    def instances(self) -> int:
        return int(self.state.rows("SELECT count(*) FROM instances")[0][0])

    def count(self, name: str) -> float:
        """A counter, whatever its labels."""
        return sum(value for (key, _), value in self.counts.all().items() if key == name)


def ask_commitment(port: Port, wanted: list[Dataset], report_to: int | None) -> list[tuple[int, Dataset]]:
    """Asks for storage commitment as a modality does; returns the reports."""
    reports: list[tuple[int, Dataset]] = []

    def reported(event: evt.Event) -> tuple[int, None]:
        reports.append((event.event_type, event.event_information))
        return 0, None

    entity = AE(CALLER)
    entity.add_requested_context(StorageCommitmentPushModel)
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    request = Dataset()
    request.TransactionUID = generate_uid()
    request.ReferencedSOPSequence = []
    for one in wanted:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
        request.ReferencedSOPSequence.append(item)
    handlers: Any = [(evt.EVT_N_EVENT_REPORT, reported)]
    server = (
        None if report_to is None else entity.start_server(("127.0.0.1", report_to), block=False, evt_handlers=handlers)
    )
    role = build_role(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    association = entity.associate("127.0.0.1", port.number, ae_title=NODE_AE, evt_handlers=handlers, ext_neg=[role])
    assert association.is_established
    status, _ = association.send_n_action(request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
    assert status.Status == 0
    if report_to is not None:
        association.release()
        assert port.commitment.report_one() and not port.commitment.report_one()
    wait_until(lambda: reports, "a report", 20)
    association.release()
    if server is not None:
        server.shutdown()
    assert all(report.TransactionUID == request.TransactionUID for _, report in reports)
    return reports
