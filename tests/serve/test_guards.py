"""What a guarded socket lets in: PDUs, command sets and messages up to their sizes."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from convformer_monai.serve import guards
from convformer_monai.serve.guards import GuardedSocket, TooMuch

COMMAND, LAST = 1, 2


class Line:
    """A peer, and the guarded end of its connection."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.guarded = GuardedSocket(ours.family, ours.type, ours.proto, fileno=ours.detach())
        self.told: list[str] = []
        self.guarded.guard(2**14, 2**20, self.told.append, 5.0, 60.0)

    def gets(self, content: bytes, piece: int = 2**12) -> None:
        """Sends bytes, and receives them in pieces."""
        for start in range(0, len(content), piece):
            self.peer.sendall(content[start : start + piece])
            assert self.guarded.recv(piece) == content[start : start + piece]


@pytest.fixture
def line() -> Iterator[Line]:
    one = Line()
    yield one
    one.guarded.close()
    one.peer.close()


def data(*fragments: tuple[int, int]) -> bytes:
    """A P-DATA-TF PDU with fragments of a size and a control (PS3.8 section 9.3.5)."""
    items = b"".join(struct.pack(">LBB", size + 2, 1, control) + bytes(size) for size, control in fragments)
    return struct.pack(">BxL", 4, len(items)) + items


@pytest.mark.parametrize("piece", [5, 4096])
def test_a_command_set_has_a_size(line: Line, piece: int) -> None:
    for _ in range(9):  # each its own message
        line.gets(data((9000, COMMAND), (200, COMMAND | LAST)) + data((9000, 0), (5, LAST)), piece)
    with pytest.raises(TooMuch):
        for _ in range(9):  # one that does not end
            line.gets(data((9000, COMMAND)), piece)
    assert line.told == ["command size"]


def test_a_pdu_takes_its_time_and_no_more(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(guards.time, "monotonic", lambda: now[0])

    def drips(content: bytes) -> None:
        for place in range(len(content)):
            now[0] += 0.5
            line.gets(content[place : place + 1])

    drips(data((1, 0))[:9])
    with pytest.raises(TooMuch):  # nobody knows who calls
        drips(data((1, 0))[9:])
    assert line.told == ["slow PDU"]
    fresh = Line()
    fresh.guarded.send(b"an answer")
    fresh.gets(data((9, 0))[:20])
    now[0] += 59
    fresh.gets(data((9, 0))[20:] + data((9, 0)))
    now[0] += 3600  # between two PDUs
    fresh.gets(data((9, 0))[:3])
    now[0] += 61
    with pytest.raises(TooMuch):
        fresh.gets(data((9, 0))[3:])
