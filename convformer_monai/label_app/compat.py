"""MONAI Label 0.8.5 beside pydicom 3: its pydicom-seg 0.4.1 imports a module that pydicom 3 no longer has."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

__all__ = ["serve_moved_uids"]

MOVED = "pydicom._storage_sopclass_uids"


class _Loader(importlib.abc.Loader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        from pydicom import uid

        module.__dict__.update({name: value for name, value in vars(uid).items() if not name.startswith("__")})


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, _Loader()) if name == MOVED else None


def serve_moved_uids() -> None:
    """Lets ``import pydicom._storage_sopclass_uids`` find the names in ``pydicom.uid``, where pydicom 3 has them."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
