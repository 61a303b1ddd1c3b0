"""Fine-tuning on corrected labels: the bundle's own training with its ``configs/finetune.json``, into a new version.

The shipped weights are only read. A new version goes into use if it is at least as good as the one before on the images
that are kept for validation, or if ``use_if_worse`` asks for it; with a single labelled image that is the image itself,
which tells little.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.train import TrainTask

from convformer_monai.bundle_run import bundle_command
from convformer_monai.datalist import OUTSIDE
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.label_app.labels_in import read_labels
from convformer_monai.label_app.options import LabelOptions
from convformer_monai.label_app.versions import Version
from convformer_monai.measurements.overlap import dice
from convformer_monai.outputs.atomic import write_text
from convformer_monai.segmenter import Segmenter
from convformer_monai.training.handlers import BEST
from convformer_monai.training.plan import CHECKPOINT, run_logged

__all__ = ["FineTuneTask", "split"]

logger = logging.getLogger(__name__)

MAX_EPOCHS = 1000
DEFAULT_EPOCHS = 20
DEFAULT_SPLIT = 0.2
LOG = "log.txt"


def split(cases: Sequence[Mapping[str, Any]], share: float) -> tuple[list[Any], list[Any]]:
    """Divides labelled images into those to train on and those to validate on, spread over the list.

    Args:
        cases: sorted by id.
        share: of the validation, 0-1; at least one case goes to each side if there are two or more.

    Returns:
        Training and validation cases; of one case twice the same.
    """
    if len(cases) == 1:
        return list(cases), list(cases)
    count = min(max(1, round(share * len(cases))), len(cases) - 1)
    chosen = {int(index) for index in np.linspace(0, len(cases) - 1, count).round()}
    kept = [case for index, case in enumerate(cases) if index not in chosen]
    return kept, [case for index, case in enumerate(cases) if index in chosen]


class FineTuneTask(TrainTask):  # type: ignore[misc]
    """Trains a new version of a bundle's weights.

    Args:
        options: of the server.
    """

    def __init__(self, options: LabelOptions) -> None:
        super().__init__(f"Fine-tuning on your labels; {options.bundle.metadata['description']}")
        self.options = options

    def config(self) -> dict[str, Any]:
        """What viewers offer to change."""
        return {"max_epochs": DEFAULT_EPOCHS, "val_split": DEFAULT_SPLIT, "use_if_worse": False}

    def stats(self) -> dict[str, Any]:
        """The versions so far, in the form that viewers show: the best metric is that of the version in use."""
        versions = self.options.versions
        return {
            "current": versions.current.number,
            "versions": [str(version) for version in versions.all()],
            "best_metric": versions.current.dice,
            "total_time": 0,
        }

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Trains.

        Args:
            request: ``max_epochs`` (1 to 1000), ``val_split`` (0 to 1) and ``use_if_worse``.
            datastore: the images and labels.

        Returns:
            What became of it: the version's number, Dice before and after, and whether it is in use.

        Raises:
            InputRefused: ``NO_LABELS`` without labelled images, ``OPTION`` if a wish is wrong, ``TRAINING`` if the
                training fails.
        """
        epochs = _number(request, "max_epochs", DEFAULT_EPOCHS, 1, MAX_EPOCHS)
        share = _number(request, "val_split", DEFAULT_SPLIT, 0, 1)
        cases = datastore.datalist()
        if not cases:
            raise InputRefused(RefusalCode.NO_LABELS, "no image has a final label yet; save one first")
        train, val = split(cases, share)
        parent = self.options.versions.current
        folder = self.options.work / "trainings" / datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
        best = self._train(folder, train, val, int(epochs))
        before, after = self._dice([self._weights(parent), best], val, datastore)
        used = after >= before or request.get("use_if_worse") is True
        ids = [case["id"] for case in train]
        version = self.options.versions.add(best, cases=ids, dice=after, dice_before=before, use=used)
        logger.info("%s; %s", version, "in use" if used else "NOT in use, since it is worse on the validation images")
        return {"version": version.number, "dice": after, "dice_before": before, "in_use": used}

    def _weights(self, version: Version) -> Path:
        return self.options.versions.weights(version) or self.options.bundle.weights

    def _train(self, folder: Path, train: Sequence[Any], val: Sequence[Any], epochs: int) -> Path:
        """Runs the bundle's training; returns the file of the best weights."""
        folder.mkdir(parents=True)
        lists = {"train": list(train), "val": list(val)}
        write_text(folder / "datalist.json", json.dumps(lists, indent=2) + "\n")
        values = {"pretrained": str(self._weights(self.options.versions.current)), "max_epochs": epochs}
        command = bundle_command(self.options.bundle.root, ["train", "finetune"], str(folder), folder, values)
        logger.info("training on %d images, validating on %d: %s", len(train), len(val), folder / LOG)
        try:
            threads = str(os.cpu_count() or 1)
            run_logged(command, {**os.environ, "OMP_NUM_THREADS": threads, OUTSIDE: "1"}, folder / LOG)
        except subprocess.CalledProcessError as error:
            said = [line for line in (folder / LOG).read_text(errors="replace").splitlines() if line.strip()]
            last = said[-1].strip() if said else f"exit code {error.returncode}"
            raise InputRefused(RefusalCode.TRAINING, f"the training failed: {last} (see {folder / LOG})") from error
        (folder / CHECKPOINT).unlink(missing_ok=True)  # large, and nothing goes on from it
        return folder / BEST

    def _dice(self, weights: Sequence[Path], cases: Sequence[Mapping[str, Any]], datastore: Any) -> list[float]:
        """Mean Dice of each, over structures and images on their own grids; what is absent in both is left out."""
        segmenters = [Segmenter(self.options.bundle, self.options.device, weights=one) for one in weights]
        scores: list[list[float]] = [[] for _ in weights]
        for case in cases:
            series = datastore.series(case["id"])
            truth = read_labels(Path(case["label"]), series, self.options.labels)
            for segmenter, own in zip(segmenters, scores, strict=True):
                found = segmenter.run(series).labels.numpy()
                found = found[0] if series.is_photo else found
                for label in self.options.labels:
                    masks = truth == label.index, found == label.index
                    if masks[0].any() or masks[1].any():
                        own.append(dice(*masks))
        return [fmean(own) if own else 1.0 for own in scores]


def _number(request: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = request.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputRefused(RefusalCode.OPTION, f"{name} must be a number from {low} to {high}, got {value!r}")
    return float(value)
