"""The HTTP port: ``/health``, ``/ready``, ``/metrics``, and a page for people; all but the first want the token.

No address holds a value of a patient, and nothing that is asked changes anything.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.serve.config import WebConfig
from convformer_monai.serve.tls import server_context

__all__ = ["Answer", "Web"]

logger = logging.getLogger(__name__)

REQUEST_S = 10  # for a peer to say what it wants
CONNECTIONS = 32  # at a time
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
OPEN = "/health"


@dataclass(frozen=True)
class Answer:
    """What is answered."""

    text: str
    kind: str = "text/plain"
    status: int = HTTPStatus.OK


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: _Server
    timeout = REQUEST_S
    server_version, sys_version = "convformer_monai", ""
    protocol_version = "HTTP/1.0"  # a connection a request

    def setup(self) -> None:
        """Begins; however slowly the peer speaks, the connection has an end."""
        self._timer = threading.Timer(self.timeout, self._cut)
        self._timer.daemon = True
        self._timer.start()
        super().setup()

    def finish(self) -> None:
        """Ends."""
        self._timer.cancel()
        super().finish()

    def _cut(self) -> None:
        with contextlib.suppress(OSError):  # it has ended already
            self.request.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:  # noqa: N802 (of the standard library)
        """Answers."""
        path = self.path.partition("?")[0]
        page = self.server.pages.get(path)
        if path != OPEN and not self._is_allowed():
            self._answer(Answer("a token is needed\n", status=HTTPStatus.UNAUTHORIZED))
        elif page is None:
            self._answer(Answer("there is no such page\n", status=HTTPStatus.NOT_FOUND))
        else:
            try:
                answer = page()
            except Exception as error:  # as while the node stops
                logger.warning("a page could not be made: %s", type(error).__name__)
                answer = Answer("not now\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
            self._answer(answer)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, answer: Answer) -> None:
        content = answer.text.encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", f"{answer.kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="convformer_monai", charset="UTF-8"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _is_allowed(self) -> bool:
        """Whether the token is there: as bearer token, or as the password of any name."""
        kind, _, given = self.headers.get("Authorization", "").partition(" ")
        token = given.strip()
        if kind.lower() == "basic":
            try:
                token = base64.b64decode(token, validate=True).decode().partition(":")[2]
            except ValueError:
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(token.encode(), self.server.token.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: an address may hold whatever somebody typed."""


class _Server(ThreadingHTTPServer):
    """A few connections at a time; a TLS handshake takes place in the connection's own thread."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, config: WebConfig, pages: dict[str, Callable[[], Answer]]) -> None:
        self.token, self.pages = config.token, pages
        self._context = server_context(config.tls) if config.tls else None
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        if ":" in config.host:
            self.address_family = socket.AF_INET6
        super().__init__((config.host, config.port), _Handler)

    def get_request(self) -> Any:
        plain, address = super().get_request()
        plain.settimeout(REQUEST_S)
        if self._context is not None:
            plain = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        return plain, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line instead of a traceback."""
        logger.debug("a web connection could not be served")


class Web:
    """The server.

    Args:
        config: address and token.
        pages: what is answered, by path.

    Raises:
        InputRefused: ``NODE`` if the port cannot be had.
    """

    def __init__(self, config: WebConfig, pages: dict[str, Callable[[], Answer]]) -> None:
        try:
            self._server = _Server(config, pages)
        except OSError as error:
            raise InputRefused(
                RefusalCode.NODE,
                f"port {config.port} of {config.host} cannot be had ({error.strerror}); give another web.port",
            ) from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="web", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answers no more."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
