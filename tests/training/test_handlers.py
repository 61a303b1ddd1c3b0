import copy
import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from convformer_monai.errors import InputRefused
from convformer_monai.training import (
    AverageWeights,
    BestWeights,
    EpochTimeLimit,
    ResumableCheckpoint,
    ScheduleByIteration,
    SeedEpoch,
    ema_with_warmup,
)


def trainer(*handlers) -> Engine:
    engine = Engine(lambda _engine, _batch: None)
    for handler in handlers:
        handler.attach(engine)
    return engine


def test_time_limit_ends_after_a_whole_epoch(monkeypatch):
    clock = iter(range(0, 10_000, 25))  # seconds: each look at the clock is 25 s later
    monkeypatch.setattr("convformer_monai.training.handlers.time.monotonic", lambda: next(clock))
    engine = trainer(EpochTimeLimit(max_minutes=2))
    engine.run(range(3), max_epochs=100)
    assert engine.state.epoch == 4, "a fifth epoch would have ended after 125 s"
    assert engine.state.iteration == 12


def test_no_limit():
    engine = trainer(EpochTimeLimit(0))
    engine.run(range(3), max_epochs=7)
    assert engine.state.epoch == 7


def test_seed_depends_on_the_epoch_only():
    def draws(epochs: int) -> list[float]:
        engine, drawn = trainer(SeedEpoch(5)), []
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: drawn.append(float(torch.rand(1))))
        engine.run(range(2), max_epochs=epochs)
        return drawn

    assert draws(3) == draws(3)
    assert len(set(draws(3))) == 3


@pytest.mark.parametrize(("updates", "decay"), [(1, 2 / 11), (90, 0.91), (890, 0.99), (891, 0.99), (10_000, 0.99)])
def test_average_is_short_at_first(updates, decay):
    averaged, current = [torch.zeros(3)], [torch.ones(3)]
    ema_with_warmup(0.99)(averaged, current, torch.tensor(updates))
    torch.testing.assert_close(averaged[0], torch.full((3,), 1 - decay))


def test_average_of_a_short_training_segments_as_well_as_its_last_weights():
    """With torch's fixed decay of 0.99 the average of these 60 steps lags far behind."""
    torch.manual_seed(0)
    images, target = torch.randn(64, 4), torch.randn(4, 1)
    network = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))
    errors = {}
    for name, rule in {"warmed": ema_with_warmup(0.99), "fixed": get_ema_multi_avg_fn(0.99)}.items():
        trained = copy.deepcopy(network)
        average = AveragedModel(trained, multi_avg_fn=rule, use_buffers=True)
        optimizer = torch.optim.Adam(trained.parameters(), 0.03)

        def step(_engine, _batch, trained=trained, optimizer=optimizer):
            optimizer.zero_grad()
            (trained(images) - images @ target).square().mean().backward()
            optimizer.step()

        engine = Engine(step)
        AverageWeights(average, trained).attach(engine)
        engine.run(range(60))
        with torch.inference_mode():
            both = [(one.eval()(images) - images @ target).square().mean().item() for one in (average, trained)]
        errors[name] = both[0] / both[1]
    assert errors["warmed"] < 2 < 10 < errors["fixed"]


def test_resumed_run_ends_like_an_uninterrupted_one(tmp_path):
    def run(path: Path, epochs: int) -> tuple[nn.Module, Engine, float]:
        torch.manual_seed(1)
        net = nn.Linear(3, 1)
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        checkpoint = ResumableCheckpoint(str(path), {"network": net, "optimizer": optimizer})

        def step(_engine: Engine, _batch: int) -> None:
            optimizer.zero_grad()
            net(torch.rand(4, 3)).sum().backward()
            optimizer.step()

        engine = Engine(step)
        for handler in (SeedEpoch(0), ScheduleByIteration(scheduler), checkpoint):
            handler.attach(engine)
        engine.run(range(5), max_epochs=epochs)
        return net, engine, optimizer.param_groups[0]["lr"]

    whole, _, rate = run(tmp_path / "whole.pt", 4)
    run(tmp_path / "parts.pt", 2)
    resumed, engine, resumed_rate = run(tmp_path / "parts.pt", 4)
    assert engine.state.epoch == 4
    assert engine.state.iteration == 20
    assert rate == resumed_rate
    assert torch.equal(whole.weight, resumed.weight)
    assert not list(tmp_path.glob("*.part"))


def test_a_run_goes_on_with_another_number_of_steps_an_epoch(tmp_path):
    """As with twice the processes, or batches twice as large; and from a checkpoint of an earlier version."""
    steps = []
    for length, epochs, objects in ((6, 2, {}), (3, 4, {"new": nn.Linear(1, 1)})):
        engine = trainer(ResumableCheckpoint(str(tmp_path / "checkpoint.pt"), objects))
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: steps.append((e.state.epoch, e.state.iteration)))
        engine.run(range(length), max_epochs=epochs)
    assert steps[11:] == [(2, 12), (3, 7), (3, 8), (3, 9), (4, 10), (4, 11), (4, 12)]


def test_without_resume_a_run_starts_anew(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for resume in (True, False):
        seen = []
        engine = trainer(ResumableCheckpoint(str(path), {}, resume=resume))
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e, seen=seen: seen.append(e.state.epoch))
        engine.run(range(2), max_epochs=3)
        assert seen[0] == 1
        assert len(seen) == 3


def test_a_new_start_removes_what_another_training_left(tmp_path):
    """Its best weights would be taken for those of the new one, where that is worse."""
    for name in ("best.pt", "best.json", "train_log.txt", "notes.txt"):
        (tmp_path / name).write_text("{}")
    trainer(ResumableCheckpoint(str(tmp_path / "checkpoint.pt"), {}, resume=False)).run(range(2), max_epochs=1)
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left == {"checkpoint.pt", "notes.txt"}


@pytest.mark.parametrize(
    ("change", "what"), [({"fold": 1}, "another fold"), ({"dataset_dir": "b.json"}, "another datalist")]
)
def test_a_training_on_other_data_is_not_gone_on_with(tmp_path, change, what):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(f'{{"train": "{name}"}}')
    path, made = str(tmp_path / "checkpoint.pt"), {"dataset_dir": tmp_path / "a.json", "fold": 0}
    changed = {**made, **{key: tmp_path / value if key == "dataset_dir" else value for key, value in change.items()}}
    trainer(ResumableCheckpoint(path, {}, **made)).run(range(2), max_epochs=1)
    engine = trainer(ResumableCheckpoint(path, {}, **made))
    engine.run(range(2), max_epochs=3)
    assert engine.state.epoch == 3
    with pytest.raises(InputRefused, match=what):
        trainer(ResumableCheckpoint(path, {}, **changed)).run(range(2), max_epochs=4)
    trainer(ResumableCheckpoint(path, {}, resume=False, **changed)).run(range(2), max_epochs=1)


def test_two_trainings_do_not_write_to_one_folder(tmp_path):
    path = str(tmp_path / "checkpoint.pt")
    first = trainer(ResumableCheckpoint(path, {}))

    def another() -> None:
        with pytest.raises(InputRefused, match="another training writes to"):
            trainer(ResumableCheckpoint(path, {})).run(range(2), max_epochs=1)

    first.add_event_handler(Events.EPOCH_COMPLETED, another)
    first.run(range(2), max_epochs=1)
    trainer(ResumableCheckpoint(path, {})).run(range(2), max_epochs=2)


def test_read_only_checkpoint_is_not_written(tmp_path):
    engine = trainer(ResumableCheckpoint(str(tmp_path / "checkpoint.pt"), {}, write=False))
    engine.run(range(2), max_epochs=1)
    assert not list(tmp_path.iterdir())


def test_best_weights_survive_a_worse_validation_also_after_a_restart(tmp_path):
    net = nn.Linear(1, 1)

    def validate(value: float, bias: float) -> None:
        with torch.no_grad():
            net.bias.fill_(bias)
        engine = Engine(lambda _engine, _batch: None)
        engine.state.key_metric_name = "dice"
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: engine.state.metrics.update(dice=value))
        BestWeights(net, str(tmp_path)).attach(engine)
        engine.run([0], max_epochs=1)

    for value, bias in ((0.5, 1.0), (0.7, 2.0), (0.6, 3.0)):
        validate(value, bias)
    assert torch.load(tmp_path / "best.pt", weights_only=True)["bias"] == 2.0
    assert json.loads((tmp_path / "best.json").read_text()) == {"metric": "dice", "value": 0.7}
    validate(0.8, 4.0)
    assert torch.load(tmp_path / "best.pt", weights_only=True)["bias"] == 4.0
