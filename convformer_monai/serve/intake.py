"""An instance is taken: checked, on the disk and remembered, before its sender is told so.

Files are named by hashes, and folders, too: no text of a sender is part of these paths. What is sent again gets a
name of its own, so that nobody who removes an old file meets a new one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.serve.config import Limits
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.passing import is_passing
from convformer_monai.serve.records import Instance
from convformer_monai.serve.state import State

__all__ = ["INCOMING", "Intake", "NotTaken", "file_of", "short"]

INCOMING = "incoming"
TEMPORARY = ".part"
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
MAX_UID = 64
NO_SPACE, MISMATCH, NOT_UNDERSTOOD, NO_SUCH_CLASS = 0xA700, 0xA900, 0xC000, 0x0122  # PS3.4 table B.2-1
KEYWORDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
MB = 2**20
FRESH_S = 0.5  # for how long the free space is remembered


class NotTaken(InputRefused):
    """An instance that is not taken.

    Args:
        status: of the C-STORE response.
        reason: one of few words, for the counters.
        message: one line, without any value of the instance.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(RefusalCode.NOT_TAKEN, message)
        self.status, self.reason = status, reason


def short(uid: str) -> str:
    """A name for logs that leads nobody to a patient, but an administrator with the page to the study."""
    return hashlib.sha256(uid.encode()).hexdigest()[:12]


class Intake:
    """Takes instances from all sources; any thread may call it.

    Args:
        folder: of the node.
        state: its memory.
        limits: what is taken at most.
        classes: SOP classes that are taken.
        counts: gets what was taken, and what not.
    """

    def __init__(self, folder: Path, state: State, limits: Limits, classes: Iterable[str], counts: Counts) -> None:
        self.folder, self.state, self.limits, self.counts = folder, state, limits, counts
        self.classes = frozenset(classes)
        self._free, self._looked = 0, 0.0
        (folder / INCOMING).mkdir(parents=True, exist_ok=True)

    def has_space(self) -> bool:
        """Whether the disk is above its watermark."""
        if time.monotonic() - self._looked > FRESH_S:
            self._free, self._looked = shutil.disk_usage(self.folder).free, time.monotonic()
        return self._free >= self.limits.min_free_mb * MB

    def take(self, content: bytes, source: str, *, claimed: tuple[str, str] | None = None) -> Instance:
        """Takes one instance; one that came before is left as it is.

        Args:
            content: the file (PS3.10).
            source: AE title or source that it came from.
            claimed: SOP class and instance that its sender named.

        Returns:
            The instance.

        Raises:
            NotTaken: and nothing is kept.
        """
        try:
            taken = self._take(content, source, claimed)
        except NotTaken as refusal:
            self.counts.add("instances_refused", refusal.reason)
            raise
        except (sqlite3.Error, OSError, MemoryError) as error:
            self.counts.add("instances_refused", "storage")
            number = getattr(error, "errno", None)
            full = isinstance(error, sqlite3.Error) or number in (errno.ENOSPC, errno.EDQUOT)
            what = "the disk is full" if full else "it cannot be written or read now"
            raise NotTaken(NO_SPACE, "storage", f"an instance is not kept: {what}") from error
        return taken

    def _take(self, content: bytes, source: str, claimed: tuple[str, str] | None) -> Instance:
        if claimed is not None:
            self._check_uids(claimed[1])
            known = self.state.known(claimed[1])
            if known is not None and self._is_kept(known) and known.class_uid == claimed[0]:
                return self._repeated(known)
        if not self.has_space():
            raise NotTaken(NO_SPACE, "disk", "the disk is below its watermark, so nothing is taken")
        if len(content) > self.limits.instance_mb * MB:
            raise NotTaken(NO_SPACE, "instance size", "an instance is larger than the limit")
        temporary = self.folder / INCOMING / f"{secrets.token_hex(12)}{TEMPORARY}"
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            return self._keep(temporary, len(content), source, claimed)
        finally:
            temporary.unlink(missing_ok=True)

    def _keep(self, temporary: Path, size: int, source: str, claimed: tuple[str, str] | None) -> Instance:
        """Checks a file, gives it its place, and remembers it."""
        class_uid, uid, series, study = self._identity(temporary)
        if claimed is not None and claimed != (class_uid, uid):
            raise NotTaken(MISMATCH, "mismatch", "an instance is not what its sender says")
        known = self.state.known(uid)
        if known is not None and (known.study, known.series, known.class_uid) != (study, series, class_uid):
            raise NotTaken(
                MISMATCH, "mismatch", "an instance claims to be of another study, series or class than before"
            )
        if known is not None and self._is_kept(known):
            return self._repeated(known)
        count, total = self.state.study_size(study)
        if count >= self.limits.study_instances or total + size > self.limits.study_mb * MB:
            raise NotTaken(NO_SPACE, "study size", f"study {short(study)} is larger than the limit")
        place = Path(INCOMING) / _hashed(study) / f"{_hashed(uid)}.{secrets.token_hex(4)}.dcm"
        target = self.folder / place
        target.parent.mkdir(exist_ok=True)
        os.replace(temporary, target)
        _sync(target.parent)
        one = Instance(uid, study, series, class_uid, place.as_posix(), size, source)
        if not self.state.add_instance(one, None if known is None else known.file):
            target.unlink(missing_ok=True)
            raise NotTaken(NO_SPACE, "storage", "an instance comes twice at once; send it again")
        self.counts.add("instances_taken")
        return one

    def _is_kept(self, known: Instance) -> bool:
        """Whether the file of an instance is there, also if somebody else has tidied up."""
        return known.present and (self.folder / known.file).is_file()

    def _repeated(self, known: Instance) -> Instance:
        self.counts.add("instances_repeated")
        self.state.touch(known.study)
        return known

    def _identity(self, path: Path) -> tuple[str, str, str, str]:
        """SOP class, instance, series and study of a file."""
        from convformer_monai.readers.dicom.parsing import as_refusal, begins_like_dicom, read_header, silent_pydicom

        try:
            if not begins_like_dicom(path):
                raise NotTaken(NOT_UNDERSTOOD, "not DICOM", "what was sent is not a DICOM file")
            with silent_pydicom, as_refusal(path):
                header, has_pixels = read_header(path, KEYWORDS)
                values = [str(header.get(keyword) or "") for keyword in KEYWORDS]
        except NotTaken:
            raise
        except InputRefused as refusal:
            if is_passing(refusal):
                raise OSError("an instance cannot be read now") from refusal
            raise NotTaken(NOT_UNDERSTOOD, "damaged", f"an instance cannot be read ({refusal.code})") from None
        self._check_uids(*values)
        if values[0] not in self.classes:
            raise NotTaken(NO_SUCH_CLASS, "class", "an instance is of a class that is not taken")
        if not has_pixels:
            raise NotTaken(NOT_UNDERSTOOD, "damaged", "an instance ends before its pixels")
        return values[0], values[1], values[2], values[3]

    def _check_uids(self, *uids: str) -> None:
        if not all(len(uid) <= MAX_UID and UID.fullmatch(uid) for uid in uids):
            raise NotTaken(MISMATCH, "uid", "an instance has a UID that is missing or malformed")


def file_of(dataset: bytes, class_uid: str, uid: str, transfer_syntax: str) -> bytes:
    """Puts the file meta information in front of an encoded dataset (PS3.10 section 7.1).

    Args:
        dataset: as it was sent.
        class_uid: SOP class.
        uid: SOP instance.
        transfer_syntax: in which it is encoded.
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_file_meta_info
    from pydicom.uid import UID as PydicomUid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = PydicomUid(class_uid)
    meta.MediaStorageSOPInstanceUID = PydicomUid(uid)
    meta.TransferSyntaxUID = PydicomUid(transfer_syntax)
    head = DicomBytesIO()
    head.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(head, meta)
    return head.getvalue() + dataset


def _hashed(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
