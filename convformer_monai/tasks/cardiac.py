"""Ventricles and myocardium in short-axis cine MRI."""

from __future__ import annotations

from convformer_monai.tasks.task import ANATOMICAL, VOLUME, Code, Label, Preview, Task, register_task

__all__ = ["CARDIAC"]

CARDIAC = register_task(
    Task(
        name="cardiac_short_axis",
        labels=(
            Label(
                1,
                "RV",
                "right ventricle cavity",
                (65, 130, 220),
                Code("SCT", "53085002", "Right ventricle"),
                ANATOMICAL,
            ),
            Label(
                2,
                "MYO",
                "left ventricular myocardium",
                (90, 190, 100),
                Code("SCT", "74281007", "Myocardium"),
                ANATOMICAL,
            ),
            Label(
                3, "LV", "left ventricle cavity", (220, 65, 65), Code("SCT", "87878005", "Left ventricle"), ANATOMICAL
            ),
        ),
        image=VOLUME,
        modality="MR",
        measure="convformer_monai.measurements.ventricles.measure_ventricles",
        moments=("ed", "es"),
        flags=("convformer_monai.measurements.ventricles.ventricle_flags",),
        report="convformer_monai.evaluation.heart_report.write_heart_report",
        max_parts=2,
        within_stack=False,
        preview=Preview(widest_first=True),
        phantom="convformer_monai.phantoms.cardiac_phantom",
        phantom_dice=(("LV", 0.8),),
    )
)
