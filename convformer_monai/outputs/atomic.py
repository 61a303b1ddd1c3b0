"""Files that appear complete or not at all, one alone or several of a case together."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs.journal import SUFFIX as JOURNAL
from convformer_monai.outputs.journal import Journal

__all__ = ["AtomicFiles", "CannotWrite", "check_writable", "transaction", "write_atomically", "write_text"]

NO_HARD_LINKS = {errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL}


class CannotWrite(InputRefused, OSError):
    """A result that could not be written (disk full, folder read-only); also an ``OSError`` for those who catch these.

    It is neither a bad input nor our fault, but only the user can help, so it ends as a refusal does: one line, exit 2.
    """


@dataclass
class _Staged:
    """A file on its way: complete under the temporary name, not yet under its own."""

    target: Path
    temporary: Path
    backup: Path | None = None
    placed: bool = False


class AtomicFiles:
    """Several files that appear together, when the ``with`` block ends well, or not at all.

    Each is written under a hidden, unique name in the folder of its target, flushed to the disk, read back and checked.
    At the end all are renamed; if one cannot be, those before it are undone and what they replaced is put back. A file
    that somebody else makes in the meantime is not overwritten either. A run that is killed leaves a journal, by which
    :func:`convformer_monai.outputs.journal.tidy_up` ends what it began.

    Args:
        overwrite: replace files that exist.
    """

    def __init__(self, *, overwrite: bool = False) -> None:
        self.overwrite = overwrite
        self._staged: list[_Staged] = []
        self._journal: Journal | None = None

    def __enter__(self) -> AtomicFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._commit()
        finally:
            self._discard()
            if self._journal is not None:
                self._journal.close()

    def write(
        self, path: str | os.PathLike[str], write: Callable[[Path], object], check: Callable[[Path], bool]
    ) -> None:
        """Writes and checks a file under a temporary name.

        Args:
            path: where the file is to appear; its folder must exist.
            write: writes the file to the path that it is given, which ends as ``path`` does.
            check: reads that file again and tells whether it holds what it should; it may also raise.

        Raises:
            InputRefused: ``EXISTS`` if the file exists and is not to be overwritten.
            CannotWrite: if it cannot be written, or does not hold what was written.
        """
        target = Path(path)
        if not self.overwrite and (os.path.lexists(target) or any(file.target == target for file in self._staged)):
            raise _exists(target)
        suffix = ".nii.gz" if target.name.lower().endswith(".nii.gz") else target.suffix
        temporary = _hidden(target, f".partial{suffix}")
        try:
            if self._journal is None:
                self._journal = Journal(target.parent)
            self._journal.note(target=self._relative(target), temporary=self._relative(temporary))
            self._staged.append(_Staged(target, temporary))
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise _cannot_write(target, error) from error
        try:
            good = check(temporary)
        except Exception as error:  # whatever it is: the file cannot be read back
            raise CannotWrite(
                RefusalCode.CANNOT_WRITE, f"{target} cannot be read back after writing: {error}"
            ) from error
        if not good:
            raise CannotWrite(RefusalCode.CANNOT_WRITE, f"{target} does not hold what was written; check the disk")

    def where(self, path: str | os.PathLike[str]) -> Path:
        """Returns where the content of a file is now: under its temporary name if it was written here, else its own."""
        return next((file.temporary for file in self._staged if file.target == Path(path)), Path(path))

    def _commit(self) -> None:
        """Gives every file its name, or none."""
        if self._journal is not None:
            self._journal.note(commit=True, new=not self.overwrite)
        for index, file in enumerate(self._staged):
            try:
                self._put(file)
            except BaseException as error:
                for done in reversed(self._staged[: index + 1]):
                    _undo(done)
                if isinstance(error, FileExistsError) and not self.overwrite:
                    raise _exists(file.target) from error
                if isinstance(error, OSError):
                    raise _cannot_write(file.target, error) from error
                raise
        for folder in {file.target.parent for file in self._staged}:
            _sync_folder(folder)

    def _put(self, file: _Staged) -> None:
        """Renames one file."""
        if not self.overwrite:
            _rename_new(file.temporary, file.target)
        else:
            if os.path.lexists(file.target) and len(self._staged) > 1:
                file.backup = _hidden(file.target, ".old")
                if self._journal is not None:
                    self._journal.note(target=self._relative(file.target), backup=self._relative(file.backup))
                _set_aside(file.target, file.backup)
            os.replace(file.temporary, file.target)
        file.placed = True

    def _relative(self, path: Path) -> str:
        """A path as the journal notes it: seen from its folder."""
        assert self._journal is not None
        return os.path.relpath(path, self._journal.path.parent)

    def _discard(self) -> None:
        """Removes what is not under its own name."""
        for file in self._staged:
            for path in (file.temporary, file.backup):
                if path is not None:
                    with contextlib.suppress(OSError):
                        path.unlink(missing_ok=True)


def write_atomically(
    path: str | os.PathLike[str],
    write: Callable[[Path], object],
    check: Callable[[Path], bool],
    *,
    overwrite: bool = False,
) -> None:
    """Writes one file that appears complete or not at all; see :meth:`AtomicFiles.write`.

    Args:
        path: where the file is to appear; its folder must exist.
        write: writes the file to the path that it is given.
        check: reads that file again and tells whether it holds what it should.
        overwrite: replace a file that exists.

    Raises:
        InputRefused: ``EXISTS`` if the file exists and is not to be overwritten.
        CannotWrite: if it cannot be written; nothing is left behind then.
    """
    with AtomicFiles(overwrite=overwrite) as files:
        files.write(path, write, check)


def transaction(files: AtomicFiles | None, overwrite: bool) -> AbstractContextManager[AtomicFiles]:
    """Returns the caller's open transaction, or a new one that ends with the block.

    Args:
        files: the transaction that a writer was asked to join, if any.
        overwrite: for a new one: replace files that exist.
    """
    return AtomicFiles(overwrite=overwrite) if files is None else nullcontext(files)


def _hidden(target: Path, suffix: str) -> Path:
    """Returns a new hidden name beside the target, however long the target's own name is."""
    return target.with_name(f".{secrets.token_hex(8)}{suffix}")


def check_writable(folder: Path, advice: str) -> None:
    """Makes a folder, and refuses one in which nothing can be written.

    The file that is written to try it is named as a journal: what a run leaves that is killed just then, the next one
    removes.

    Args:
        folder: to write to.
        advice: what the user can do.

    Raises:
        InputRefused: ``CANNOT_WRITE``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{secrets.token_hex(8)}{JOURNAL}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise InputRefused(
            RefusalCode.CANNOT_WRITE, f"nothing can be written in {folder}: {error.strerror}; {advice}"
        ) from error


def _rename_new(source: Path, target: Path) -> None:
    """Renames a file to a name that nobody has; ``os.rename`` would overwrite.

    Raises:
        FileExistsError: if somebody has it.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))  # reserves the name
        try:
            os.replace(source, target)
        except OSError:
            target.unlink()
            raise


def _set_aside(target: Path, backup: Path) -> None:
    """Keeps a file that is about to be replaced, under another name."""
    if target.is_dir() and not target.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    try:
        os.link(target, backup, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        os.replace(target, backup)


def _undo(file: _Staged) -> None:
    """Puts back what was there before the file was renamed."""
    with contextlib.suppress(OSError):
        if file.backup is not None:
            os.replace(file.backup, file.target)
        elif file.placed:
            file.target.unlink()


def _sync_folder(folder: Path) -> None:
    """Flushes the names of a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _exists(target: Path) -> InputRefused:
    return InputRefused(
        RefusalCode.EXISTS, f"{target} exists already; give --overwrite to replace it, or another output folder"
    )


def _cannot_write(target: Path, error: OSError) -> CannotWrite:
    if isinstance(error, CannotWrite):
        return error
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    refusal = CannotWrite(
        RefusalCode.CANNOT_WRITE, f"{target} cannot be written: {reason}; free space or give another folder"
    )
    refusal.errno = error.errno
    return refusal


def write_text(path: Path, text: str, *, overwrite: bool = False, files: AtomicFiles | None = None) -> None:
    """Writes JSON or CSV in UTF-8, complete or not at all.

    Bytes of a file name that are no UTF-8 are escaped as JSON does it, and as it reads them back.

    Args:
        path: where; its folder must exist.
        text: the content.
        overwrite: replace a file that exists.
        files: an open transaction to join.

    Raises:
        InputRefused: if the file exists, or cannot be written.
    """
    content = text.encode(errors="backslashreplace")
    with transaction(files, overwrite) as transfer:
        transfer.write(path, lambda file: file.write_bytes(content), lambda file: file.read_bytes() == content)
