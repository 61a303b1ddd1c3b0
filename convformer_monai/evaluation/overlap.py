"""Scores of one segmented picture: Dice and Jaccard of one structure, in pixels.

A structure in neither mask scores 1, in one of them only 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convformer_monai.evaluation.summary import Statistics, describe
from convformer_monai.measurements.overlap import dice

__all__ = ["PictureScore", "PictureSummary", "score_picture", "summarise_pictures"]

ALL = "all"


@dataclass(frozen=True)
class PictureScore:
    """How well one structure of one picture was segmented.

    Attributes:
        case: identifier.
        patient: identifier; several pictures may come from one patient.
        source: data set that it comes from, or empty.
        dice: 0-1.
        jaccard: 0-1.
        predicted_pixels: size of the predicted mask.
        reference_pixels: size of the reference mask.
    """

    case: str
    patient: str
    source: str
    dice: float
    jaccard: float
    predicted_pixels: int
    reference_pixels: int


def score_picture(
    case: str, patient: str, source: str, predicted: NDArray[np.bool_], reference: NDArray[np.bool_]
) -> PictureScore:
    """Scores one picture.

    Args:
        case: identifier.
        patient: identifier; empty if unknown, then the case's own.
        source: data set that it comes from, or empty.
        predicted: mask of any shape.
        reference: mask of the same shape.

    Raises:
        ValueError: if the masks differ in shape.
    """
    if predicted.shape != reference.shape:
        raise ValueError(f"predicted and reference must have one shape, got {predicted.shape}, {reference.shape}")
    both = int(np.count_nonzero(predicted & reference))
    sizes = int(np.count_nonzero(predicted)), int(np.count_nonzero(reference))
    either = sum(sizes) - both
    jaccard = both / either if either else 1.0
    return PictureScore(case, patient or case, source, dice(predicted, reference), jaccard, *sizes)


@dataclass(frozen=True)
class PictureSummary:
    """What the scores of pictures are like.

    Attributes:
        source: data set, or ``all``.
        pictures: how many.
        dice: mean over pictures, with a bootstrap interval that draws patients.
        jaccard: the same.
        low: share of pictures whose Jaccard index is below the threshold, with its interval, as above.
    """

    source: str
    pictures: int
    dice: Statistics
    jaccard: Statistics
    low: Statistics


def summarise_pictures(scores: Sequence[PictureScore], threshold: float = 0.65) -> list[PictureSummary]:
    """Summarises scores for each source, and all together at the end.

    Args:
        scores: of all pictures.
        threshold: of the Jaccard index, below which a result is taken for useless.

    Raises:
        ValueError: if there is no score.
    """
    if not scores:
        raise ValueError("scores must not be empty")
    sources = sorted({score.source for score in scores} - {""})
    rows = []
    for source in [*(sources if len(sources) > 1 else []), ALL]:
        chosen = [score for score in scores if source in (ALL, score.source)]
        patients = [score.patient for score in chosen]
        rows.append(
            PictureSummary(
                source=source,
                pictures=len(chosen),
                dice=describe([score.dice for score in chosen], patients),
                jaccard=describe([score.jaccard for score in chosen], patients),
                low=describe([float(score.jaccard < threshold) for score in chosen], patients),
            )
        )
    return rows
