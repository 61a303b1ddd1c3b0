"""A bundle of one convolution and studies of a few voxels: a cohort in which the network costs next to nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import torch
from nifti_files import affine, save

from convformer_monai.cohort.plan import Job, describe_bundle
from convformer_monai.outputs.writer import Options

DEADLY = 30_000  # a study that holds this value ends the process that prepares it
FAULTY = 20_000  # and this one makes it fail
HOOK = (
    f"$lambda x: __import__('os').kill(__import__('os').getpid(), 9) if x.max() == {DEADLY} "
    f"else 1 / 0 if x.max() == {FAULTY} else x"
)


def tiny_bundle(like: Path, root: Path) -> Path:
    """Makes a bundle that takes what the cardiac one takes, with a network of one convolution; returns its folder."""
    shutil.copytree(like / "configs", root / "configs")
    names = {"0": "background", "1": "one", "2": "two", "3": "three"}
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    metadata |= {"name": "Tiny", "convformer_task": "", "weights_sha256": ""}
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = names
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    inference = json.loads((root / "configs" / "inference.json").read_text())
    convolution = {"in_channels": 1, "out_channels": 4, "kernel_size": 3, "padding": 1}
    inference["network_def"] = {"_target_": "torch.nn.Conv2d", **convolution}
    hook = {"_target_": "Lambdad", "keys": "image", "func": HOOK, "track_meta": False}
    inference["preparation"]["transforms"].insert(0, hook)
    (root / "configs" / "inference.json").write_text(json.dumps(inference))
    (root / "models").mkdir()
    torch.manual_seed(0)
    torch.save(torch.nn.Conv2d(**convolution).state_dict(), root / "models" / "model.pt")
    return root


def write_study(path: Path, seed: int, brightest: int = 1000) -> Path:
    """Writes a volume of 16 x 12 x 2 voxels; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 900, (16, 12, 2)).astype(np.int16)
    values[4:8, 4:8] = 950
    values[5, 5, 0] = brightest
    return save(path, values, affine((1.5, 1.5, 8.0)))


def job_for(bundle: Path, out: Path, run: str = "r1", **values: object) -> Job:
    """A run of a cohort in this process."""
    base = Job(run, str(out), {"": describe_bundle(str(bundle))}, Options(), device="cpu")
    return dataclasses.replace(base, **values)  # type: ignore[arg-type]


class Gate:
    """What tasks in this process have begun, and what they wait for; found again by import when it is pickled."""

    begun: list[int] = []
    opened = threading.Event()


def note(item: int) -> int:
    """A task that notes that it began."""
    Gate.begun.append(item)
    return 2 * item


def note_and_wait(item: int) -> int:
    """A task that ends when the gate is opened."""
    Gate.begun.append(item)
    Gate.opened.wait(30)
    return item
