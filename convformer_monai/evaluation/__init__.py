"""Evaluation on native grids, against untouched labels: scores, confidence intervals, files, pictures."""

from convformer_monai.evaluation.handlers import ScoreVolumes
from convformer_monai.evaluation.metrics import StructureScore, VolumeScore, score_structure, score_volume
from convformer_monai.evaluation.overlays import WriteOverlays, draw_overlay
from convformer_monai.evaluation.report import write_report
from convformer_monai.evaluation.summary import Statistics, SummaryRow, bootstrap_interval, summarise

__all__ = [
    "ScoreVolumes",
    "Statistics",
    "StructureScore",
    "SummaryRow",
    "VolumeScore",
    "WriteOverlays",
    "bootstrap_interval",
    "draw_overlay",
    "score_structure",
    "score_volume",
    "summarise",
    "write_report",
]
