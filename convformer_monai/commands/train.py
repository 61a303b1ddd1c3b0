"""``convformer-monai train``: one training of a bundle's network, or all runs of the bundle's ``configs/runs.json``."""

from __future__ import annotations

import logging
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convformer_monai.bundle import Bundle
from convformer_monai.bundle_run import (
    bundle_command,
    bundle_folder,
    check_overrides,
    dataset_path,
    hand_over,
    monai_path,
    run_path,
)
from convformer_monai.commands.lists import names_in
from convformer_monai.datalist import read_cases, read_lists
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.cases import refuse_no_file

__all__ = ["TrainOptions", "train", "train_all", "train_command"]

logger = logging.getLogger(__name__)

FINETUNE = "finetune"


@dataclass(frozen=True)
class TrainOptions:
    """How a bundle is trained.

    Attributes:
        output_dir: folder of the run; ``None`` for ``runs/<bundle>`` where the user stands, or
            ``runs/<bundle>-finetune``.
        max_minutes: no run goes on beyond the end of an epoch after so many minutes; 0 for no limit.
        processes: to train in, by torchrun and the bundle's ``multi_gpu_train.json`` if there are several.
        cache_dir: folder for prepared images, instead of memory; made if missing.
        restart: begin anew instead of going on from the last epoch.
        examples: draw so many training examples instead; 0 to train.
        all_runs: do every run of the bundle's ``configs/runs.json``.
        finetune: start from the bundle's weights, by its ``finetune.json``.
        networks: of these only the networks with these names, separated by commas; empty for all.
        overrides: words ``--ID VALUE`` for ids of ``train.json``.
    """

    output_dir: Path | None = None
    max_minutes: float = 0
    processes: int = 1
    cache_dir: Path | None = None
    restart: bool = False
    examples: int = 0
    all_runs: bool = False
    finetune: bool = False
    networks: str | None = None
    overrides: tuple[str, ...] = ()


def train(bundle: str, data: Path, options: TrainOptions) -> int:
    """Trains a bundle's network, in the place of this process unless all runs are asked for.

    Args:
        bundle: see :class:`convformer_monai.bundle.Bundle`.
        data: folder that holds ``datalist.json``, or a datalist of another name.
        options: how.

    Returns:
        The exit code.

    Raises:
        InputRefused: if the bundle, a path or an option cannot be used.
    """
    if options.all_runs:
        return train_all(bundle, data, options)
    hand_over(train_command(bundle, data, options))


def train_command(bundle: str, data: Path, options: TrainOptions) -> list[str]:
    """The command that trains a bundle's network once; see :func:`train`."""
    if options.networks:
        raise InputRefused(RefusalCode.OPTION, "--networks chooses among the runs of --all")
    root, dataset, folder, overrides = _checked(bundle, data, options)
    if options.max_minutes:
        overrides += ["--max_minutes", f"{options.max_minutes:g}"]
    if options.examples:
        overrides += ["--run_id", "draw", "--example_count", str(options.examples)]
    if options.finetune:
        return bundle_command(root, ["train", FINETUNE], dataset, folder, _finetuning(root, options)) + overrides
    several = options.processes > 1
    if several:  # here, since of a refusal in a process torchrun says little
        _check_lists(root, dataset)
    command = bundle_command(root, ["train", "multi_gpu_train"] if several else "train", dataset, folder, {})
    if several:
        at = command.index("-m")
        command[at:at] = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(options.processes)]
    return command + overrides


def _check_lists(root: Path, dataset: str) -> None:
    """Refuses lists that a training could not read."""
    for section in Bundle(root).read("train").get("sections") or ("train", "val"):
        if section in read_lists(dataset) or section in ("train", "val"):
            read_cases(dataset, section, without_labels=section not in ("train", "val"))


def _finetuning(root: Path, options: TrainOptions) -> dict[str, Any]:
    """What a training that starts from the bundle's weights sets."""
    bundle = Bundle(root)
    if options.processes > 1:
        raise InputRefused(RefusalCode.OPTION, "--finetune trains in one process: leave --processes out")
    if not bundle.has(FINETUNE):
        raise InputRefused(RefusalCode.OPTION, f"{root} has no configs/{FINETUNE}.json: leave --finetune out")
    if not bundle.weights.is_file():
        refuse_no_file(bundle.weights, "get the bundle again", RefusalCode.WEIGHTS_NOT_FOUND)
    return {"pretrained": str(bundle.weights), "resume": not options.restart}


def train_all(bundle: str, data: Path, options: TrainOptions) -> int:
    """Does what is left of all runs of a bundle, one after another; see :func:`train`.

    The runs go to ``<network>/<stage>`` in the output folder. No run begins after ``max_minutes``.
    """
    if options.finetune:
        raise InputRefused(RefusalCode.OPTION, "--all trains from scratch: leave --finetune out")
    if options.processes > 1:
        raise InputRefused(RefusalCode.OPTION, "--all trains in one process at a time: leave --processes out")
    if options.restart:
        raise InputRefused(RefusalCode.OPTION, "--all does what is left: for a new start give another --output-dir")
    if options.examples:
        raise InputRefused(RefusalCode.OPTION, "--examples draws those of one training: leave --all out")
    root, dataset, folder, overrides = _checked(bundle, data, options)
    if not Bundle(root).has("runs"):
        raise InputRefused(RefusalCode.PLAN, f"{root} has no configs/runs.json for --all")
    from convformer_monai.training.plan import ending_together, run_plan

    try:
        with ending_together():
            done = run_plan(root, dataset, folder, overrides, names_in(options.networks), options.max_minutes)
    except subprocess.CalledProcessError as error:
        logger.error("a run failed with exit status %d; the same command goes on from its last epoch", error.returncode)
        return int(error.returncode)
    logger.info("all runs are done" if done else "the time is over; the same command goes on")
    return 0


def _cache_path(root: Path, cache_dir: Path) -> Path:
    """The folder of prepared images, as MONAI takes it."""
    if "cache_dir" not in Bundle(root).read("train"):
        raise InputRefused(RefusalCode.OPTION, f"{root}/configs/train.json takes no --cache-dir")
    folder = monai_path(cache_dir)
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise InputRefused(RefusalCode.CANNOT_WRITE, f"--cache-dir {cache_dir} is not a folder that can be written to")
    return folder


def _checked(bundle: str, data: Path, options: TrainOptions) -> tuple[Path, str, Path, list[str]]:
    """The bundle's folder, the data, the folder of the run and the ids to replace, as MONAI takes them."""
    root, dataset = bundle_folder(bundle), str(dataset_path(data))
    overrides = check_overrides(root, options.overrides)
    if options.cache_dir is not None:
        overrides += ["--cache_dir", str(_cache_path(root, options.cache_dir))]
    return (
        root,
        dataset,
        run_path(options.output_dir, bundle, *([FINETUNE] if options.finetune else [])),
        overrides + (["--resume", "False"] if options.restart else []),
    )
