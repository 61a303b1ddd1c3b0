"""The border to pydicom: of a damaged or hostile file nothing but :class:`InputRefused` passes, nor any word of it."""

from __future__ import annotations

import io
import logging
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydicom import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.cases import begins_as_dicom
from convformer_monai.readers.limits import inflated_size

__all__ = ["as_refusal", "begins_like_dicom", "read_dataset", "read_header", "silent_pydicom"]

PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})  # float, double float, integer
MAX_HEADER_BYTES = 2**25  # an enhanced header has about 3 kB a frame
MAX_FILE_BYTES = 2**30
MAX_INFLATED_BYTES = 2**28
LOGGERS = ("pydicom", "highdicom", "pylibjpeg", "libjpeg", "openjpeg", "rle", "PIL")
# everything that pydicom and its decoders were seen to raise on mutated files; RuntimeError includes RecursionError
UNREADABLE: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


QUOTED = re.compile(r"""(['"]).*\1""", re.DOTALL)

logger = logging.getLogger("convformer_monai.dicom")


class _ToDebug(logging.Handler):
    """Passes messages on to our debug log, without what they quote: it may be of the patient."""

    def emit(self, record: logging.LogRecord) -> None:
        _debug(record.getMessage())


def _debug(message: object, *_: object, **__: object) -> None:
    """Stands in for ``warnings.showwarning``, too."""
    logger.debug("%s", QUOTED.sub("'...'", str(message)))


class _Silence:
    """While entered, from however many threads, pydicom neither warns nor logs: it would quote values of patients.

    Nor does Pillow. One lock sees to both, since warnings are those of the whole process.

    What it says goes to the debug log, without the quotes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._restore = ExitStack()
        self._to_debug = _ToDebug()

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._restore.enter_context(warnings.catch_warnings())
                listening = logger.isEnabledFor(logging.DEBUG)
                warnings.simplefilter("always" if listening else "ignore")
                warnings.showwarning = _debug
                for noisy in map(logging.getLogger, LOGGERS):
                    self._restore.callback(setattr, noisy, "propagate", noisy.propagate)
                    self._restore.callback(noisy.setLevel, noisy.level)
                    self._restore.callback(noisy.removeHandler, self._to_debug)
                    noisy.propagate = False
                    noisy.setLevel(logging.WARNING if listening else logging.CRITICAL + 1)
                    noisy.addHandler(self._to_debug)
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._restore.close()


silent_pydicom = _Silence()


@contextmanager
def as_refusal(
    path: Path, what: str = "cannot be read as DICOM", code: RefusalCode = RefusalCode.DICOM_UNREADABLE
) -> Iterator[None]:
    """Turns whatever pydicom raises on a bad file into a refusal, without its text, which quotes values."""
    try:
        yield
    except UNREADABLE as error:
        raise InputRefused(code, f"{path} {what} ({type(error).__name__}); fetch it again from the archive") from None


class _BoundedReader:
    """A file of which no more can be read than it has, and no more than a limit.

    pydicom asks for all the rest of a file only to inflate it (deflated transfer syntax, PS3.5 section A.5); the size
    that it will have then is checked before the rest is handed out.
    """

    def __init__(self, file: BinaryIO, path: Path, size: int, limit: int) -> None:
        self._file, self._path, self._size, self._left = file, path, size, limit
        self.name = path.name
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        rest = max(0, self._size - self.tell())
        data = self._file.read(rest if size < 0 else min(size, rest))
        self._left -= len(data)
        if self._left < 0 and size >= 0:
            raise InputRefused(RefusalCode.TOO_LARGE, f"{self._path} has an implausibly large header; leave it out")
        if size < 0 and inflated_size(io.BytesIO(data), MAX_INFLATED_BYTES, -zlib.MAX_WBITS) > MAX_INFLATED_BYTES:
            raise InputRefused(
                RefusalCode.TOO_LARGE,
                f"{self._path} inflates to more than {MAX_INFLATED_BYTES:,} bytes; store it without deflate",
            )
        return data


def begins_like_dicom(path: Path) -> bool:
    """Tells whether the file begins as DICOM files do.

    Raises:
        InputRefused: if it cannot be opened.
    """
    with as_refusal(path, "cannot be opened"):
        return begins_as_dicom(path)


def read_header(path: Path, keywords: Sequence[str] | None = None) -> tuple[Dataset, bool]:
    """Reads the elements before the pixel data.

    Args:
        path: the file.
        keywords: which elements; all if ``None``.

    Returns:
        The header with its file meta information, and whether pixel data follow it.

    Raises:
        InputRefused: if it cannot be read.
    """
    found = False

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal found
        found = found or tag in PIXEL_TAGS
        return tag in PIXEL_TAGS

    return _read(path, keywords, MAX_HEADER_BYTES, at_pixels), found


def read_dataset(path: Path, keywords: Sequence[str]) -> Dataset:
    """Reads elements of the whole file, as far as they are there.

    Raises:
        InputRefused: if it cannot be read.
    """
    return _read(path, keywords, MAX_FILE_BYTES, None)


@lru_cache
def _tags(keywords: tuple[str, ...]) -> list[BaseTag]:
    return [Tag(keyword) for keyword in keywords]


def _read(path: Path, keywords: Sequence[str] | None, limit: int, stop_when: Any) -> Dataset:
    tags = None if keywords is None else _tags(tuple(keywords))
    with silent_pydicom, as_refusal(path), open(path, "rb") as file:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputRefused(
                RefusalCode.TOO_LARGE, f"{path} has {size:,} bytes, over the limit of {MAX_FILE_BYTES:,}"
            )
        reader = cast(BinaryIO, _BoundedReader(file, path, size, limit))
        dataset = read_partial(reader, stop_when, specific_tags=cast(Any, tags))
        if dataset.file_meta.get("TransferSyntaxUID") is None:
            raise InvalidDicomError("no transfer syntax")
        return dataset
