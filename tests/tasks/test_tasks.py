"""The tasks that come with the package, and the registry."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from convformer_monai.tasks import Task, get_task, register_task
from convformer_monai.tasks.task import Label, resolve

NAMES = ("cardiac_short_axis", "dermoscopy_lesion", "ct_hemorrhage")


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_a_task_is_there(name: str) -> None:
    task = get_task(name)
    assert task.name == name and task.phantom is not None
    for function in (task.measure, *task.flags, task.scores, task.report, task.phantom):
        assert callable(resolve(function))


def test_importing_tasks_costs_nothing() -> None:
    code = "import sys; import convformer_monai.tasks, convformer_monai.bundle; "
    code += "print(sorted({'torch', 'monai', 'numpy', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["", "liver", "no.such.thing", "convformer_monai.tasks.task.Label", "os.path"])
def test_unknown_tasks_are_named_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match="cardiac_short_axis, ct_hemorrhage|there is no") as error:
        get_task(name)
    assert name in str(error.value)


def test_names_and_indices_are_checked() -> None:
    task = get_task(NAMES[0])
    assert register_task(task) is task
    with pytest.raises(ValueError, match="there is a task 'cardiac_short_axis' already"):
        register_task(replace(task, max_parts=9))
    with pytest.raises(ValueError, match="indices 1, 2"):
        register_task(Task("other", (Label(2, "a", "a", (0, 0, 0)),)))
