"""MONAI without the optional packages that a command does not use; they take three quarters of its import.

``import monai`` imports all of MONAI, and with it every optional package that it finds: ignite (and by it torch's
distributed tensors), pandas, matplotlib, scipy.signal and more. MONAI works without them
(``monai.utils.optional_import``), and no shipped bundle needs one to segment. So they are hidden while MONAI is
imported, and available again afterwards.

Only the command line does this. ``import convformer_monai`` leaves MONAI as it is.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from convformer_monai.bundle import BUNDLES, FOLDER_VARIABLE

__all__ = ["UNUSED", "lean_monai"]

UNUSED = (
    "batchgenerators",
    "clearml",
    "huggingface_hub",
    "ignite",
    "itk",
    "jsonschema",
    "matplotlib",
    "mlflow",
    "nni",
    "onnx",
    "onnxruntime",
    "optuna",
    "pandas",
    "psutil",
    "requests",
    "scipy.optimize",
    "scipy.signal",
    "scipy.sparse.linalg",
    "scipy.spatial",
    "skimage",
    "sklearn",
    "tensorboard",
    "tensorboardX",
    "tifffile",
    "torch.utils.tensorboard",
    "torchvision",
    "transformers",
    "zarr",
)


@contextmanager
def lean_monai(bundle: str) -> Iterator[None]:
    """Within it, the first import of MONAI takes place without :data:`UNUSED`; nothing happens if it is there already.

    What MONAI found missing stays missing for MONAI in this process: its trainers, its TensorBoard logs, some of its
    transforms. All else imports these packages as usual.

    Args:
        bundle: that the command runs. The configs of a user's own may name any part of MONAI, so for them, and for all
            other names than those of the shipped bundles, MONAI is imported as it is.
    """
    if bundle not in BUNDLES or FOLDER_VARIABLE in os.environ:
        yield
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds MONAI as Python does, and has it loaded by :class:`_Loader`; once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of MONAI; none of anything else."""
        if fullname != "monai":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads MONAI by its own loader, with the packages hidden."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Imports MONAI, and its bundles, which it leaves out itself."""
        hidden = [name for name in UNUSED if name not in sys.modules]
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
        try:
            module.__loader__ = self.loader
            if module.__spec__ is not None:
                module.__spec__.loader = self.loader
            self.loader.exec_module(module)
            importlib.import_module("monai.bundle")
        finally:
            for name in hidden:
                sys.modules.pop(name, None)
