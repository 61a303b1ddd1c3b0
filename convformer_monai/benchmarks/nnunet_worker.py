"""nnU-Net's own planner, trainer and predictor: a script for a Python that has nnunetv2, where we are not installed.

``plan PLANS GB``, ``train PLANS EPOCHS STEPS`` and ``predict PLANS IMAGES MASKS`` work on data set 1 of the folders
that nnU-Net's environment variables name; the last line that each prints is JSON. All is nnU-Net's as it comes, but
the number of steps, and bfloat16 on a CPU that has it: nnU-Net by itself has half precision on a GPU only.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

DATASET, CONFIGURATION, FOLD, TRAINER = "1", "2d", "all", "nnUNetTrainer"
ENDING = ".nii.gz"
BF16 = "CONVFORMER_BF16"  # environment variable


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _autocast(network: torch.nn.Module) -> None:
    """Runs a network in bfloat16 on a CPU that has it; its scores stay float32."""
    if _device().type == "cuda" or not os.environ.get(BF16):
        return
    forward = network.forward

    def in_bf16(*arguments: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            scores = forward(*arguments)
        return [one.float() for one in scores] if isinstance(scores, (list, tuple)) else scores.float()

    network.forward = in_bf16


def plan(plans: str, gigabytes: str) -> dict[str, Any]:
    """Fingerprint, plan and preprocessed data, for a GPU of so much memory; 0 for nnU-Net's own target."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    number = int(DATASET)
    extract_fingerprints([number], num_processes=1)
    plan_experiments([number], gpu_memory_target_in_gb=float(gigabytes) or None, overwrite_plans_name=plans)
    preprocess([number], plans, configurations=[CONFIGURATION], num_processes=[1])
    return {}


def train(plans: str, epochs: str, steps: str) -> dict[str, Any]:
    """Trains on all cases of the data set for some epochs of some steps."""
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer = get_trainer_from_args(DATASET, CONFIGURATION, FOLD, TRAINER, plans, device=_device())
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = (
        int(epochs),
        int(steps),
        1,
    )
    trainer.initialize()
    _autocast(trainer.network)
    step, ends = trainer.train_step, []

    def timed(batch: Any) -> Any:
        result = step(batch)
        ends.append(time.perf_counter())
        return result

    trainer.train_step = timed
    trainer.run_training()
    return {
        "seconds_a_step": statistics.median(after - before for before, after in zip(ends, ends[1:])),  # noqa: B905
        "steps": len(ends),
        "batch_size": trainer.configuration_manager.batch_size,
        "patch_size": list(map(int, trainer.configuration_manager.patch_size)),
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
    }


def predict(plans: str, images: str, masks: str) -> dict[str, Any]:
    """Segments a folder of images, one after another."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.file_path_utilities import get_output_folder

    predictor = nnUNetPredictor(device=_device(), perform_everything_on_device=_device().type == "cuda")
    folder = get_output_folder(DATASET, TRAINER, plans, CONFIGURATION)
    predictor.initialize_from_trained_model_folder(folder, (FOLD,))
    _autocast(predictor.network)
    Path(masks).mkdir(parents=True, exist_ok=True)
    seconds = {}
    for image in sorted(Path(images).glob(f"*{ENDING}")):
        started = time.perf_counter()
        name = image.name[: -len(f"_0000{ENDING}")]
        predictor.predict_from_files_sequential([[str(image)]], [str(Path(masks, name))])
        seconds[name] = time.perf_counter() - started
    return {"seconds": seconds}


if __name__ == "__main__":
    commands: dict[str, Callable[..., dict[str, Any]]] = {"plan": plan, "train": train, "predict": predict}
    sys.stdout.write(json.dumps(commands[sys.argv[1]](*sys.argv[2:])) + "\n")
