"""Intracranial blood in non-contrast head CT."""

from __future__ import annotations

from convformer_monai.tasks.task import ABNORMAL, VOLUME, Code, Label, Preview, Task, register_task

__all__ = ["HEMORRHAGE"]

HEMORRHAGE = register_task(
    Task(
        name="ct_hemorrhage",
        labels=(
            Label(
                1,
                "hemorrhage",
                "intracranial hemorrhage",
                (220, 65, 65),
                Code("SCT", "50960005", "Hemorrhage"),
                ABNORMAL,
                Code("SCT", "12738006", "Brain"),
            ),
        ),
        image=VOLUME,
        modality="CT",
        measure="convformer_monai.measurements.hemorrhage.measure_hemorrhage",
        flags=("convformer_monai.measurements.hemorrhage.hemorrhage_flags",),
        max_parts=10,
        empty_means="this does not rule one out: see the limitations in the model card",
        # Level 40, width 80; where in the head the blood lies matters.
        preview=Preview(window=(0.0, 80.0), window_below=-200.0, whole_slices=True),
        phantom="convformer_monai.phantoms.head_ct_phantom",
        phantom_dice=(("hemorrhage", 0.6),),
    )
)
