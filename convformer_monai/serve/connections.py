"""Connections to the DICOM port: from where, how many, and how much they may send."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from pynetdicom import evt
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from convformer_monai.serve.config import Limits
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.guards import GuardedSocket
from convformer_monai.serve.intake import MB
from convformer_monai.serve.seldom import Seldom

__all__ = ["ConnectionServer"]

logger = logging.getLogger(__name__)


class _Connection(RequestHandler):
    """One association, from its beginning to its end."""

    def handle(self) -> None:
        association = self._create_association()
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": self.client_address})
        association.start()
        association.join()


class ConnectionServer(ThreadedAssociationServer):
    """Accepts connections from allowed addresses, a few from each, with sockets that are guarded.

    A TLS handshake takes place in the connection's own thread, so that nobody can hold up the others with one. The
    arguments are those of pynetdicom's server, and:

    Args:
        limits: of connections and of what they send.
        may_connect: whether a connection from an address is let in at all.
        counts: gets what was refused or cut.
    """

    request_queue_size = 128  # of connections that are not yet accepted
    daemon_threads, block_on_close = True, False  # to stop does not wait for peers

    def __init__(
        self, *args: Any, limits: Limits, may_connect: Callable[[str], bool], counts: Counts, **options: Any
    ) -> None:
        self.limits, self.may_connect, self.counts = limits, may_connect, counts
        self._lock, self._open, self._seldom = threading.Lock(), Counter[str](), Seldom(logger)
        self._connections: dict[int, tuple[str, Any]] = {}
        super().__init__(*args, **{**options, "request_handler": _Connection})

    def get_request(self) -> Any:
        listening: Any = self.socket
        accepted, address = listening.accept()
        plain = GuardedSocket(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        guarded: Any = plain
        try:
            if self.ssl_context:
                guarded = self.ssl_context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        except OSError:
            plain.close()
            raise
        guarded.settimeout(self.limits.network_s)
        cut = partial(self.counts.add, "connections_cut")
        limits = self.limits
        guarded.guard(limits.pdu_bytes, limits.instance_mb * MB, cut, limits.association_s, limits.network_s)
        return guarded, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Lets few connections of an address in; pynetdicom makes threads of each."""
        host = str(client_address[0])
        with self._lock:
            if not self.may_connect(host):
                reason, why = "address", "which is among no caller's hosts"
            elif self._open[host] >= self.limits.per_host:
                reason, why = "per host", f"which has {self.limits.per_host} open, the most that limits.per_host allows"
            else:
                self._open[host] += 1
                self._connections[id(request)] = host, request
                return True
        self.counts.add("connections_refused", reason)
        self._seldom.warn(f"refused a connection from {host}, {why}")
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
                host, _ = self._connections.pop(id(request), (None, None))
                if host is not None:
                    self._open[host] -= 1
                    self._open += Counter()  # forgets those of none

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line instead of a traceback."""
        logger.warning("a connection could not be served")

    def stop(self) -> None:
        """Accepts no more."""
        socketserver.BaseServer.shutdown(self)  # pynetdicom's own expects a server that its entity has started
        self.server_close()

    def cut(self) -> None:
        """Ends all connections, whatever their peers do."""
        with self._lock:
            for _, connection in self._connections.values():
                with contextlib.suppress(OSError):  # it has ended already
                    connection.shutdown(socket.SHUT_RDWR)
