"""What a bundle's evaluation config takes from its task: the scores and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from convformer_monai.tasks.task import Task, resolve

__all__ = ["scores_of_task", "write_report_of_task"]


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
