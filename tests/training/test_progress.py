"""What a training says, and that it never ends without a result."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

from convformer_monai.training import EpochTimeLimit, ResumableCheckpoint, TrainingProgress, ValidateAtEnd, report_best


@pytest.fixture
def validator() -> Engine:
    """Counts its runs, and finds a Dice of 0.5."""
    engine = Engine(lambda *_: None)
    engine.state.metrics = {"val_mean_dice": 0.5}
    engine.state.key_metric_name = "val_mean_dice"
    engine.runs = []

    def run(epoch: int) -> None:
        engine.state.epoch = epoch
        engine.runs.append(epoch)

    engine.run = run
    engine.state.epoch = -1
    return engine


def trainer() -> Engine:
    return Engine(lambda engine, _: {"loss": torch.tensor(1.0 / engine.state.iteration)})


def test_one_line_an_epoch_and_each_iteration_in_the_file(
    validator: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "convformer_monai")
    engine = trainer()
    engine.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda one: validator.run(one.state.epoch))
    TrainingProgress(str(tmp_path), validator).attach(engine)
    engine.run(range(2), max_epochs=3)
    assert [line.split(":")[0] for line in caplog.messages] == ["training", "epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert "loss 0.7500" in caplog.messages[1] and "val_mean_dice" not in caplog.messages[1]
    assert "val_mean_dice 0.5000" in caplog.messages[2] and caplog.messages[3].endswith("0:00:00 left")
    lines = (tmp_path / "train_log.txt").read_text().splitlines()
    assert len(lines) == 9 and lines[0] == "epoch 1 step 1 loss 1.00000" and lines[2] == caplog.messages[1]


def test_a_resumed_run_says_which_epochs_are_left(
    validator: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "convformer_monai")
    engine = trainer()
    TrainingProgress(str(tmp_path), validator).attach(engine)
    checkpoint = {"iteration": 4, "max_epochs": 3, "epoch_length": 2}
    engine.add_event_handler(
        Events.STARTED, lambda one: one.load_state_dict(checkpoint)
    )  # attached last, as in configs
    engine.run(range(2), max_epochs=3)
    assert caplog.messages[0] == "training: epochs 3 to 3 of 2 steps" and caplog.messages[1].startswith("epoch 3/3")


def test_the_end_names_the_best_weights_and_what_comes_next(
    bundle_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "convformer_monai")
    (tmp_path / "best.json").write_text('{"metric": "val_mean_dice", "value": 0.91239}')
    report_best(bundle_root, "/my data", tmp_path)
    best = tmp_path / "best.pt"
    assert caplog.messages == [
        f"best weights: {best} (validation Dice 0.9124); next: convformer-monai evaluate cardiac --data '/my data' "
        f"--weights {best}"
    ]


@pytest.mark.parametrize(("epochs", "validated"), [(3, [3]), (4, [4])])
def test_the_last_epoch_is_validated_once(validator: Engine, epochs: int, validated: list[int]) -> None:
    engine = trainer()
    engine.add_event_handler(Events.EPOCH_COMPLETED(every=4), lambda one: validator.run(one.state.epoch))
    ValidateAtEnd(validator).attach(engine)
    engine.run(range(2), max_epochs=epochs)
    assert validator.runs == validated


def test_a_run_that_the_clock_ends_is_validated(validator: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = trainer()
    EpochTimeLimit(1e-9).attach(engine)
    ValidateAtEnd(validator).attach(engine)
    engine.run(range(2), max_epochs=50)
    assert engine.state.epoch == 1 and validator.runs == [1]


@pytest.mark.parametrize("minutes", [None, 1e-9])
def test_the_checkpoint_of_the_last_epoch_comes_after_its_validation(
    validator: Engine, tmp_path: Path, minutes: float | None
) -> None:
    """A run killed in its last validation is not taken for finished, but does that epoch again."""
    engine, checkpoint = trainer(), tmp_path / "checkpoint.pt"
    EpochTimeLimit(minutes).attach(engine)
    ValidateAtEnd(validator).attach(engine)
    ResumableCheckpoint(str(checkpoint), {}).attach(engine)
    there: list[bool] = []
    run = validator.run

    def watched(epoch: int) -> None:
        there.append(checkpoint.is_file())
        run(epoch)

    validator.run = watched
    engine.run(range(2), max_epochs=1)
    assert there == [False] and checkpoint.is_file()


def test_a_run_without_an_epoch_left_is_validated(validator: Engine, tmp_path: Path) -> None:
    for _ in range(2):
        engine = trainer()
        ValidateAtEnd(validator).attach(engine)
        ResumableCheckpoint(str(tmp_path / "checkpoint.pt"), {}).attach(engine)
        engine.run(range(2), max_epochs=2)
        validator.state.epoch = 0
    assert validator.runs == [2, 2]
