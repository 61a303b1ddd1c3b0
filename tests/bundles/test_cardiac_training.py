"""The training configs, run as users run them, on a few small phantoms."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

from convformer_monai.phantoms import cardiac_phantom

TINY = ["--canvas", "[96,96]", "--crop", "[64,64]", "--batch_size", "4", "--val_interval", "1", "--warmup_epochs", "1"]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    """A datalist of two training volumes and a validation volume, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("my phantoms")
    cases = []
    for seed in range(3):
        cardiac_phantom(shape=(96, 96, 4), spacing=(2.5, 2.5, 12.0), seed=seed).save(folder, f"case{seed}")
        cases.append({"image": f"case{seed}.nii.gz", "label": f"case{seed}_truth.nii.gz"})
    (folder / "datalist.json").write_text(json.dumps({"train": cases[:2], "val": cases[2:]}))
    return folder


def train(bundle_root: Path, data: Path, output: Path, *options: str, processes: int = 1):
    config, launcher = str(bundle_root / "configs" / "train.json"), ["-m"]
    if processes > 1:
        config = str([config, str(bundle_root / "configs" / "multi_gpu_train.json")])
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    command = [sys.executable, *launcher, "monai.bundle", "run", "--config_file", config]
    command += ["--bundle_root", str(bundle_root), "--dataset_dir", str(data), "--output_dir", str(output), *TINY]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*command, *options], cwd=output.parent, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_training_writes_best_weights_resumes_and_fits_the_bundle(bundle_root, phantoms, tmp_path):
    output = tmp_path / "run"
    first = train(bundle_root, phantoms, output, "--max_epochs", "1")
    assert first.returncode == 0, first.stderr[-2000:]
    assert torch.load(output / "checkpoint.pt", weights_only=True)["trainer"]["iteration"] == 2
    assert list(output.glob("events.out.tfevents.*"))

    again = train(bundle_root, phantoms, output, "--max_epochs", "2")
    assert again.returncode == 0, again.stderr[-2000:]
    assert "after epoch 1" in again.stderr + again.stdout
    assert torch.load(output / "checkpoint.pt", weights_only=True)["trainer"]["iteration"] == 4
    assert 0 <= json.loads((output / "best.json").read_text())["value"] <= 1

    from convformer_monai.bundles import component, load_weights

    network = component(bundle_root, "inference", "network_def")
    load_weights(network, output / "best.pt")


@pytest.mark.slow
def test_two_cpu_processes_train_one_network(bundle_root, phantoms, tmp_path):
    output = tmp_path / "run"
    result = train(bundle_root, phantoms, output, "--max_epochs", "1", "--batch_size", "2", processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    state = torch.load(output / "checkpoint.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 2, "eight slices, two processes, two slices each"
    assert not any(key.startswith("module.") for key in state["network"])
    assert (output / "best.pt").is_file()


@pytest.mark.slow
def test_missing_datalist_is_refused_in_one_line(bundle_root, tmp_path):
    result = train(bundle_root, tmp_path / "nowhere", tmp_path / "run", "--max_epochs", "1")
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("error[DATALIST_MISSING]")


def test_training_has_the_properties_that_monai_asks_for(bundle_root, phantoms, tmp_path):
    workflow = ConfigWorkflow(
        config_file=str(bundle_root / "configs" / "train.json"),
        meta_file=str(bundle_root / "configs" / "metadata.json"),
        logging_file=str(bundle_root / "configs" / "logging.conf"),
        workflow_type="train",
        bundle_root=str(bundle_root),
        dataset_dir=str(phantoms),
        output_dir=str(tmp_path),
        canvas=[96, 96],
    )
    workflow.initialize()
    assert not workflow.check_properties()
    assert workflow.max_epochs == workflow.trainer.state.max_epochs
    assert len(workflow.train_dataset) == 8
