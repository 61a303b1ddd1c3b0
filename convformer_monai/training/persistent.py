"""Prepared cases on disk, of which single slices are read: training on data larger than memory.

MONAI's ``PersistentDataset`` keeps what preprocessing makes of a case in one file, and reads the whole file back.
A batch takes single slices of many volumes, so :class:`PersistentArrays` keeps each array of a case in a NumPy file of
its own, whose rows are read with one system call each (:class:`StoredRows`). Nothing of a case stays in memory but
where it is; recently read files stay in the operating system's cache, which gives way when memory is needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.data import PersistentDataset
from monai.transforms import Transform
from torch import Tensor

import convformer_monai
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.file_stamp import file_stamp
from convformer_monai.training.processes import rank_and_size, wait_for_all

__all__ = ["PersistentArrays", "StoredRows", "stored_rows"]

READERS = 8  # threads: a disk serves several reads at a time better than one after another


@dataclass(frozen=True)
class _Stored:
    """An array in a file: (rows, ...)."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    @classmethod
    def find(cls, path: Path) -> _Stored | None:
        """The array in a NumPy file; None if there is no whole one."""
        try:
            with open(path, "rb") as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
                if read is None:
                    return None
                shape, in_columns, dtype = read(file)
                found = cls(str(path), shape, dtype, file.tell())
                whole = os.fstat(file.fileno()).st_size == found.offset + int(np.prod(shape)) * dtype.itemsize
        except (OSError, ValueError):
            return None
        return found if whole and not in_columns else None


class PersistentArrays(PersistentDataset):
    """MONAI's ``PersistentDataset`` of dictionaries of arrays, each in a ``.npy`` file of the case's own folder.

    The folder's name is a hash of the case, of size and time of the files that it names, those in folders too, of the
    transform and of the package versions: whatever changes, the case is prepared anew. Folders appear whole or not at
    all, so that a run that was killed goes on, and several processes share one ``cache_dir``.

    Args:
        data: dictionaries that can be pickled.
        transform: makes a dictionary of tensors (rows, ...) of one; can be pickled.
        cache_dir: folder; made if missing. It is never emptied: delete it to get the space back.

    Raises:
        InputRefused: ``CANNOT_WRITE`` if the folder cannot be made.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], transform: Transform, cache_dir: str) -> None:
        try:
            super().__init__(data, transform, cache_dir, hash_func=_case_hash, hash_transform=_transform_hash)
        except (OSError, ValueError) as error:
            raise _unwritable(cache_dir, error) from error

    def _cachecheck(self, item_transformed: Mapping[str, Any]) -> dict[str, _Stored]:
        """Where the arrays of a case are; prepares and writes them if they are not there.

        Raises:
            InputRefused: ``CANNOT_WRITE`` if they cannot be written.
        """
        assert self.cache_dir is not None
        folder = self.cache_dir / (self.hash_func(item_transformed).decode() + self.transform_hash[:16])
        found = _arrays_in(folder)
        if found is None:
            arrays = self._pre_transform(dict(item_transformed))  # type: ignore[no-untyped-call]
            try:
                self._write(arrays, folder)
            except OSError as error:
                raise _unwritable(folder, error) from error
            found = _arrays_in(folder)
            if found is None:
                raise InputRefused(RefusalCode.CANNOT_WRITE, f"{folder} is not what was written; delete the folder")
        return found

    def _write(self, arrays: Mapping[str, Tensor], folder: Path) -> None:
        part = tempfile.mkdtemp(dir=self.cache_dir, prefix=".part.")
        try:
            for name, array in arrays.items():
                np.save(Path(part) / f"{name}.npy", np.ascontiguousarray(array.cpu().numpy()))
            if folder.exists() and _arrays_in(folder) is None:  # damaged
                shutil.rmtree(folder)
            os.replace(part, folder)
        except OSError:
            if _arrays_in(folder) is None:  # else another process was faster
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _arrays_in(folder: Path) -> dict[str, _Stored] | None:
    """The arrays of a case by name; None if one is damaged, or there is none."""
    files = {path.stem: _Stored.find(path) for path in folder.glob("*.npy")}
    return {name: one for name, one in files.items() if one} if files and all(files.values()) else None


class StoredRows:
    """The rows of one array of many cases, end to end, as a tensor that is read where it is indexed.

    Args:
        arrays: of the cases, of equal type and equal shape but for the number of rows.

    Raises:
        ValueError: types or shapes differ.
    """

    device = torch.device("cpu")

    def __init__(self, arrays: Sequence[_Stored]) -> None:
        kinds = {(array.shape[1:], array.dtype) for array in arrays}
        if len(kinds) != 1:
            raise ValueError(f"arrays must have one shape and type, got {sorted(map(str, kinds))}")
        ((self._row, self._dtype),) = kinds
        self._arrays = list(arrays)
        self._ends = np.cumsum([array.shape[0] for array in arrays])
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._ends[-1])

    @property
    def counts(self) -> list[int]:
        """Rows of each case."""
        return [array.shape[0] for array in self._arrays]

    @property
    def shape(self) -> torch.Size:
        """(rows, ...)."""
        return torch.Size((len(self), *self._row))

    def __getitem__(self, index: int | Tensor) -> Tensor:
        """One row for a number, ``(*index.shape, ...)`` for a tensor of numbers.

        Raises:
            IndexError: there is no such row.
            OSError: a file is gone or cut short.
        """
        numbers = np.asarray(index)
        flat = numbers.ravel()
        flat = np.where(flat < 0, flat + len(self), flat)
        if flat.size and not (flat.min() >= 0 and flat.max() < len(self)):
            raise IndexError(f"there are {len(self)} rows, got {int(flat.min())} to {int(flat.max())}")
        rows = np.empty((flat.size, *self._row), self._dtype)
        if flat.size:
            self._pool = self._pool or ThreadPoolExecutor(READERS)
            list(self._pool.map(self._read, flat.tolist(), np.split(rows, flat.size)))
        return torch.from_numpy(rows).view((*numbers.shape, *self._row))

    def whole(self) -> Tensor:
        """All rows, in memory; for small arrays."""
        parts = [np.load(array.path) for array in self._arrays]
        return torch.from_numpy(np.concatenate(parts))

    def _read(self, number: int, row: np.ndarray[Any, Any]) -> None:
        case = int(np.searchsorted(self._ends, number, side="right"))
        array = self._arrays[case]
        place = number - (int(self._ends[case - 1]) if case else 0)
        with open(array.path, "rb", buffering=0) as file:
            file.seek(array.offset + place * row.nbytes)
            if file.readinto(row.data.cast("B")) != row.nbytes:
                raise OSError(f"{array.path} was cut short")


def stored_rows(data: Sequence[Mapping[str, Any]], transform: Transform, cache_dir: str) -> dict[str, StoredRows]:
    """Prepares cases, each process its part of them, and opens what all have prepared.

    Args:
        data: see :class:`PersistentArrays`.
        transform: makes dictionaries of the same names.
        cache_dir: see :class:`PersistentArrays`.

    Returns:
        The arrays by name.

    Raises:
        InputRefused: see :class:`PersistentArrays`.
    """
    cases = PersistentArrays(data, transform, cache_dir)
    rank, size = rank_and_size()
    for index in range(rank, len(cases), size):
        cases[index]
    wait_for_all()
    found: list[dict[str, _Stored]] = [cases[index] for index in range(len(cases))]
    return {name: StoredRows([case[name] for case in found]) for name in found[0]}


def _unwritable(folder: str | Path, error: Exception) -> InputRefused:
    reason = getattr(error, "strerror", None) or error
    return InputRefused(RefusalCode.CANNOT_WRITE, f"prepared cases cannot be kept in {folder}: {reason}")


def _case_hash(case: Mapping[str, Any]) -> bytes:
    """A hash of a case, and of the names, sizes and times of the files and folders that it names."""
    words = [*case.values()]
    for value in case.values():
        words += value.values() if isinstance(value, dict) else []
    stamps = [str(file_stamp(Path(word))) for word in words if isinstance(word, str) and os.path.exists(word)]
    content = json.dumps([case, sorted(stamps)], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:32].encode()


class _Pickler(pickle.Pickler):
    """Pickles random states, which a deterministic transform carries but does not use, as a word."""

    def persistent_id(self, obj: Any) -> str | None:
        return "random state" if isinstance(obj, np.random.RandomState) else None


def _transform_hash(transforms: Sequence[Transform]) -> bytes:
    """A hash of transforms with their arguments, and of the packages' versions."""
    content = io.BytesIO()
    _Pickler(content, pickle.HIGHEST_PROTOCOL).dump((transforms, monai.__version__, convformer_monai.__version__))
    return hashlib.sha256(content.getvalue()).hexdigest().encode()
