"""Sockets that end a connection whose peer sends more than is allowed, before it is in memory, or too slowly.

pynetdicom reads a PDU of whatever length its header claims (4 GiB), and joins the parts of a message without a limit.
So what is received is followed here: the length of each PDU, the bytes of a command set, those since our last answer,
and how long a PDU takes.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any

__all__ = ["GuardedSocket", "GuardedTlsSocket", "TooMuch"]

PDU_HEADER = 6  # type, reserved, length of the rest (PS3.8 section 9.3.1)
ASSOCIATE_RQ, REQUEST = 1, 2**17  # a request with 128 contexts of many transfer syntaxes has up to 80 kB
DATA, FRAGMENT_HEADER = 4, 6  # P-DATA-TF; length of the rest, context, control (PS3.8 section 9.3.5, annex E)
COMMAND, LAST = 1, 2  # bits of the control
COMMAND_BYTES = 2**16  # of a command set; usual ones have some hundred
MARGIN = 2**16  # of a message, for its command set and the headers of its PDUs


class TooMuch(OSError):
    """The peer sent more than is allowed, or too slowly."""


class _Fragments:
    """Follows the fragments of messages in P-DATA-TF PDUs, for the bytes of the command set they belong to."""

    def __init__(self) -> None:
        self._header, self._rest, self._command = b"", 0, 0

    def begin(self) -> None:
        """Notes that a PDU begins."""
        self._header, self._rest = b"", 0

    def received(self, data: bytes) -> bool:
        """Notes bytes of a PDU; returns whether the command set is as small as it should be."""
        while data:
            if self._rest:
                taken = min(self._rest, len(data))
                self._rest -= taken
            else:
                taken = min(FRAGMENT_HEADER - len(self._header), len(data))
                self._header += data[:taken]
                if len(self._header) == FRAGMENT_HEADER:
                    length, control = struct.unpack(">LxB", self._header)
                    self._header, self._rest = b"", max(0, length - 2)
                    if control & COMMAND:
                        self._command += self._rest
                        if self._command > COMMAND_BYTES:
                            return False
                        if control & LAST:
                            self._command = 0
            data = data[taken:]
        return True


class _Meter:
    """Follows the PDUs of a connection.

    Args:
        pdu: bytes of a PDU, at most.
        message: bytes between two answers of ours, at most.
        tell: is called when there is more.
        first_s: seconds in which a PDU arrives, before our first answer.
        later_s: afterwards.
    """

    def __init__(self, pdu: int, message: int, tell: Callable[[str], None], first_s: float, later_s: float) -> None:
        self._pdu, self._message, self._tell = pdu, message, tell
        self._pdu_s, self._later_s, self._began = first_s, later_s, 0.0
        self._header, self._kind, self._rest, self._since_answer = b"", 0, 0, 0
        self._fragments = _Fragments()

    def received(self, data: bytes) -> None:
        """Notes bytes; raises :class:`TooMuch` if they are too many."""
        self._since_answer += len(data)
        if self._since_answer > self._message + self._message // 64 + MARGIN:
            self._refuse("message size")
        now = time.monotonic()
        if (self._header or self._rest) and now - self._began > self._pdu_s:
            self._refuse("slow PDU")
        while data:
            if not self._header and not self._rest:
                self._began = now
            if self._rest:
                taken = min(self._rest, len(data))
                self._rest -= taken
                if self._kind == DATA and not self._fragments.received(data[:taken]):
                    self._refuse("command size")
            else:
                taken = min(PDU_HEADER - len(self._header), len(data))
                self._header += data[:taken]
                if len(self._header) == PDU_HEADER:
                    self._kind, self._rest = struct.unpack(">BxL", self._header)
                    self._header = b""
                    self._fragments.begin()
                    if self._rest > (max(self._pdu, REQUEST) if self._kind == ASSOCIATE_RQ else self._pdu):
                        self._refuse("pdu size")
            data = data[taken:]

    def answered(self) -> None:
        """Notes that we sent something."""
        self._since_answer, self._pdu_s = 0, self._later_s

    def _refuse(self, reason: str) -> None:
        self._tell(reason)
        raise TooMuch(f"a peer sent more than is allowed, or too slowly ({reason})")


class _Guarded:
    """What both kinds of sockets do beside their work."""

    meter: _Meter | None = None

    def guard(self, pdu: int, message: int, tell: Callable[[str], None], first_s: float, later_s: float) -> None:
        """Begins to follow; see :class:`_Meter`."""
        self.meter = _Meter(pdu, message, tell, first_s, later_s)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        data: bytes = super().recv(bufsize, flags)  # type: ignore[misc]
        if self.meter is not None:
            self.meter.received(data)
        return data

    def send(self, data: Any, flags: int = 0) -> int:
        if self.meter is not None:
            self.meter.answered()
        sent: int = super().send(data, flags)  # type: ignore[misc]
        return sent


class GuardedSocket(_Guarded, socket.socket):
    """A plain socket."""


class GuardedTlsSocket(_Guarded, ssl.SSLSocket):  # type: ignore[misc]  # names of its arguments
    """A socket with TLS; made by a context whose ``sslsocket_class`` it is."""
