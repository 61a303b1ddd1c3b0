"""The parts of a ``multipart/related`` answer, one after the other: no more than one of them is in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from email.message import Message

__all__ = ["parts"]

MAX_HEADER = 2**14
MAX_BOUNDARY = 256


def parts(pieces: Iterable[bytes], content_type: str, limit: int) -> Iterator[bytes]:
    """Yields the contents of the parts.

    Args:
        pieces: of the body.
        content_type: of the answer, with the boundary; RFC 2046 section 5.1.
        limit: bytes of a part, at most.

    Raises:
        ValueError: if the body is of another kind, or a part is larger.
        EOFError: if the body ends early, as where a connection was cut.
    """
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_maintype() != "multipart" or not isinstance(boundary, str) or len(boundary) > MAX_BOUNDARY:
        raise ValueError("answers with something else than parts")
    delimiter = b"\r\n--" + boundary.encode()
    body = _Body(pieces)
    body.content += b"\r\n"  # the first delimiter may begin the body
    if body.until(delimiter, MAX_HEADER) is None:
        raise ValueError("answers without parts")
    while True:
        ending = body.take(2)
        if ending == b"--":
            return
        if len(ending) < 2:
            raise EOFError("answers with a part that ends early")
        if ending != b"\r\n":
            raise ValueError("answers with parts that cannot be told apart")
        body.content[:0] = b"\r\n"  # a part without headers begins with an empty line
        header = body.until(b"\r\n\r\n", MAX_HEADER)
        content = None if header is None else body.until(delimiter, limit)
        if content is None:
            raise EOFError("answers with a part that ends early")
        yield content


class _Body:
    """Bytes that come in pieces."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.content = bytearray()
        self._pieces = iter(pieces)

    def until(self, end: bytes, limit: int) -> bytes | None:
        """What comes before some bytes, which are passed over; ``None`` if they do not come."""
        searched = 0
        while (found := self.content.find(end, searched)) < 0:
            if len(self.content) > limit + len(end):
                raise ValueError("answers with a part that is larger than allowed")
            searched = max(0, len(self.content) - len(end) + 1)
            if not self._more():
                return None
        if found > limit:
            raise ValueError("answers with a part that is larger than allowed")
        before = bytes(self.content[:found])
        del self.content[: found + len(end)]
        return before

    def take(self, count: int) -> bytes:
        """The next bytes; fewer at the end."""
        while len(self.content) < count and self._more():
            pass
        taken = bytes(self.content[:count])
        del self.content[:count]
        return taken

    def _more(self) -> bool:
        piece = next(self._pieces, b"")
        self.content += piece
        return bool(piece)
