"""Which network segments a patient whom it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from convformer_monai.bundle import Bundle
from convformer_monai.training.handlers import BEST
from convformer_monai.training.head_ct_pool import FOLDS, head_ct_folds

__all__ = ["ALL_FOLDS", "fold_of_patients", "fold_weights"]

ALL_FOLDS = range(FOLDS)


def fold_of_patients(bundle: str | Path, dataset_dir: Path) -> Callable[[str], int]:
    """Returns what tells the fold that a patient is held out of; 0 of those whom no fold was trained on.

    Args:
        bundle: whose ``train.json`` names the lists that folds are made of.
        dataset_dir: of the training.
    """
    known = head_ct_folds(dataset_dir, Bundle(bundle).read("train")["sections"])
    return lambda patient: known.get(patient, 0)


def fold_weights(runs: Path, fold: int) -> Path:
    """The weights that were trained without the patients of a fold."""
    return runs / f"fold{fold}" / BEST
