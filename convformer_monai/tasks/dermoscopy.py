"""The lesion on a dermoscopic photograph."""

from __future__ import annotations

from convformer_monai.tasks.task import ABNORMAL, PHOTOGRAPH, Code, Label, Task, register_task

__all__ = ["DERMOSCOPY"]

DERMOSCOPY = register_task(
    Task(
        name="dermoscopy_lesion",
        labels=(
            Label(
                1,
                "lesion",
                "skin lesion",
                (240, 200, 60),
                Code("SCT", "95324001", "Skin lesion"),
                ABNORMAL,
                Code("SCT", "39937001", "Skin"),
            ),
        ),
        image=PHOTOGRAPH,
        modality="photo",
        measure="convformer_monai.measurements.lesion.measure_lesion",
        max_parts=3,
        scores="convformer_monai.evaluation.ScorePictures",
        report="convformer_monai.evaluation.write_picture_report",
        phantom="convformer_monai.phantoms.dermoscopy_phantom",
        phantom_dice=(("lesion", 0.8),),
    )
)
