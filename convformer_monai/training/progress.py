"""What a training says: one line an epoch with the time that is left, and each iteration in a file."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

__all__ = ["TrainingProgress", "ValidateAtEnd"]

logger = logging.getLogger(__name__)

LOG = "train_log.txt"


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
        self.first = 0

    def attach(self, engine: Engine) -> None:
        """Watch ``engine``."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)

    def _start(self, engine: Engine) -> None:
        self.started = time.monotonic()
        self.first = engine.state.epoch
        state = engine.state
        logger.info("training: epochs %d to %s of %s steps", state.epoch + 1, state.max_epochs, state.epoch_length)

    def _start_epoch(self, _engine: Engine) -> None:
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
        left = (now - self.started) / (epoch - self.first) * (last - epoch)
        if self.limit:
            left = min(left, max(0.0, self.limit - (now - self.started)))
        parts += [f"{now - self.epoch_started:.0f} s", f"{timedelta(seconds=round(left))} left"]
        text = ", ".join(parts)
        logger.info(text)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text + "\n")


class ValidateAtEnd:
    """Validates when a run ends, unless its last epoch was validated; so every run has weights and a result.

    MONAI's ``ValidationHandler`` validates every so many epochs only. Attach this before the checkpoint saver.

    Args:
        validator: the evaluator.
    """

    def __init__(self, validator: Any) -> None:
        self.validator = validator

    def attach(self, engine: Engine) -> None:
        """Watch ``engine``."""
        engine.add_event_handler(Events.COMPLETED, self._validate)

    def _validate(self, engine: Engine) -> None:
        if self.validator.state.epoch != engine.state.epoch:
            logger.info("validating the last epoch")
            self.validator.run(engine.state.epoch)
            result = self.validator.state
            logger.info("%s %.4f", result.key_metric_name, result.metrics[result.key_metric_name])
