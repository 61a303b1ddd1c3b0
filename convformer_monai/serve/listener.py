"""The DICOM port: C-ECHO, C-STORE and storage commitment, for those who are on the list, within the limits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import HTJ2K as HTJ2K_LOSSY
from pydicom.uid import JPEG2000 as JPEG2000_LOSSY
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pydicom.uid import HTJ2KLossless as HTJ2K_LOSSLESS
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.dicom.files import CLASS_MODALITY
from convformer_monai.readers.photo_dicom import STILL_IMAGES
from convformer_monai.serve.commitment import PROCESSING_FAILURE, RESOURCE_LIMITATION, Commitment
from convformer_monai.serve.config import NodeConfig
from convformer_monai.serve.connections import ConnectionServer
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.guards import GuardedTlsSocket
from convformer_monai.serve.intake import NO_SPACE, NOT_UNDERSTOOD, Intake, NotTaken, file_of
from convformer_monai.serve.seldom import Seldom
from convformer_monai.serve.tls import server_context

__all__ = ["CLASSES", "Listener", "transfer_syntaxes"]

logger = logging.getLogger(__name__)

CLASSES: tuple[str, ...] = (*CLASS_MODALITY, *STILL_IMAGES)
NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)
COMPRESSED = (
    *(JPEGLosslessSV1, JPEGLossless, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSLossless, JPEGLSNearLossless),
    *(JPEG2000Lossless, JPEG2000_LOSSY, HTJ2K_LOSSLESS, HTJ2KLosslessRPCL, HTJ2K_LOSSY, RLELossless),
)
SUCCESS = 0x0000
POLL_S = 0.1
ABORT_S = 0.5  # for an A-ABORT to get out
REJECTED_PERMANENT, BY_USER, CALLING_AE_UNKNOWN = 1, 1, 3  # PS3.8 table 9-21
REJECTED_TRANSIENT, BY_PROVIDER, LOCAL_LIMIT = 2, 3, 2


def transfer_syntaxes() -> list[str]:
    """Those that the readers can decode with what is installed here."""
    return [str(one) for one in (*NATIVE, *(one for one in COMPRESSED if get_decoder(UID(one)).is_available))]


class Listener:
    """The node's own application entity.

    Args:
        config: titles, callers, limits.
        intake: takes instances.
        commitment: answers requests of storage commitment.
        counts: gets what came and what was refused.

    Raises:
        InputRefused: ``NODE`` if the port cannot be had.
    """

    def __init__(self, config: NodeConfig, intake: Intake, commitment: Commitment, counts: Counts) -> None:
        self.config, self.intake, self.commitment, self.counts = config, intake, commitment, counts
        self._seldom, self._of_callers = Seldom(logger), Seldom(logger)
        _config.LOG_HANDLER_LEVEL = "none"  # its handlers describe each message, for a log that nobody reads
        for noisy in ("pydicom", "pynetdicom"):  # they quote values; pydicom sets its level when it is imported
            logging.getLogger(noisy).setLevel(logging.CRITICAL + 1)
        limits = config.limits
        entity = AE(config.ae)
        entity.maximum_associations = limits.associations
        entity.maximum_pdu_size = limits.pdu_bytes - 6
        entity.acse_timeout, entity.network_timeout, entity.dimse_timeout = (
            limits.association_s,
            limits.network_s,
            limits.network_s,
        )
        entity.require_called_aet = True
        entity.require_calling_aet = [caller.ae for caller in config.callers]  # `_requested` rejects more
        entity.add_supported_context(Verification)
        entity.add_supported_context(StorageCommitmentPushModel, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
        syntaxes = transfer_syntaxes()
        for class_uid in CLASSES:
            entity.add_supported_context(class_uid, syntaxes)
        if config.other_classes == "discard":
            for class_uid in {str(one.abstract_syntax) for one in AllStoragePresentationContexts} - set(CLASSES):
                entity.add_supported_context(class_uid, ALL_TRANSFER_SYNTAXES)
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_ESTABLISHED, lambda event: counts.add("associations")),
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._action),
        ]
        context = server_context(config.tls, GuardedTlsSocket) if config.tls else None
        try:
            self._server = ConnectionServer(
                entity,
                (config.host, config.port),
                config.ae,
                entity.supported_contexts,
                ssl_context=context,
                evt_handlers=handlers,
                limits=limits,
                may_connect=self.may_connect,
                counts=counts,
            )
        except OSError as error:
            raise InputRefused(
                RefusalCode.NODE,
                f"port {config.port} of {config.host} cannot be had ({error.strerror}); give another port",
            ) from error
        self.entity = entity
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), name="listener", daemon=True)

    def start(self) -> None:
        """Begins to accept connections."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether connections are accepted."""
        return self._thread.is_alive()

    @property
    def associations(self) -> int:
        """How many are open."""
        return len(self._server.active_associations)

    def stop(self, wait_s: float) -> None:
        """Accepts no more, waits for those that are open, and aborts what is left."""
        self._server.stop()
        end = time.monotonic() + wait_s
        while self.associations and time.monotonic() < end:
            time.sleep(POLL_S)
        for one in self._server.active_associations:
            one.abort(block=False)
        end = time.monotonic() + ABORT_S
        while self.associations and time.monotonic() < end:
            time.sleep(POLL_S)
        self._server.cut()

    def may_connect(self, host: str) -> bool:
        """Whether some caller may connect from an address."""
        return any(caller.may_call_from(host) for caller in self.config.callers)

    def _requested(self, event: evt.Event) -> None:
        """Rejects callers from other addresses than their own, and everybody while the disk is full."""
        requestor: Any = event.assoc.requestor
        title, host = str(requestor.primitive.calling_ae_title).strip(), str(requestor.address)
        if not any(one.ae == title and one.may_call_from(host) for one in self.config.callers):
            self._reject(event, "title or address", REJECTED_PERMANENT, BY_USER, CALLING_AE_UNKNOWN)
        elif not self.intake.has_space():
            self._reject(event, "disk", REJECTED_TRANSIENT, BY_PROVIDER, LOCAL_LIMIT)

    def _rejected(self, event: evt.Event) -> None:
        """What pynetdicom rejects: titles of callers and of the node, and too many at a time."""
        self._refused(event, "title or number")

    def _refused(self, event: evt.Event, reason: str) -> None:
        """Counts an association, and names its caller in the log."""
        self.counts.add("associations_refused", reason)
        requestor: Any = event.assoc.requestor
        calling, called = (
            str(getattr(requestor.primitive, f"{one}_ae_title")).strip() for one in ("calling", "called")
        )
        self._of_callers.warn(
            f"refused an association of {calling!r} with {called!r} from {requestor.address} ({reason})"
        )

    def _reject(self, event: evt.Event, reason: str, result: int, source: int, diagnostic: int) -> None:
        self._refused(event, reason)
        association: Any = event.assoc
        association.acse.send_reject(result, source, diagnostic)
        association.is_rejected = True
        association.kill()

    def _echo(self, event: evt.Event) -> int:
        self.counts.add("echoes")
        return SUCCESS

    def _store(self, event: evt.Event) -> int:
        return self._guarded(partial(self._take, event), NOT_UNDERSTOOD, NO_SPACE)

    def _guarded(self, handle: Callable[[], int], failure: int, passing: int) -> int:
        """The status of a request, whatever happens to it: one for any failure, another for what may be over later."""
        try:
            return handle()
        except NotTaken as refusal:
            self._seldom.warn(str(refusal))
            return refusal.status
        except MemoryError:  # there may be some later
            self._seldom.warn("a request could not be answered: MemoryError")
            return passing
        except Exception as error:  # nothing that a peer sends may do more than be refused
            self._seldom.warn(f"a request could not be answered: {type(error).__name__}")
            return failure

    def _take(self, event: evt.Event) -> int:
        request: Any = event.request
        class_uid, uid = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        if class_uid not in self.intake.classes:
            self.counts.add("instances_discarded")
            return SUCCESS
        association: Any = event.assoc
        source = str(association.requestor.primitive.calling_ae_title).strip()
        content = file_of(event.encoded_dataset(include_meta=False), class_uid, uid, event.context.transfer_syntax)
        self.intake.take(content, source, claimed=(class_uid, uid))
        return SUCCESS

    def _action(self, event: evt.Event) -> tuple[int, None]:
        return self._guarded(partial(self.commitment.asked, event), PROCESSING_FAILURE, RESOURCE_LIMITATION), None
