"""What a bundle's evaluation config takes from its task: the kind of image, the scores and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.glance import glance
from convformer_monai.tasks.task import Task, resolve

__all__ = ["check_cases", "scores_of_task", "write_report_of_task"]


def check_cases(task: Task, cases: Sequence[Mapping[str, Any]], advice: str = "give another list by --section") -> None:
    """Refuses cases of another kind than the task's, before the network runs.

    Args:
        task: of the bundle.
        cases: as :func:`convformer_monai.datalist.read_cases` gives them.
        advice: what to do instead.

    Raises:
        InputRefused: ``WRONG_KIND``.
    """
    for case in cases:
        seen = glance(Path(case["image"]))
        if seen.image is not None and task.image not in (None, seen.image):
            what = f"is a {seen.image}, and {task.name} is evaluated on {task.image}s"
            raise InputRefused(RefusalCode.WRONG_KIND, f"{case['image']} {what}; {advice}")


def scores_of_task(task: Task, listeners: Sequence[Callable[..., Any]] = ()) -> Any:
    """Makes the handler that scores the task's masks; see :class:`convformer_monai.evaluation.handlers.ScoreMasks`.

    Args:
        task: of the bundle.
        listeners: called with each scored volume.
    """
    return resolve(task.scores)(task.labels, listeners)


def write_report_of_task(task: Task, **content: Any) -> str:
    """Writes the evaluation's files; see :func:`convformer_monai.evaluation.write_report`.

    Args:
        task: of the bundle.
        content: arguments of the task's report.

    Returns:
        What to print.
    """
    text: str = resolve(task.report)(**content)
    return text
