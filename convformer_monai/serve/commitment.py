"""Storage commitment (PS3.4 annex J): who asks for it says that the study is complete, and learns what has arrived.

The node keeps images only for as long as it is configured to; that it has them, is what it confirms.
"""

from __future__ import annotations

import logging
import threading
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
from convformer_monai.serve.intake import NOT_UNDERSTOOD, NotTaken
from convformer_monai.serve.state import State
from convformer_monai.serve.tls import client_context

__all__ = ["Commitment"]

logger = logging.getLogger(__name__)

REQUEST, ALL_THERE, SOME_MISSING = 1, 1, 2  # action type; event types
NO_SUCH_INSTANCE, CLASS_CONFLICT, CLASS_NOT_SUPPORTED = 0x0112, 0x0119, 0x0122  # failure reasons (PS3.3 C.14.1.1)
NO_SUCH_ACTION = 0x0123
MOST = 100_000  # instances of a request
MOST_BYTES = 2**22  # of a request, encoded; an item has about 140
SAME_ASSOCIATION_S = 0.3  # the response must be on its way before the report
TRIES, WAIT_S = 5, 2.0


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
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Reports nothing any more."""
        self._stopped.set()

    def asked(self, event: evt.Event) -> int:
        """Handles N-ACTION; the report follows.

        Returns:
            The status of the response.
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
        caller = next((one for one in self.config.callers if one.ae == title), None)
        values = (report, SOME_MISSING if missing else ALL_THERE)
        if caller is not None and caller.commitment is not None:
            target, more = self._report, (title, *caller.commitment)
        else:
            target, more = self._report_back, (association,)  # type: ignore[assignment]
        threading.Thread(target=target, args=(*values, *more), name="commitment", daemon=True).start()
        return 0

    def _looked_up(self, wanted: Mapping[str, str]) -> tuple[Dataset, set[str]]:
        """The report, and the studies of what is there."""
        there, missing, studies = [], [], set()
        for uid, class_uid in wanted.items():
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = class_uid, uid
            known = self.state.known(uid)
            if known is not None and known.present and known.class_uid == class_uid:
                there.append(item)
                studies.add(known.study)
                continue
            if class_uid not in self.classes:
                item.FailureReason = CLASS_NOT_SUPPORTED
            else:
                item.FailureReason = NO_SUCH_INSTANCE if known is None or not known.present else CLASS_CONFLICT
            missing.append(item)
        report = Dataset()
        if there:
            report.ReferencedSOPSequence = there
        if missing:
            report.FailedSOPSequence = missing
        return report, studies

    def _report_back(self, report: Dataset, kind: int, association: Any) -> None:
        """Reports on the association on which was asked."""
        self._stopped.wait(SAME_ASSOCIATION_S)
        try:
            association.send_n_event_report(
                report, kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        except Exception as error:  # it was released, mostly
            logger.warning("storage commitment could not be reported: %s", type(error).__name__)

    def _report(self, report: Dataset, kind: int, title: str, host: str, port: int) -> None:
        """Reports on an association of its own."""
        entity = AE(self.config.ae)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self.config.limits.network_s
        entity.connection_timeout = self.config.limits.association_s
        entity.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        tls = None if self.config.tls is None else (client_context(self.config.tls), host)
        for attempt in range(TRIES):
            association: Any = entity.associate(host, port, ae_title=title, ext_neg=[role], tls_args=tls)
            if association.is_established:
                try:
                    status, _ = association.send_n_event_report(
                        report, kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
                    )
                    association.release()
                    if status and status.Status == 0:
                        return
                except Exception as error:  # tried again
                    logger.debug("storage commitment: %s", type(error).__name__)
                    association.abort()
            if self._stopped.wait(WAIT_S * 2**attempt):
                return
        logger.warning("storage commitment could not be reported to %s", title)


def _read(event: evt.Event) -> tuple[dict[str, str], UID]:
    """What is asked for, class by instance, and the transaction; the size is checked before anything is parsed."""
    request: Any = event.request
    raw = request.ActionInformation
    if raw is None or raw.getbuffer().nbytes > MOST_BYTES:
        raise NotTaken(NOT_UNDERSTOOD, "commitment", "a request of storage commitment is empty or too large")
    content = event.action_information
    items = content.get("ReferencedSOPSequence") or []
    transaction = content.get("TransactionUID")
    if not transaction or not items or len(items) > MOST:
        raise NotTaken(NOT_UNDERSTOOD, "commitment", "a request of storage commitment names nothing, or too much")
    return {str(item.ReferencedSOPInstanceUID): str(item.ReferencedSOPClassUID) for item in items}, transaction
