"""Peers of a bundle on the same data, machine and training time: nnU-Net, and the network of MONAI's zoo.

nnU-Net 2 (Isensee et al., Nature Methods 2021) plans and trains itself, in a Python of its own, since it brings
packages in versions that ours need not share. The network of the zoo is the one of its bundle
``ventricular_short_axis_3label``, trained by our recipe. Each is trained on the list ``train`` for as many steps as fit
into the minutes, by the speed of its first steps, then segments the list ``val``: Dice per case by
:mod:`convformer_monai.evaluation.metrics`, seconds a volume from file to file, and peak memory of the process.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.nifti1 import Nifti1Image

from convformer_monai.benchmarks import nnunet_worker
from convformer_monai.benchmarks.files import file_name
from convformer_monai.benchmarks.processes import RSS_UNIT, in_own_process, run_program
from convformer_monai.bundle import Bundle, component, file_sha256
from convformer_monai.bundle_run import bundle_command
from convformer_monai.datalist import datalist_path, read_cases
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.evaluation.metrics import score_volume
from convformer_monai.evaluation.report import table_of
from convformer_monai.evaluation.summary import describe
from convformer_monai.inferers import has_fast_bf16
from convformer_monai.measurements.values import csv_of
from convformer_monai.outputs.atomic import write_text
from convformer_monai.readers import read_series
from convformer_monai.training.handlers import BEST
from convformer_monai.training.plan import network_of, run_logged

__all__ = ["PEERS", "run"]

logger = logging.getLogger(__name__)

SHIPPED, OURS, ZOO, NNUNET = "shipped", "convformer", "zoo", "nnunet"
PEERS = (SHIPPED, OURS, ZOO, NNUNET)
TITLES = {
    SHIPPED: "ConvFormerUNet, the shipped weights",
    OURS: "ConvFormerUNet",
    ZOO: "MONAI zoo's UNet, by our recipe",
    NNUNET: "nnU-Net, 2-D, by itself",
}
ZOO_NETWORK = {
    "_target_": "convformer_monai.benchmarks.reference_nets.PaddedUNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 4,
    "channels": [16, 32, 64, 128, 256],
    "strides": [2, 2, 2, 2],
    "num_res_units": 2,
}
NETWORKS: dict[str, dict[str, Any]] = {SHIPPED: {}, OURS: {}, ZOO: {"network_def": ZOO_NETWORK}}
DONE, EPOCHS, LOG, OPTIONS = "done.json", "epochs.json", "log.txt", "options.json"
PLANS = "nnUNetPlans"
WARM_UP, TIMED = 3, 10  # steps
NNUNET_STEPS = 10  # an epoch


def run(
    data: Path,
    output_dir: Path,
    python: Path,
    minutes: float,
    peers: Sequence[str] = PEERS,
    memory_target: float = 0,
    bundle: str = "cardiac",
) -> str:
    """Trains, segments and compares; what is done already, with the same arguments, is taken as it is.

    Args:
        data: see :func:`convformer_monai.datalist.read_cases`; its lists ``train`` and ``val``, of single volumes.
        output_dir: gets ``peers.csv``, ``peers.md`` and a folder for each peer.
        python: a Python that has nnunetv2.
        minutes: of each training.
        peers: of :data:`PEERS`.
        memory_target: GB of GPU memory that nnU-Net plans for, which makes its batches smaller; 0 for its own.
        bundle: ours, of volumes.

    Returns:
        The table.

    Raises:
        InputRefused: if the data cannot be used, nnU-Net is not there, a training fails, or a folder holds what
            was made with other arguments.
    """
    for name in peers or [""]:
        if name not in PEERS:
            raise InputRefused(RefusalCode.OPTION, f"--peers must be among {', '.join(PEERS)}, got {name!r}")
    opened = Bundle(bundle)
    cases = {section: read_cases(str(data), section) for section in ("train", "val")}
    if NNUNET in peers:
        _check_nnunet(python)
    about = {"bundle": bundle, "datalist": file_sha256(datalist_path(data))}
    options: dict[str, dict[str, Any]] = {name: dict(about) for name in peers}
    for name in peers:
        options[name] |= {"minutes": minutes} if name != SHIPPED else {}
        options[name] |= {"memory_target": memory_target} if name == NNUNET else {}
        _check_options(output_dir / name, options[name])
    rows = []
    for name in peers:
        folder = output_dir / name
        if not (folder / DONE).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / OPTIONS, json.dumps(options[name], indent=2) + "\n", overwrite=True)
            logger.info("%s: begins", TITLES[name])
            try:
                if name == NNUNET:
                    found = _nnunet(python, cases, folder, minutes, memory_target, len(opened.labels))
                else:
                    found = _ours(opened, data, cases["val"], folder, name, minutes)
            except subprocess.CalledProcessError as error:
                raise InputRefused(RefusalCode.TRAINING, f"{TITLES[name]} failed; see {folder / LOG}") from error
            write_text(folder / DONE, json.dumps(found, indent=2) + "\n")
        content = json.loads((folder / DONE).read_text(encoding="utf-8"))
        rows.append(_row(opened, name, content, cases["val"], folder / "masks"))
        text = _written(rows, output_dir)
    return text


def _check_options(folder: Path, options: Mapping[str, Any]) -> None:
    """Refuses to go on with what was begun with other arguments: such rows may not stand in one table."""
    if not (folder.is_dir() and any(folder.iterdir())):
        return
    file = folder / OPTIONS
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    other = [key for key in {**before, **options} if before.get(key) != options.get(key)]
    if other:
        raise InputRefused(
            RefusalCode.OTHER_OPTIONS,
            f"{folder} holds results of another {', '.join(other)}; give the same, or another --output-dir",
        )


def _ours(
    bundle: Bundle, data: Path, cases: Sequence[Mapping[str, Any]], folder: Path, name: str, minutes: float
) -> dict[str, Any]:
    """Trains a network by the bundle's recipe, unless it is the shipped one, and lets it segment."""
    network, root = NETWORKS[name], bundle.root
    found: dict[str, Any] = {"steps": None}
    weights = None
    if name != SHIPPED:
        changes: dict[str, Any] = {"network_def#overrides": network} if network else {}
        if not (folder / EPOCHS).is_file():  # a training that was stopped goes on with as many
            seconds, steps = in_own_process(_seconds_a_step, root, str(data), network)
            epochs = max(1, round(60 * minutes / (seconds * steps)))
            logger.info("%.2f s a step, %d steps an epoch: %d epochs", seconds, steps, epochs)
            write_text(folder / EPOCHS, json.dumps({"epochs": epochs, "steps": steps}) + "\n")
        epochs, steps = json.loads((folder / EPOCHS).read_text(encoding="utf-8")).values()
        values = {**changes, "max_epochs": epochs, "val_interval": epochs}
        run_logged(bundle_command(root, "train", str(data), folder, values), log=folder / LOG)
        found = {"steps": epochs * steps, "epochs": epochs}
        weights = folder / BEST
    images = {file_name(case["id"]): str(case["image"]) for case in cases}
    found |= in_own_process(_segment, str(root), weights, network, images, str(folder / "masks"))
    return found


def _seconds_a_step(root: Path, data: str, network: Mapping[str, Any]) -> tuple[float, int]:
    """Seconds of a training step, and steps of an epoch."""
    from ignite.engine import Events

    values = {"dataset_dir": data, "output_dir": os.devnull, "train#handlers": [], "max_epochs": WARM_UP + TIMED}
    values["network_def"] = network_of(root, network)
    parts = component(root, "train", ["train#trainer", "train#batches"], values)
    trainer, ends = parts["train#trainer"], []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: ends.append(time.perf_counter()))
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=WARM_UP + TIMED), trainer.terminate)
    trainer.run()
    return (ends[-1] - ends[WARM_UP - 1]) / TIMED, len(parts["train#batches"])


def _segment(
    root: str, weights: Path | None, network: Mapping[str, Any], images: Mapping[str, str], folder: str
) -> dict[str, Any]:
    """Segments images one after another, from file to file; ``images`` by the name of the mask."""
    from convformer_monai.segmenter import Segmenter

    segmenter = Segmenter(root, weights=weights, overrides=network)
    seconds = {}
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        started = time.perf_counter()
        result = segmenter.segment(image)
        mask = Nifti1Image(result.labels.numpy()[0].astype(np.uint8), result.series.affine)
        nib.save(mask, Path(folder, f"{name}.nii.gz"))
        seconds[name] = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / 1e6
    parameters = sum(parameter.numel() for parameter in segmenter.network.parameters())
    return {"seconds": seconds, "megabytes": peak, "parameters": parameters}


def _check_nnunet(python: Path) -> None:
    try:
        found = not subprocess.run([python, "-c", "import nnunetv2"], capture_output=True, check=False).returncode
    except OSError:
        found = False
    if not found:
        raise InputRefused(
            RefusalCode.MISSING_PACKAGE,
            f"{python} has no nnunetv2: make a virtual environment, pip install nnunetv2, and name its python",
        )


def _nnunet(
    python: Path,
    cases: Mapping[str, Sequence[Mapping[str, Any]]],
    folder: Path,
    minutes: float,
    memory_target: float,
    structures: int,
) -> dict[str, Any]:
    """Plans, trains and predicts with nnU-Net."""
    raw = folder / "raw" / "Dataset001_peer"
    for case in cases["train"]:
        name = file_name(case["id"])
        _export(case["image"], raw / "imagesTr" / f"{name}_0000.nii.gz")
        _export(case["label"], raw / "labelsTr" / f"{name}.nii.gz", np.uint8)
    for case in cases["val"]:
        _export(case["image"], folder / "images" / f"{file_name(case['id'])}_0000.nii.gz")
    labels = {"background": 0} | {f"structure{number}": number for number in range(1, structures + 1)}
    description = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"}
    write_text(raw / "dataset.json", json.dumps({**description, "numTraining": len(cases["train"])}), overwrite=True)

    def worker(*words: object) -> dict[str, Any]:
        places = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
        environment = {**os.environ, **{key: str(folder / place) for key, place in places.items()}}
        environment[nnunet_worker.BF16] = "1" if has_fast_bf16(torch.device("cpu")) else ""
        command = [str(python), nnunet_worker.__file__, *map(str, words)]
        with open(folder / LOG, "a", encoding="utf-8") as log:
            try:
                said, ran = run_program(command, environment, log)
            except subprocess.CalledProcessError as error:
                log.write(error.stdout)
                raise
            log.write(said)
        answer: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
        return answer | {"megabytes": ran.megabytes}

    worker("plan", PLANS, memory_target)
    seconds = worker("train", PLANS, 1, NNUNET_STEPS)["seconds_a_step"]
    epochs = max(1, round(60 * minutes / (seconds * (NNUNET_STEPS + 1 / 3))))  # a step of validation is a third
    logger.info("%.2f s a step, %d steps an epoch: %d epochs", seconds, NNUNET_STEPS, epochs)
    found = worker("train", PLANS, epochs, NNUNET_STEPS)
    return found | worker("predict", PLANS, folder / "images", folder / "masks")


def _export(source: str | Path, target: Path, dtype: type = np.float32) -> None:
    """Writes a volume as a plain NIfTI file of its true spacing."""
    series = read_series(source)
    spacing = np.linalg.norm(series.affine[:3, :3], axis=0)
    target.parent.mkdir(parents=True, exist_ok=True)
    values = np.asarray(series.image)[0].astype(dtype)
    nib.save(Nifti1Image(values, np.diag([*spacing, 1.0])), target)


def _row(
    bundle: Bundle, name: str, found: Mapping[str, Any], cases: Sequence[Mapping[str, Any]], masks: Path
) -> dict[str, Any]:
    """The row of a peer, with the scores of its masks."""
    dice, patients = [], []
    for case in cases:
        truth = read_series(case["label"])
        mask = np.asarray(Nifti1Image.from_filename(masks / f"{file_name(case['id'])}.nii.gz").dataobj)
        scores = score_volume(mask.astype(int), np.asarray(truth.image)[0].astype(int), truth.affine, bundle.labels)
        dice.append([score.dice for score in scores])
        patients.append(str(case["patient"]))
    overall = describe([float(np.mean(one)) for one in dice], patients)
    return {
        "network": TITLES[name],
        "steps": found["steps"],
        "batch_size": None if found["steps"] is None else found.get("batch_size", bundle.read("train")["batch_size"]),
        "parameters": found["parameters"],
        "dice": overall.mean,
        "dice_ci95_low": overall.ci95[0],
        "dice_ci95_high": overall.ci95[1],
        **{label.name: float(np.mean([one[at] for one in dice])) for at, label in enumerate(bundle.labels)},
        "seconds_a_volume": statistics.median(found["seconds"].values()),
        "peak_megabytes": found["megabytes"],
        "weights_megabytes": found["parameters"] * 4 / 1e6,
    }


def _written(rows: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """Writes the rows as CSV and Markdown; returns the latter."""
    write_text(folder / "peers.csv", csv_of(rows), overwrite=True)
    heading = ["network", "steps x slices", "Dice [95% CI]", "s a volume", "peak MB", "weights, MB"]
    lines = [
        [
            row["network"],
            "-" if row["steps"] is None else f"{row['steps']:,} x {row['batch_size']}",
            f"{row['dice']:.3f} [{row['dice_ci95_low']:.3f}, {row['dice_ci95_high']:.3f}]",
            f"{row['seconds_a_volume']:.2f}",
            f"{row['peak_megabytes']:,.0f}",
            f"{row['weights_megabytes']:.1f}",
        ]
        for row in rows
    ]
    table = "\n".join(table_of([heading, *lines]))
    write_text(folder / "peers.md", table + "\n", overwrite=True)
    return table
