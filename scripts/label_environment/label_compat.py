"""Lets MONAI Label 0.8.5 run beside pydicom 3 and the CPU build of torch; imported at every start by label_compat.pth.

- pydicom-seg 0.4.1 imports ``pydicom._storage_sopclass_uids``, whose names pydicom 3 has in ``pydicom.uid``.
- torchvision's wheel is built for CUDA; its Python part works once the operators that it registers are defined.
"""

import importlib.abc
import importlib.machinery
import sys

MOVED = "pydicom._storage_sopclass_uids"
OPERATORS = ("nms", "qnms")


class UidLoader(importlib.abc.Loader):
    def create_module(self, spec):
        return None

    def exec_module(self, module):
        from pydicom import uid

        module.__dict__.update({name: value for name, value in vars(uid).items() if not name.startswith("__")})


class Finder(importlib.abc.MetaPathFinder):
    def __init__(self):
        self.library = None

    def find_spec(self, name, path=None, target=None):
        if name == MOVED:
            return importlib.machinery.ModuleSpec(name, UidLoader())
        if name == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in OPERATORS:
                if not hasattr(torch.ops.torchvision, operator):
                    self.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, Finder())
