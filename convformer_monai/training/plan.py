"""Several trainings one after another, unattended: a bundle's network and its controls, with every stage of each.

The plan is the bundle's ``configs/runs.json``::

    {"networks": {"convformer": {}, "conv": {"network_def#block": "conv"}},
     "stages": [{"name": "pretrain", "options": {...}}, {"name": "final", "options": {"pretrained": "{pretrain}"}}]}

A network is what it changes in ``inference.json``, a stage what it changes in ``train.json``; in a stage's options
``{pretrain}`` means the best weights of the stage of that name. Each run is one ``python -m monai.bundle run`` and
writes to ``OUT/<network>/<stage>``. Started again, the command goes on where it stopped.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from convformer_monai.bundle import Bundle
from convformer_monai.bundle_run import bundle_command
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.training.handlers import BEST

__all__ = ["ending_together", "is_finished", "network_of", "read_plan", "run_logged", "run_plan", "run_stages"]

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
_running: set[subprocess.Popen[bytes]] = set()


def read_plan(bundle_root: Path) -> dict[str, Any]:
    """Reads and checks a bundle's plan.

    Raises:
        InputRefused: if there is none, or it is not a plan.
    """
    bundle = Bundle(bundle_root)
    path = bundle.path("runs")
    try:
        plan: dict[str, Any] = bundle.read("runs")
        stages = [str(stage["name"]) for stage in plan["stages"]]
        networks = list(plan["networks"])
    except (InputRefused, KeyError, TypeError) as error:
        reason = error.message if isinstance(error, InputRefused) else f"{type(error).__name__}: {error}"
        raise InputRefused(RefusalCode.PLAN, f"{path} is not a plan of trainings; {reason}") from error
    if not networks or not stages or len(set(stages)) < len(stages):
        raise InputRefused(RefusalCode.PLAN, f"{path} must name networks, and stages each of its own name")
    return plan


def network_of(bundle_root: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The whole ``network_def`` of a network of a plan.

    Args:
        bundle_root: folder of the bundle.
        changes: values by id that replace those of ``inference.json``.
    """
    whole: dict[str, Any] = {"network_def": Bundle(bundle_root).read("inference")["network_def"]}
    for key, value in changes.items():
        *path, last = key.split("#")
        place = whole
        for name in path:
            place = place[name]
        place[last] = value
    definition: dict[str, Any] = whole["network_def"]
    return definition


def run_plan(
    bundle_root: Path,
    dataset_dir: str,
    output_dir: Path,
    options: Sequence[str] = (),
    networks: Sequence[str] = (),
    max_minutes: float = 0,
) -> bool:
    """Runs what is left of a bundle's plan.

    Args:
        bundle_root: folder of the bundle.
        dataset_dir: for every run.
        output_dir: of all runs.
        options: of the command line, for every run; they win over the plan.
        networks: which; none for all.
        max_minutes: no run begins, and none goes on beyond an epoch's end, after so many minutes; 0 for no limit.

    Returns:
        Whether the plan is complete.

    Raises:
        InputRefused: if the plan or a name is unusable.
        subprocess.CalledProcessError: if a run fails.
    """
    plan = read_plan(bundle_root)
    for name in networks:
        if name not in plan["networks"]:
            raise InputRefused(RefusalCode.PLAN, f"there is no network {name!r}, only {', '.join(plan['networks'])}")
    started = time.monotonic()
    for network in networks or plan["networks"]:
        logger.info("network %s", network)
        changes = {"network_def#overrides": plan["networks"][network]} if plan["networks"][network] else {}
        left = max_minutes and max_minutes - (time.monotonic() - started) / 60
        if left < 0:
            return False
        if not run_stages(bundle_root, dataset_dir, output_dir / network, plan["stages"], changes, options, left):
            return False
    return True


def run_stages(
    bundle_root: Path,
    dataset_dir: str,
    output_dir: Path,
    stages: Sequence[Mapping[str, Any]],
    values: Mapping[str, Any],
    options: Sequence[str] = (),
    max_minutes: float = 0,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> bool:
    """Runs what is left of the stages of one network, each into the folder of its name.

    Args:
        bundle_root: folder of the bundle.
        dataset_dir: for every run.
        output_dir: of the network.
        stages: as in a plan.
        values: ids of ``train.json`` that the network changes.
        options: of the command line, for every run; they win over the stages.
        max_minutes: see :func:`run_plan`.
        environment: variables of the processes; None for those of this one.
        log: file that gets what they print; None for this process's own output.

    Returns:
        Whether all stages are finished.

    Raises:
        subprocess.CalledProcessError: if a run fails.
    """
    started = time.monotonic()
    folders = {stage["name"]: output_dir / stage["name"] for stage in stages}
    best = {name: str(folder / BEST) for name, folder in folders.items()}
    for stage in stages:
        folder = folders[stage["name"]]
        if is_finished(folder):
            continue
        left = max_minutes and max_minutes - (time.monotonic() - started) / 60
        if left < 0:
            return False
        logger.info("stage %s", stage["name"])
        changes: dict[str, Any] = {**stage.get("options", {}), **values}
        changes = {key: value.format(**best) if isinstance(value, str) else value for key, value in changes.items()}
        if left:
            changes["max_minutes"] = left
        _train(bundle_root, dataset_dir, folder, changes, options, environment, log)
        if not is_finished(folder):
            return False
    return True


def _train(
    bundle_root: Path,
    dataset_dir: str,
    folder: Path,
    values: Mapping[str, Any],
    options: Sequence[str],
    environment: Mapping[str, str] | None,
    log: Path | None,
) -> None:
    command = bundle_command(bundle_root, "train", dataset_dir, folder, values)
    run_logged([*command, *options], environment, log)


def run_logged(command: Sequence[str], environment: Mapping[str, str] | None = None, log: Path | None = None) -> None:
    """Runs a command.

    Args:
        command: program and arguments.
        environment: its variables; None for those of this process.
        log: file to which what it prints is appended; None for this process's own output.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    if log is None:
        status = _run(command, environment)
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8") as file:
            status = _run(command, environment, file)
    if status:
        raise subprocess.CalledProcessError(status, command)


def _run(command: Sequence[str], environment: Mapping[str, str] | None, output: IO[str] | None = None) -> int:
    """Runs a command, and ends it with this process."""
    errors = None if output is None else subprocess.STDOUT
    with subprocess.Popen(command, env=environment, stdout=output, stderr=errors) as child:
        _running.add(child)
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            raise
        finally:
            _running.discard(child)


@contextmanager
def ending_together() -> Iterator[None]:
    """While it lasts, SIGTERM ends the commands of :func:`run_logged`, too; for the main thread."""

    def end(number: int, _frame: object) -> None:
        for child in list(_running):
            child.terminate()
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def is_finished(folder: Path) -> bool:
    """Tells whether a run reached its last epoch.

    Args:
        folder: its output folder.
    """
    file = folder / CHECKPOINT
    if not (file.is_file() and (folder / BEST).is_file()):
        return False
    trainer = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["trainer"]
    return bool(trainer["iteration"] >= trainer["max_epochs"] * trainer["epoch_length"])
