"""Storage commitment (PS3.4 annex J): who asks for it says that the study is complete, and learns what has arrived.

The node keeps images only for as long as it is configured to; that it has them, is what it confirms.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.presentation import build_role
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from convformer_monai.serve.config import NodeConfig
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.intake import NotTaken
from convformer_monai.serve.reports import Report, Reports
from convformer_monai.serve.state import State
from convformer_monai.serve.tls import client_context

__all__ = ["PROCESSING_FAILURE", "RESOURCE_LIMITATION", "Commitment"]

logger = logging.getLogger(__name__)

REQUEST, ALL_THERE, SOME_MISSING = 1, 1, 2  # action type; event types
NO_SUCH_INSTANCE, CLASS_CONFLICT, CLASS_NOT_SUPPORTED = 0x0112, 0x0119, 0x0122  # failure reasons (PS3.3 C.14.1.1)
NO_SUCH_ACTION = 0x0123
MOST = 100_000  # instances of a request
MOST_BYTES = 2**22  # of a request, encoded; an item has about 140
SAME_ASSOCIATION_S = 0.3  # the response must be on its way before the report
WAIT_S, LONGEST_WAIT_S, GIVE_UP_S = 2.0, 300.0, 86_400.0  # of a report that nobody takes
AT_ONCE = 8  # reports on the associations on which was asked
# Statuses of the response (PS3.7 annex C).
PROCESSING_FAILURE, INVALID_ARGUMENT, RESOURCE_LIMITATION = 0x0110, 0x0115, 0x0213


class Commitment:
    """Answers requests.

    Args:
        config: for the callers' addresses.
        state: what has arrived.
        classes: SOP classes that are kept; others do not keep a study from being complete.
        counts: gets the number of requests.
    """

    def __init__(self, config: NodeConfig, state: State, classes: Collection[str], counts: Counts) -> None:
        self.config, self.state, self.classes, self.counts = config, state, classes, counts
        self.reports, self._free = Reports(state), threading.BoundedSemaphore(AT_ONCE)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Reports nothing any more."""
        self._stopped.set()

    def asked(self, event: evt.Event) -> int:
        """Handles N-ACTION; the report follows, on the same association or from :meth:`report_one`.

        Returns:
            The status of the response.

        Raises:
            NotTaken: if the request is malformed or too large.
        """
        if event.action_type != REQUEST:
            return NO_SUCH_ACTION
        wanted, transaction = _read(event)
        report, studies = self._looked_up(wanted)
        report.TransactionUID = transaction
        missing = "FailedSOPSequence" in report
        if all(item.FailureReason == CLASS_NOT_SUPPORTED for item in report.get("FailedSOPSequence", ())):
            self.state.complete(sorted(studies))
        self.counts.add("commitments", "missing" if missing else "complete")
        association: Any = event.assoc
        title = str(association.requestor.primitive.calling_ae_title).strip()
        kind = SOME_MISSING if missing else ALL_THERE
        if self._address(title) is not None:
            return 0 if self.reports.add(title, kind, report) else RESOURCE_LIMITATION
        if not self._free.acquire(blocking=False):
            return RESOURCE_LIMITATION
        values = (report, kind, association)
        threading.Thread(target=self._report_back, args=values, name="commitment", daemon=True).start()
        return 0

    def report_one(self) -> bool:
        """Sends the next report that is due, on an association of its own.

        Returns:
            Whether there was one.
        """
        report = self.reports.next()
        if report is None:
            return False
        try:
            sent = self._send(report)
        except Exception as error:  # of a library: tried again as any other
            logger.debug("storage commitment: %s", type(error).__name__)
            sent = False
        if sent:
            self.reports.end(report.id)
        elif time.time() - report.created > GIVE_UP_S or self._address(report.title) is None:
            self.reports.end(report.id)
            logger.warning("storage commitment could not be reported to %s", report.title)
        else:
            self.reports.later(report.id, min(LONGEST_WAIT_S, WAIT_S * 2 ** min(report.attempts, 30)))
        return True

    def _address(self, title: str) -> tuple[str, int] | None:
        """Where reports to a caller go; ``None`` if to the association on which it asks."""
        return next((one.commitment for one in self.config.callers if one.ae == title), None)

    def _looked_up(self, wanted: Mapping[str, str]) -> tuple[Dataset, set[str]]:
        """The report, and the studies of what is there."""
        there, missing, studies = [], [], set()
        for uid, class_uid in wanted.items():
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = class_uid, uid
            known = self.state.known(uid)
            kept = known is not None and known.present and (self.config.folder / known.file).is_file()
            if known is not None and kept and known.class_uid == class_uid:
                there.append(item)
                studies.add(known.study)
                continue
            if class_uid not in self.classes:
                item.FailureReason = CLASS_NOT_SUPPORTED
            else:
                item.FailureReason = CLASS_CONFLICT if kept else NO_SUCH_INSTANCE
            missing.append(item)
        report = Dataset()
        if there:
            report.ReferencedSOPSequence = there
        if missing:
            report.FailedSOPSequence = missing
        return report, studies

    def _report_back(self, report: Dataset, kind: int, association: Any) -> None:
        """Reports on the association on which was asked."""
        try:
            self._stopped.wait(SAME_ASSOCIATION_S)
            association.send_n_event_report(
                report, kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        except Exception as error:  # it was released, mostly
            logger.warning("storage commitment could not be reported: %s", type(error).__name__)
        finally:
            self._free.release()

    def _send(self, report: Report) -> bool:
        """Reports on an association of its own; returns whether it was taken."""
        address = self._address(report.title)
        if address is None:
            return False
        host, port = address
        entity = AE(self.config.ae)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self.config.limits.network_s
        entity.connection_timeout = self.config.limits.association_s
        entity.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        tls = None if self.config.tls is None else (client_context(self.config.tls), host)
        association: Any = entity.associate(host, port, ae_title=report.title, ext_neg=[role], tls_args=tls)
        if not association.is_established:
            return False
        try:
            status, _ = association.send_n_event_report(
                report.content, report.kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            association.release()
        except Exception:
            association.abort()
            raise
        return bool(status) and status.Status == 0


def _read(event: evt.Event) -> tuple[dict[str, str], UID]:
    """What is asked for, class by instance, and the transaction; the size is checked before anything is parsed."""
    request: Any = event.request
    raw = request.ActionInformation
    if raw is None or raw.getbuffer().nbytes > MOST_BYTES:
        raise NotTaken(INVALID_ARGUMENT, "commitment", "a request of storage commitment is empty or too large")
    try:
        content = event.action_information
        items = content.get("ReferencedSOPSequence") or []
        wanted = {str(item.ReferencedSOPInstanceUID): str(item.ReferencedSOPClassUID) for item in items}
        transaction = content.get("TransactionUID")
    except MemoryError:
        raise
    except Exception:  # whatever pydicom raises on bytes of a peer
        raise NotTaken(INVALID_ARGUMENT, "commitment", "a request of storage commitment is malformed") from None
    if not transaction or not 0 < len(items) <= MOST:
        raise NotTaken(INVALID_ARGUMENT, "commitment", "a request of storage commitment names nothing, or too much")
    return wanted, transaction
