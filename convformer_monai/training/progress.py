"""What a training says: one line an epoch with the time that is left, and each iteration in a file."""

from __future__ import annotations

import json
import logging
import shlex
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from convformer_monai.bundle import Bundle
from convformer_monai.training.handlers import BEST, BEST_RECORD, LOG

__all__ = ["TrainingProgress", "ValidateAtEnd", "report_best"]

logger = logging.getLogger(__name__)

METRICS = {"val_mean_dice": "validation Dice"}


class TrainingProgress:
    """Logs one line an epoch: loss, validation, seconds, time left; the loss of each iteration goes to a file.

    MONAI's ``StatsHandler`` logs several lines an epoch and knows no time that is left. Attach this after the
    ``ValidationHandler``, whose result the line tells.

    Args:
        output_dir: folder of ``train_log.txt``, to which a resumed run appends.
        validator: the evaluator.
        max_minutes: time limit of the run; 0 for none.
    """

    def __init__(self, output_dir: str, validator: Any, max_minutes: float = 0) -> None:
        self.path = Path(output_dir) / LOG
        self.validator = validator
        self.limit = 60 * max_minutes
        self.started = self.epoch_started = 0.0
        self.losses: list[float] = []
        self.first: int | None = None

    def attach(self, engine: Engine) -> None:
        """Watch ``engine``."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)

    def _start(self, _engine: Engine) -> None:
        self.started = time.monotonic()
        self.first = None

    def _start_epoch(self, engine: Engine) -> None:
        if self.first is None:  # only now is a checkpoint loaded
            state = engine.state
            self.first = state.epoch
            logger.info("training: epochs %d to %s of %s steps", state.epoch, state.max_epochs, state.epoch_length)
        self.epoch_started = time.monotonic()
        self.losses = []

    def _iteration(self, engine: Engine) -> None:
        self.losses.append(engine.state.output["loss"].item())  # type: ignore[index]
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"epoch {engine.state.epoch} step {engine.state.iteration} loss {self.losses[-1]:.5f}\n")

    def _epoch(self, engine: Engine) -> None:
        epoch, last = engine.state.epoch, int(engine.state.max_epochs or 0)
        now = time.monotonic()
        parts = [f"epoch {epoch}/{last}: loss {sum(self.losses) / len(self.losses):.4f}"]
        result = self.validator.state
        if result.epoch == epoch and result.metrics:
            parts.append(f"{result.key_metric_name} {result.metrics[result.key_metric_name]:.4f}")
        left = (now - self.started) / (epoch - (self.first or epoch) + 1) * (last - epoch)
        if self.limit:
            left = min(left, max(0.0, self.limit - (now - self.started)))
        parts += [f"{now - self.epoch_started:.0f} s", f"{timedelta(seconds=round(left))} left"]
        text = ", ".join(parts)
        logger.info(text)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text + "\n")


class ValidateAtEnd:
    """Validates when a run ends, unless its last epoch was validated; so every run has weights and a result.

    MONAI's ``ValidationHandler`` validates every so many epochs only. Attach this after :class:`EpochTimeLimit` and
    before the checkpoint saver: a run that is killed in this validation then does its last epoch again.

    Args:
        validator: the evaluator.
    """

    def __init__(self, validator: Any) -> None:
        self.validator = validator

    def attach(self, engine: Engine) -> None:
        """Watch ``engine``."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._validate_last)
        engine.add_event_handler(Events.COMPLETED, self._validate)  # of a run that had no epoch left to do

    def _validate_last(self, engine: Engine) -> None:
        if engine.should_terminate or engine.state.epoch == engine.state.max_epochs:
            self._validate(engine)

    def _validate(self, engine: Engine) -> None:
        if self.validator.state.epoch != engine.state.epoch:
            logger.info("validating the last epoch")
            self.validator.run(engine.state.epoch)
            result = self.validator.state
            logger.info("%s %.4f", result.key_metric_name, result.metrics[result.key_metric_name])


def report_best(bundle_root: object, dataset_dir: object, output_dir: object, options: str = "") -> None:
    """Says in one line, at the end of a training, where the best weights are, and the command that evaluates them.

    Args:
        bundle_root: folder of the bundle.
        dataset_dir: of the training.
        output_dir: of the training.
        options: of the command, in front of the weights.
    """
    bundle, folder = Bundle(str(bundle_root)), Path(str(output_dir))
    best = json.loads((folder / BEST_RECORD).read_text(encoding="utf-8"))
    words = ["convformer-monai", "evaluate", bundle.short_name or str(bundle.root), "--data", str(dataset_dir)]
    logger.info(
        "best weights: %s (%s %.4f); next: %s",
        folder / BEST,
        METRICS.get(best["metric"], best["metric"]),
        best["value"],
        shlex.join([*words, *options.split(), "--weights", str(folder / BEST)]),
    )
