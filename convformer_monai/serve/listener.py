"""The DICOM port: C-ECHO, C-STORE and storage commitment, for those who are on the list, within the limits."""

from __future__ import annotations

import logging
import socketserver
import threading
import time
from collections import Counter
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
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.dicom.files import CLASS_MODALITY
from convformer_monai.readers.photo_dicom import STILL_IMAGES
from convformer_monai.serve.commitment import Commitment
from convformer_monai.serve.config import NodeConfig
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.guards import GuardedSocket, GuardedTlsSocket
from convformer_monai.serve.intake import MB, NOT_UNDERSTOOD, Intake, NotTaken, file_of
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
REJECTED_PERMANENT, BY_USER, CALLING_AE_UNKNOWN = 1, 1, 3  # PS3.8 table 9-21
REJECTED_TRANSIENT, BY_PROVIDER, LOCAL_LIMIT = 2, 3, 2


def transfer_syntaxes() -> list[str]:
    """Those that the readers can decode with what is installed here."""
    return [str(one) for one in (*NATIVE, *(one for one in COMPRESSED if get_decoder(UID(one)).is_available))]


class _Connection(RequestHandler):
    """One association, from its beginning to its end."""

    def handle(self) -> None:
        association = self._create_association()
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": self.client_address})
        association.start()
        association.join()


class _Server(ThreadedAssociationServer):
    """Accepts connections from allowed addresses, a few from each, with sockets that are guarded.

    A TLS handshake takes place in the connection's own thread, so that nobody can hold up the others with one.
    """

    request_queue_size = 128  # of connections that are not yet accepted

    def __init__(self, *args: Any, **options: Any) -> None:
        self.owner: Listener
        self._lock, self._open = threading.Lock(), Counter[str]()
        self._hosts: dict[int, str] = {}
        super().__init__(*args, **options)

    def get_request(self) -> Any:
        listening: Any = self.socket
        accepted, address = listening.accept()
        limits = self.owner.config.limits
        plain = GuardedSocket(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        plain.settimeout(limits.association_s if self.ssl_context else limits.network_s)
        guarded: Any = plain
        try:
            if self.ssl_context:
                guarded = self.ssl_context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        except OSError:
            plain.close()
            raise
        guarded.settimeout(limits.network_s)
        guarded.guard(limits.pdu_bytes, limits.instance_mb * MB, partial(self.owner.counts.add, "connections_cut"))
        return guarded, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Lets few connections of an address in; pynetdicom makes threads of each."""
        host = str(client_address[0])
        with self._lock:
            if not self.owner.may_connect(host):
                reason = "address"
            elif self._open[host] >= self.owner.config.limits.per_host:
                reason = "per host"
            else:
                self._open[host] += 1
                self._hosts[id(request)] = host
                return True
        self.owner.counts.add("connections_refused", reason)
        return False

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Ends when the association has ended."""
        try:
            self.finish_request(request, client_address)
        except Exception as error:  # whatever it is, it is one connection's
            logger.warning("a connection ended by %s", type(error).__name__)
        finally:
            self.shutdown_request(request)
            with self._lock:
                host = self._hosts.pop(id(request), None)
                if host is not None:
                    self._open[host] -= 1
                    self._open += Counter()  # forgets those of none

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line instead of a traceback."""
        logger.warning("a connection could not be served")


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
        self._seldom = Seldom(logger)
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
        entity.add_supported_context(StorageCommitmentPushModel)
        syntaxes = transfer_syntaxes()
        for class_uid in CLASSES:
            entity.add_supported_context(class_uid, syntaxes)
        if config.other_classes == "discard":
            for class_uid in {str(one.abstract_syntax) for one in AllStoragePresentationContexts} - set(CLASSES):
                entity.add_supported_context(class_uid, ALL_TRANSFER_SYNTAXES)
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_REJECTED, lambda event: counts.add("associations_refused", "title or number")),
            (evt.EVT_ESTABLISHED, lambda event: counts.add("associations")),
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._action),
        ]
        context = server_context(config.tls, GuardedTlsSocket) if config.tls else None
        try:
            self._server = _Server(
                entity,
                (config.host, config.port),
                config.ae,
                entity.supported_contexts,
                ssl_context=context,
                evt_handlers=handlers,
                request_handler=_Connection,
            )
        except OSError as error:
            raise InputRefused(
                RefusalCode.NODE,
                f"port {config.port} of {config.host} cannot be had ({error.strerror}); give another port",
            ) from error
        self._server.owner = self
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
        socketserver.BaseServer.shutdown(self._server)
        self._server.server_close()
        end = time.monotonic() + wait_s
        while self.associations and time.monotonic() < end:
            time.sleep(POLL_S)
        for one in self._server.active_associations:
            one.abort()

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

    def _reject(self, event: evt.Event, reason: str, result: int, source: int, diagnostic: int) -> None:
        self.counts.add("associations_refused", reason)
        association: Any = event.assoc
        association.acse.send_reject(result, source, diagnostic)
        association.is_rejected = True
        association.kill()

    def _echo(self, event: evt.Event) -> int:
        self.counts.add("echoes")
        return SUCCESS

    def _store(self, event: evt.Event) -> int:
        return self._guarded(partial(self._take, event))

    def _guarded(self, handle: Callable[[], int]) -> int:
        """The status of a request, whatever happens to it."""
        try:
            return handle()
        except NotTaken as refusal:
            self._seldom.warn(str(refusal))
            return refusal.status
        except Exception as error:  # nothing that a peer sends may do more than be refused
            self._seldom.warn(f"a request could not be answered: {type(error).__name__}")
            return NOT_UNDERSTOOD

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
        return self._guarded(partial(self.commitment.asked, event)), None
