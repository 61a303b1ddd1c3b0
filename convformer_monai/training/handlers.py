"""Engine handlers that MONAI and ignite do not have."""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from convformer_monai.bundle import file_sha256
from convformer_monai.datalist import datalist_path
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.locks import try_lock
from convformer_monai.training.processes import of_first_process

logger = logging.getLogger(__name__)

BEST, BEST_RECORD, LOG, LOCK = "best.pt", "best.json", "train_log.txt", ".training.lock"


class EpochTimeLimit:
    """Ends a run at the end of an epoch, before the next one would pass the time limit.

    Attach it before the checkpoint saver, whose ``save_final`` then keeps the state; the same command resumes.

    Args:
        max_minutes: wall-clock limit in minutes from the run's start; 0 or None for none.

    Raises:
        ValueError: the limit is negative.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        if max_minutes is not None and max_minutes < 0:
            raise ValueError(f"max_minutes must not be negative, got {max_minutes}")
        self.limit = 60 * max_minutes if max_minutes else None
        self.started = 0.0
        self.epochs = 0

    def attach(self, engine: Engine) -> None:
        """Watch ``engine``."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check)

    def _start(self, _engine: Engine) -> None:
        self.started = time.monotonic()
        self.epochs = 0

    def _check(self, engine: Engine) -> None:
        self.epochs += 1
        elapsed = of_first_process(time.monotonic() - self.started) if self.limit is not None else 0.0
        if self.limit is not None and elapsed * (self.epochs + 1) / self.epochs > self.limit:
            logger.info("time limit: ends after epoch %d, %.1f minutes", engine.state.epoch, elapsed / 60)
            engine.terminate()


class SeedEpoch:
    """Seeds all random numbers at the start of each epoch by seed and epoch, so that a resumed run goes on alike.

    Args:
        seed: of the run; the same in all processes, see :mod:`convformer_monai.training.draws`.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Watch ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._seed)

    def _seed(self, engine: Engine) -> None:
        seed = self.seed + 1000 * engine.state.epoch
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)


def ema_with_warmup(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """Returns an exponential moving average for torch's ``AveragedModel`` that is short at first.

    After n updates the decay is ``(1 + n) / (10 + n)``, at most ``decay``, as in TensorFlow's moving averages. With a
    fixed decay a training of a few hundred steps averages weights that are far apart; batch norm then meets features
    that its averaged statistics do not fit, and a network that segments well finds nothing.

    Args:
        decay: of long trainings, 0 to 1.
    """

    def update(averaged: list[Tensor], current: list[Tensor], updates: Tensor) -> None:
        now = min(decay, (1 + float(updates)) / (10 + float(updates)))
        get_ema_multi_avg_fn(now)(averaged, current, updates)

    return update


class AverageWeights:
    """Updates torch's running average of the weights after each step.

    Args:
        average: the average, e.g. exponential, and of the buffers too (batch norm).
        network: that is trained.
    """

    def __init__(self, average: AveragedModel, network: nn.Module) -> None:
        self.average = average
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Watch ``engine``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)

    def _update(self, _engine: Engine) -> None:
        self.average.update_parameters(self.network)


class BestWeights:
    """Keeps the weights of the best validation so far, across resumed runs, as ``best.pt`` and ``best.json``.

    MONAI's ``CheckpointSaver`` forgets what was best when a run is resumed. Attach this to the evaluator; the metric
    is the engine's key metric, larger is better.

    Args:
        network: whose state dict is kept.
        output_dir: where the two files are written, atomically.
    """

    def __init__(self, network: nn.Module, output_dir: str) -> None:
        self.network = network
        self.folder = Path(output_dir)

    def attach(self, engine: Engine) -> None:
        """Watch ``engine``."""
        engine.add_event_handler(Events.COMPLETED, self._keep)

    def _keep(self, engine: Engine) -> None:
        name = engine.state.key_metric_name  # type: ignore[attr-defined]
        value = float(engine.state.metrics[name])
        record = self.folder / BEST_RECORD
        if record.is_file() and json.loads(record.read_text())["value"] >= value:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {key: tensor.detach().cpu() for key, tensor in self.network.state_dict().items()}
        torch.save(state, self.folder / f"{BEST}.part")
        os.replace(self.folder / f"{BEST}.part", self.folder / BEST)
        (self.folder / f"{BEST_RECORD}.part").write_text(json.dumps({"metric": name, "value": value}) + "\n")
        os.replace(self.folder / f"{BEST_RECORD}.part", record)
        logger.info("best so far: %s %.4f", name, value)


class ScheduleByIteration:
    """Steps a torch learning-rate scheduler to the engine's iteration; nothing to save, so a run can be prolonged.

    Args:
        scheduler: counted in iterations.
        minutes: go through the schedule in this time instead, for a run that ends by the clock; 0 for no limit.
        total: iterations of the whole schedule; needed with ``minutes``.
    """

    def __init__(self, scheduler: LRScheduler, minutes: float = 0, total: int = 0) -> None:
        self.scheduler = scheduler
        self.seconds = 60 * minutes
        self.total = total
        self.started = 0.0

    def attach(self, engine: Engine) -> None:
        """Watch ``engine``."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _start(self, _engine: Engine) -> None:
        self.started = time.monotonic()

    def _step(self, engine: Engine) -> None:
        done = engine.state.iteration
        if self.seconds:
            elapsed = of_first_process(time.monotonic() - self.started)
            done = max(done, round(self.total * min(1.0, elapsed / self.seconds)))
        self.scheduler.last_epoch = done - 1
        self.scheduler.step()


class ResumableCheckpoint:
    """Writes one checkpoint after each epoch, atomically, and goes on from it when the run is started again.

    Another batch size or number of processes may go on from it: epochs count, not steps.

    MONAI has the two halves, ``CheckpointSaver`` and ``CheckpointLoader``; but a loader that restores the engine cannot
    be named in a bundle's config, where handlers and trainer would refer to each other.

    Args:
        path: the file.
        objects: what has a state dict, by name; the engine itself is added as ``trainer``.
        resume: go on from the file if it exists; False starts anew, and removes what another training left beside it.
        write: False only reads, for all but one process of a distributed run.
        device: where the file is loaded to.
        dataset_dir: of the training, see :func:`convformer_monai.datalist.datalist_path`; a checkpoint of another
            datalist is not gone on from. None for no check.
        fold: that is held out; likewise.

    Raises:
        InputRefused: when the run starts: ``OTHER_OPTIONS`` if the checkpoint is of other data or another fold,
            ``EXISTS`` if another training writes to the folder now.
    """

    def __init__(
        self,
        path: str,
        objects: Mapping[str, Any],
        resume: bool = True,
        write: bool = True,
        device: str | torch.device = "cpu",
        dataset_dir: object = None,
        fold: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.identity: dict[str, Any] = {"fold": fold}
        if dataset_dir is not None:
            self.identity["datalist"] = file_sha256(datalist_path(dataset_dir))
        self.objects = objects
        self.resume = resume
        self.write = write
        self.device = device

    def attach(self, engine: Engine) -> None:
        """Watch ``engine``."""
        if self.write:
            engine.add_event_handler(Events.STARTED, self._take_folder)
            for end in (Events.TERMINATE, Events.COMPLETED):
                engine.add_event_handler(end, self._leave_folder)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
        engine.add_event_handler(Events.STARTED, self._load)

    def _take_folder(self, _engine: Engine) -> None:
        """Keeps other trainings out of the folder while this one runs, and begins anew if so asked."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path.parent / LOCK, "ab")  # noqa: SIM115 (open while the training runs)
        if try_lock(self._lock) is False:
            what = f"another training writes to {self.path.parent}"
            raise InputRefused(RefusalCode.EXISTS, f"{what}; wait for its end, or give another --output-dir")
        if not self.resume:
            for name in (self.path.name, BEST, BEST_RECORD, LOG):
                (self.path.parent / name).unlink(missing_ok=True)

    def _leave_folder(self, _engine: Engine) -> None:
        self._lock.close()

    def _load(self, engine: Engine) -> None:
        if not (self.resume and self.path.is_file()):
            return
        max_epochs, epoch_length = engine.state.max_epochs, engine.state.epoch_length
        state = torch.load(self.path, map_location=self.device, weights_only=True)
        other = [name for name, value in state.get("identity", {}).items() if value != self.identity.get(name, value)]
        if other:
            if self.write:
                self._lock.close()
            what = f"{self.path.parent} holds a training with another {' and '.join(other)}"
            raise InputRefused(
                RefusalCode.OTHER_OPTIONS, f"{what}; give another --output-dir, or --restart to replace it"
            )
        for name, item in {**self.objects, "trainer": engine}.items():
            if name not in state:
                logger.warning("'%s' is of an earlier version and holds no %s", self.path, name)
                continue
            item.load_state_dict(state[name])
        engine.state.max_epochs = max_epochs
        if epoch_length:  # another batch size, or number of processes, makes other batches of the same pictures
            engine.state.epoch_length = epoch_length
            engine.state.iteration = engine.state.epoch * epoch_length
        logger.info("resumed '%s' after epoch %d", self.path, engine.state.epoch)

    def _save(self, engine: Engine) -> None:
        state: dict[str, Any] = {name: item.state_dict() for name, item in {**self.objects, "trainer": engine}.items()}
        state["identity"] = self.identity
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.path)
