"""The tasks: one file each, which registers itself."""

from importlib import import_module
from pkgutil import iter_modules

from convformer_monai.tasks.generic import generic_task
from convformer_monai.tasks.task import Code, Label, Preview, Task, get_task, register_task

__all__ = ["Code", "Label", "Preview", "Task", "generic_task", "get_task", "register_task"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
