"""Each bundle's training configs, run as users run them, on a few small images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bundle_kinds import SMALL, Kind, training_data
from monai.bundle import ConfigWorkflow

COMMON = ["--batch_size", "4", "--val_interval", "1", "--warmup_epochs", "1"]
PICTURES = {"cardiac": 8, "dermoscopy": 8, "hemorrhage": 5}  # of hemorrhage those without blood
STEPS = {"cardiac": 2, "dermoscopy": 2, "hemorrhage": 7}  # an epoch


@pytest.fixture
def data(kind: Kind, tmp_path: Path) -> Path:
    """A datalist of a few images, in a folder with a space in its name."""
    folder = tmp_path / "my images"
    folder.mkdir()
    training_data(kind, folder)
    return folder


def train(kind: Kind, data: Path, output: Path, *options: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    bundle_root = kind.root
    config, launcher = str(bundle_root / "configs" / "train.json"), ["-m"]
    if processes > 1:
        config = str([config, str(bundle_root / "configs" / "multi_gpu_train.json")])
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    command = [sys.executable, *launcher, "monai.bundle", "run", "--config_file", config]
    command += [
        "--bundle_root",
        str(bundle_root),
        "--dataset_dir",
        str(data),
        "--output_dir",
        str(output),
        *COMMON,
        *(word for option, value in SMALL[kind.name].items() for word in (f"--{option}", str(value))),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*command, *options], cwd=output.parent, env=environment, capture_output=True, text=True)


def losses_of(output: Path) -> list[float]:
    """The loss of each step, from the training's TensorBoard log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output))
    events.Reload()
    return [event.value for tag in events.Tags()["scalars"] if "loss" in tag for event in events.Scalars(tag)]


@pytest.mark.slow
def test_training_writes_best_weights_resumes_and_fits_the_bundle(kind, bundle_root, data, tmp_path):
    output = tmp_path / "run"
    first = train(kind, data, output, "--max_epochs", "1")
    assert first.returncode == 0, first.stderr[-2000:]
    assert torch.load(output / "checkpoint.pt", weights_only=True)["trainer"]["iteration"] == STEPS[kind.name]
    assert list(output.glob("events.out.tfevents.*"))

    again = train(kind, data, output, "--max_epochs", "2")
    assert again.returncode == 0, again.stderr[-2000:]
    assert "after epoch 1" in again.stderr + again.stdout
    assert torch.load(output / "checkpoint.pt", weights_only=True)["trainer"]["iteration"] == 2 * STEPS[kind.name]
    assert 0 <= json.loads((output / "best.json").read_text())["value"] <= 1

    from convformer_monai.bundle import component, load_weights

    network = component(bundle_root, "inference", "network_def")
    load_weights(network, output / "best.pt")


@pytest.mark.slow
def test_a_compiled_network_trains_the_same(kind, bundle_root, data, tmp_path):
    """With a backend that only traces: the same losses, the same keys, and a run that goes on without it."""
    losses = {}
    for name, options in {"plain": (), "compiled": ("--compile", "aot_eager")}.items():
        result = train(kind, data, tmp_path / name, "--max_epochs", "1", "--amp", "False", *options)
        assert result.returncode == 0, result.stderr[-2000:]
        losses[name] = losses_of(tmp_path / name)
    assert len(losses["plain"]) == STEPS[kind.name]
    assert losses["compiled"][:2] == pytest.approx(losses["plain"][:2], rel=1e-4)
    assert losses["compiled"] == pytest.approx(losses["plain"], rel=0.02), "rounding grows from step to step"
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in losses]
    for part in ("network", "average"):
        assert list(states[0][part]) == list(states[1][part])
    again = train(kind, data, tmp_path / "compiled", "--max_epochs", "2", "--amp", "False")
    assert again.returncode == 0 and "after epoch 1" in again.stderr + again.stdout, again.stderr[-2000:]


@pytest.mark.slow
def test_any_net_of_the_registry_takes_the_place_of_the_bundles_own(kind, bundle_root, data, tmp_path):
    """By name, as the README says, through `monai.bundle run` for training and evaluation."""
    definition = {"_target_": "convformer_monai.networks.make_net", "name": "TransFuse", "preset": "small"}
    definition |= {"in_channels": kind.channels, "out_channels": kind.classes, "block": "vit", "img_size": [64, 48]}
    output = tmp_path / "run"
    options = ["--network_def", repr(definition), "--loss#weights", "[0.5,0.3,0.2]"]
    result = train(kind, data, output, "--max_epochs", "1", *options)
    assert result.returncode == 0, result.stderr[-2000:]
    state = torch.load(output / "best.pt", weights_only=True)
    assert any(key.startswith("transformer.encoder") for key in state)
    if kind.name == "hemorrhage":
        return  # its lists are of slices; test_head_scans.py evaluates those
    scores = tmp_path / "scores"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file"]
    command += [repr([str(bundle_root / f"configs/{name}.json") for name in ("inference", "evaluate")])]
    command += ["--bundle_root", str(bundle_root), "--dataset_dir", str(data), "--output_dir", str(scores)]
    command += ["--weights", str(output / "best.pt"), "--weights_sha256", ""]
    command += ["--network_def", repr(definition)]
    evaluated = subprocess.run(command, capture_output=True, text=True)
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    assert (scores / "per_case.csv").is_file()


# Plain gradient descent: what rounding does to a small gradient, AdamW divides by its size.
PLAIN = ["--amp", "False", "--optimizer#_target_", "torch.optim.SGD", "--learning_rate", "0.05", "--ema_decay", "0.5"]
EPOCHS = 3


def shared_options(kind: Kind, processes: int) -> list[str]:
    """Batches of four pictures in so many processes, and as many batches an epoch."""
    length = ["--epoch_length", str(3 * processes)] if kind.name == "hemorrhage" else []
    return [*PLAIN, "--batch_size", str(4 // processes), *length]


def dices_of(output: Path) -> list[float]:
    """The validation Dice of each epoch."""
    lines = (output / "train_log.txt").read_text().splitlines()
    return [float(line.split("val_mean_dice ")[1].split(",")[0]) for line in lines if "val_mean_dice" in line]


@pytest.mark.slow
def test_two_processes_train_as_one_and_either_goes_on_from_the_other(kind, bundle_root, data, tmp_path):
    """The same global batch: same losses and validation Dice, but for rounding, which grows from step to step."""
    for name, processes, epochs in (("1", 1, EPOCHS), ("2", 2, EPOCHS), ("mixed", 2, 1), ("mixed", 1, EPOCHS)):
        options = ["--max_epochs", str(epochs), *shared_options(kind, processes)]
        result = train(kind, data, tmp_path / name, *options, processes=processes)
        assert result.returncode == 0, result.stderr[-3000:]
    assert "after epoch 1" in result.stderr + result.stdout
    one, two, mixed = (losses_of(tmp_path / name) for name in ("1", "2", "mixed"))
    steps = {**STEPS, "hemorrhage": 3}[kind.name]
    assert len(one) == EPOCHS * steps
    assert two[:2] == pytest.approx(one[:2], rel=1e-4)
    for other in (two, mixed):
        assert other == pytest.approx(one, rel=0.1)
    dices = dices_of(tmp_path / "1")
    assert max(dices) > 0.1
    for name in ("2", "mixed"):
        assert dices_of(tmp_path / name) == pytest.approx(dices, abs=0.02)
    state = torch.load(tmp_path / "2" / "checkpoint.pt", weights_only=True)
    assert state["trainer"]["iteration"] == EPOCHS * steps
    assert list(state["network"]) == list(torch.load(tmp_path / "1" / "checkpoint.pt", weights_only=True)["network"])


@pytest.mark.slow
def test_prepared_images_on_disk_train_as_those_in_memory(kind, bundle_root, data, tmp_path):
    """The same losses and Dice to the last bit, when they are prepared and when they are found."""
    cache = tmp_path / "prepared images"
    for name, options in (("memory", []), ("made", ["--cache_dir", cache]), ("found", ["--cache_dir", cache])):
        before = sorted(cache.rglob("*"))
        result = train(kind, data, tmp_path / name, "--max_epochs", "1", *map(str, options))
        assert result.returncode == 0, result.stderr[-3000:]
    assert before and before == sorted(cache.rglob("*"))
    losses = [losses_of(tmp_path / name) for name in ("memory", "made", "found")]
    assert len(losses[0]) == STEPS[kind.name]
    assert losses[0] == losses[1] == losses[2]
    assert dices_of(tmp_path / "memory") == dices_of(tmp_path / "made")


@pytest.mark.slow
def test_missing_datalist_is_refused_in_one_line(kind, tmp_path):
    result = train(kind, tmp_path / "nowhere", tmp_path / "run", "--max_epochs", "1")
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error[DATALIST_MISSING]")
    assert not (tmp_path / "run").exists()


def test_training_has_the_properties_that_monai_asks_for(kind, bundle_root, data, tmp_path):
    workflow = ConfigWorkflow(
        config_file=str(bundle_root / "configs" / "train.json"),
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        logging_file=str(bundle_root / "configs" / "logging.conf"),
        workflow_type="train",
        bundle_root=str(bundle_root),
        dataset_dir=str(data),
        output_dir=str(tmp_path),
        canvas=[64, 48],
    )
    workflow.initialize()
    assert not workflow.check_properties()
    assert workflow.max_epochs == workflow.trainer.state.max_epochs
    assert len(workflow.train_dataset) == PICTURES[kind.name]
