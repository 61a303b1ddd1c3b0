"""Where images come from and results go: folders of this machine, or object storage through fsspec.

A case in object storage is done in a temporary folder: its image is fetched, its results are uploaded, and its status
is written last. There are no locks there: give each run cases of its own (a shard).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.locks import hold
from convformer_monai.outputs.atomic import check_writable, write_text
from convformer_monai.readers.file_stamp import file_stamp

__all__ = ["Folder", "Place", "Remote", "fetched", "fingerprint", "is_url", "place_of"]

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
CHANGES = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")  # whatever the storage has


def is_url(path: str) -> bool:
    """Whether a path leads to object storage; ``file://`` is of this machine."""
    return bool(URL.match(path)) and not path.lower().startswith("file://")


def local_path(path: str) -> Path:
    """The path of a text that is no URL of object storage."""
    return Path(unquote(urlsplit(path).path) if path.lower().startswith("file://") else path).expanduser()


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there.

    Raises:
        InputRefused: ``MISSING_PACKAGE`` where fsspec, or what it needs for this scheme, is not installed; ``OPTION``
            for a scheme that it does not know.
    """
    try:
        import fsspec

        found, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise InputRefused(
            RefusalCode.MISSING_PACKAGE, f"{url} needs a package: {error}; pip install 'convformer_monai[cluster]'"
        ) from error
    except ValueError as error:
        raise InputRefused(RefusalCode.OPTION, f"{url} is of no storage that is known: {error}") from error
    return found, str(path)


def fingerprint(path: str, output: str = "") -> str | None:
    """What changes when an image does; see :func:`convformer_monai.readers.file_stamp.file_stamp`.

    Args:
        path: of a file or folder, or a URL.
        output: folder of the results, which may be inside.

    Returns:
        A text; ``None`` if there is nothing.
    """
    if is_url(path):
        return _remote_fingerprint(path)
    return file_stamp(local_path(path), local_path(output) if output and not is_url(output) else None)


def _remote_fingerprint(url: str) -> str | None:
    system, path = file_system(url)
    try:
        if system.isfile(path):
            return _digest(_what_changes(system.info(path)))
        files = system.find(path, detail=True)
    except OSError:
        return None
    return _digest([[name, _what_changes(info)] for name, info in sorted(files.items())]) if files else None


def _what_changes(info: dict[str, Any]) -> list[str]:
    return [str(info.get("size")), *(str(info[key]) for key in CHANGES if key in info)]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


@contextlib.contextmanager
def fetched(path: str) -> Iterator[Path]:
    """Yields where an image is on this machine, for as long as the block lasts.

    Args:
        path: of a file or folder, or a URL; a file of more than one part (``.mhd``, ``.nhdr``) must be local.
    """
    if not is_url(path):
        yield local_path(path)
        return
    system, there = file_system(path)
    with tempfile.TemporaryDirectory(prefix="convformer-case-") as folder:
        here = Path(folder) / PurePosixPath(there.rstrip("/")).name
        system.get(there, str(here), recursive=not system.isfile(there))
        yield here


class Place:
    """The output folder of a cohort.

    Attributes:
        url: as given.
    """

    url: str

    def read(self, name: str) -> str | None:
        """The text of a file, or ``None`` if it is not there."""
        raise NotImplementedError

    def write(self, name: str, text: str) -> None:
        """Writes a text, complete or not at all, in place of an older one.

        Raises:
            InputRefused: ``CANNOT_WRITE``, in a folder of this machine.
        """
        raise NotImplementedError

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        raise NotImplementedError

    def remove(self, name: str) -> None:
        """Removes a file if it is there."""
        raise NotImplementedError

    def find(self, folder: str, suffix: str) -> list[str]:
        """Names of all files below a folder of this place (empty for all) that end so, sorted."""
        raise NotImplementedError

    def read_all(self, names: list[str]) -> list[str]:
        """The texts of many files, empty where one is gone."""
        raise NotImplementedError

    def hold(self, case: str) -> contextlib.AbstractContextManager[bool]:
        """Holds a case; see :func:`convformer_monai.locks.hold`."""
        raise NotImplementedError

    def workspace(self) -> contextlib.AbstractContextManager[Path]:
        """A folder of this machine whose files are in this place when the block has ended well."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuses a place where nothing can be written.

        Raises:
            InputRefused: ``CANNOT_WRITE``.
        """
        raise NotImplementedError


class Folder(Place):
    """A folder of this machine, or one that all machines see.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.root = path.absolute()
        self.url = str(self.root)

    def read(self, name: str) -> str | None:
        """See :class:`Place`."""
        try:
            return (self.root / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def write(self, name: str, text: str) -> None:
        """See :class:`Place`."""
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputRefused(
                RefusalCode.CANNOT_WRITE,
                f"{path.parent} cannot be made: {error.strerror}; free space or give another --output",
            ) from error
        write_text(path, text, overwrite=True)

    def exists(self, name: str) -> bool:
        """See :class:`Place`."""
        return os.path.exists(os.path.join(self.root, name))

    def remove(self, name: str) -> None:
        """See :class:`Place`."""
        (self.root / name).unlink(missing_ok=True)

    def find(self, folder: str, suffix: str) -> list[str]:
        """See :class:`Place`."""
        found = [
            os.path.join(where, name)
            for where, _, names in os.walk(self.root / folder)
            for name in names
            if name.endswith(suffix) and not name.startswith(".")  # a dot: on its way
        ]
        return sorted(os.path.relpath(path, self.root).replace(os.sep, "/") for path in found)

    def read_all(self, names: list[str]) -> list[str]:
        """See :class:`Place`."""
        return [self.read(name) or "" for name in names]

    def hold(self, case: str) -> contextlib.AbstractContextManager[bool]:
        """See :class:`Place`."""
        return hold(self.root / case)

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """The folder itself."""
        yield self.root

    def check(self) -> None:
        """See :class:`Place`."""
        check_writable(self.root, "give another --output")


class Remote(Place):
    """Object storage.

    Args:
        url: of the folder.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.system, self.root = file_system(self.url)
        self.root = self.root.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str) -> str | None:
        """See :class:`Place`."""
        try:
            return str(self.system.cat_file(self._path(name)).decode())
        except FileNotFoundError:
            return None

    def write(self, name: str, text: str) -> None:
        """See :class:`Place`; object storage shows an object when it is complete."""
        path = self._path(name)
        self.system.makedirs(path.rpartition("/")[0], exist_ok=True)
        self.system.pipe_file(path, text.encode())

    def exists(self, name: str) -> bool:
        """See :class:`Place`."""
        return bool(self.system.exists(self._path(name)))

    def remove(self, name: str) -> None:
        """See :class:`Place`."""
        with contextlib.suppress(FileNotFoundError):
            self.system.rm_file(self._path(name))

    def find(self, folder: str, suffix: str) -> list[str]:
        """See :class:`Place`."""
        self.system.invalidate_cache()
        found = self.system.find(self._path(folder))
        return sorted(str(path)[len(self.root) + 1 :] for path in found if str(path).endswith(suffix))

    def read_all(self, names: list[str]) -> list[str]:
        """See :class:`Place`; the requests are made together."""
        if not names:
            return []
        found = self.system.cat([self._path(name) for name in names], on_error="omit")
        return [found.get(self._path(name), b"").decode() for name in names]

    @contextlib.contextmanager
    def hold(self, case: str) -> Iterator[bool]:
        """Always true: object storage cannot lock."""
        yield True

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """A temporary folder, uploaded at the end. A report, which says that a case is done, comes last."""
        with tempfile.TemporaryDirectory(prefix="convformer-out-") as folder:
            yield Path(folder)
            files = [file for file in Path(folder).rglob("*") if file.is_file() and not file.name.startswith(".")]
            names = sorted(file.relative_to(folder).as_posix() for file in files)
            reports = [name for name in names if name.endswith("_report.json")]
            for name in reports:
                self.remove(name)
            for name in [*(name for name in names if name not in reports), *reports]:
                target = self._path(name)
                self.system.makedirs(target.rpartition("/")[0], exist_ok=True)
                self.system.put_file(str(Path(folder) / name), target)

    def check(self) -> None:
        """See :class:`Place`."""
        try:
            self.write(".cohort/writable", "")
            self.remove(".cohort/writable")
        except Exception as error:  # each storage has errors of its own
            raise InputRefused(
                RefusalCode.CANNOT_WRITE, f"nothing can be written in {self.url}: {error}; give another --output"
            ) from error


def place_of(output: str) -> Place:
    """The output folder that a text names: a path or a URL."""
    return Remote(output) if is_url(output) else Folder(local_path(output))
