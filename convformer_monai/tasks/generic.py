"""The task of a bundle that names none: sizes of structures that are known by their names only."""

from __future__ import annotations

from collections.abc import Mapping

from convformer_monai.tasks.task import PHOTOGRAPH, VOLUME, Label, Task

__all__ = ["generic_task"]

COLOURS = ((220, 65, 65), (90, 190, 100), (65, 130, 220), (230, 180, 60), (160, 90, 200))


def generic_task(names: Mapping[int, str], photograph: bool) -> Task:
    """Makes a task that measures mL, of photographs pixels or mm2, and gives no codes.

    Args:
        names: of the structures, by their indices 1, 2, ...
        photograph: the network takes photographs.
    """
    labels = tuple(Label(index, name, name, COLOURS[index % len(COLOURS)]) for index, name in sorted(names.items()))
    if photograph:
        evaluation = "convformer_monai.evaluation"
        scores, report = f"{evaluation}.ScorePictures", f"{evaluation}.write_picture_report"
        return Task("generic", labels, image=PHOTOGRAPH, scores=scores, report=report)
    return Task("generic", labels, image=VOLUME)
