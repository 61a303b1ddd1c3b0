"""Evaluation on native grids, against untouched labels: scores, confidence intervals, files, pictures."""

from convformer_monai.evaluation.examples import draw_examples
from convformer_monai.evaluation.handlers import ScorePictures, ScoreVolumes
from convformer_monai.evaluation.metrics import StructureScore, VolumeScore, score_structure, score_volume
from convformer_monai.evaluation.of_task import check_cases, scores_of_task, write_report_of_task
from convformer_monai.evaluation.overlap import PictureScore, score_picture, summarise_pictures
from convformer_monai.evaluation.overlays import WriteOverlays, draw_overlay, draw_photo_overlay
from convformer_monai.evaluation.picture_report import write_picture_report
from convformer_monai.evaluation.report import write_report
from convformer_monai.evaluation.summary import Statistics, SummaryRow, bootstrap_interval, summarise

__all__ = [
    "PictureScore",
    "ScorePictures",
    "ScoreVolumes",
    "Statistics",
    "StructureScore",
    "SummaryRow",
    "VolumeScore",
    "WriteOverlays",
    "bootstrap_interval",
    "check_cases",
    "draw_examples",
    "draw_overlay",
    "draw_photo_overlay",
    "score_picture",
    "score_structure",
    "score_volume",
    "scores_of_task",
    "summarise",
    "summarise_pictures",
    "write_picture_report",
    "write_report",
    "write_report_of_task",
]
