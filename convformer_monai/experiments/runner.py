"""Trains, evaluates and measures the cells of an experiment; goes on where it was stopped.

Each cell and seed has a folder ``OUT/<cell>/seed<K>`` with a folder for each stage of training, ``evaluation``,
``collapse.json`` (see :mod:`convformer_monai.analysis`) and ``log.txt``. What the record of the folder holds
(:mod:`convformer_monai.experiments.record`) needs none.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from convformer_monai.bundle import Bundle, component, load_weights
from convformer_monai.bundle_run import bundle_command
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.evaluation.comparison import CaseScores, read_scores
from convformer_monai.experiments.cells import Cell
from convformer_monai.experiments.record import COLLAPSE, EVALUATION, Record
from convformer_monai.outputs.atomic import write_text
from convformer_monai.training import SliceDataset
from convformer_monai.training.handlers import BEST
from convformer_monai.training.plan import ending_together, network_of, read_plan, run_logged, run_stages

__all__ = ["Runner"]

logger = logging.getLogger(__name__)

OPTIONS, LOG = "options.json", "log.txt"
IMAGES = 8  # validation images on which attention collapse is measured


class Runner:
    """Works through cells and seeds.

    Args:
        bundle_root: folder of the bundle whose data, training and evaluation are used.
        dataset_dir: as for ``convformer-monai train``.
        output_dir: of the experiment.
        options: of ``train.json``, for every training: the budget, above all.
        max_minutes: nothing begins, and no training goes on beyond an epoch's end, after so many minutes; 0 for no
            limit.
        jobs: cells at a time, which share the processor's cores.
        folds: of a bundle that is cross-validated; none for all.
        about: what else results must have in common to stand in one folder, by name.

    Raises:
        InputRefused: if the bundle has no plan or not these folds, or ``output_dir`` holds results of other options or
            files of another kind.
    """

    def __init__(
        self,
        bundle_root: Path,
        dataset_dir: str,
        output_dir: Path,
        options: Sequence[str] = (),
        max_minutes: float = 0,
        jobs: int = 1,
        folds: Sequence[int] = (),
        about: Mapping[str, str] | None = None,
    ) -> None:
        self.bundle_root = bundle_root
        self.dataset_dir = dataset_dir
        self.output_dir = output_dir
        self.options = list(options)
        self.deadline = time.monotonic() + 60 * max_minutes if max_minutes else None
        self.jobs = jobs
        self._lock = Lock()
        self.by_folds = "scan_lists" in Bundle(bundle_root).read("evaluate")
        self.scores = "slices.csv" if self.by_folds else "per_case.csv"
        self.folds = sorted(set(folds))
        self.stages = [stage for stage in read_plan(bundle_root)["stages"] if not stage.get("for_shipping")]
        if self.folds:
            there = [stage["options"]["fold"] for stage in self.stages if "fold" in stage.get("options", {})]
            if not set(self.folds) <= set(there):
                raise InputRefused(
                    RefusalCode.OPTION, f"folds of {bundle_root.name}: {', '.join(map(str, there)) or 'none'}"
                )
            self.stages = [stage for stage in self.stages if stage["options"]["fold"] in self.folds]
        self._keep_options(dict(about or {}))
        self.record = Record(output_dir)

    def _keep_options(self, about: dict[str, str]) -> None:
        """Notes the options beside the results, since cells of different budgets may not be compared."""
        file = self.output_dir / OPTIONS
        about |= {"folds": ",".join(map(str, self.folds))} if self.folds else {}
        now: dict[str, Any] = {"bundle": self.bundle_root.name, "options": self.options, **about}
        if not file.is_file():
            self.output_dir.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(now, indent=2) + "\n")
        elif (before := json.loads(file.read_text(encoding="utf-8"))) != now:
            other = ", ".join(key for key in {**before, **now} if before.get(key) != now.get(key))
            options = " ".join(before["options"]) or "none"
            raise InputRefused(
                RefusalCode.OTHER_OPTIONS,
                f"{self.output_dir} holds results of another {other} (bundle {before['bundle']}, options: {options}); "
                "give the same, or another --output_dir",
            )

    def folder(self, cell: Cell, seed: int) -> Path:
        """The folder of a cell and seed."""
        return self.output_dir / cell.name / f"seed{seed}"

    def is_done(self, cell: Cell, seed: int) -> bool:
        """Tells whether a cell is trained, evaluated and measured with a seed, here or by the record."""
        return (self.folder(cell, seed) / COLLAPSE).is_file() or self.record.holds(cell, seed)

    def case_scores(self, cell: Cell, seed: int) -> CaseScores:
        """Dice of each case by a cell that is done with a seed."""
        file = self.folder(cell, seed) / EVALUATION / self.scores
        return read_scores([file]) if file.is_file() else self.record.scores(cell, [seed])

    def adopt(self, trial: Cell, cell: Cell, seed: int) -> None:
        """Makes the results of a cell those of another name, which has the same network and training.

        Args:
            trial: is done with the seed.
            cell: keeps its own results, if it has any.
            seed: of the training.
        """
        source, target = self.folder(trial, seed), self.folder(cell, seed)
        if source.is_dir() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)

    def run(
        self, cells: Sequence[Cell], seeds: Sequence[int], after_each: Callable[[], object] = lambda: None
    ) -> list[str]:
        """Does what is left; a cell that fails does not stop the others.

        Args:
            cells: in the order in which to run.
            seeds: of the training; all cells with the first, then all with the next.
            after_each: called when a cell is done with a seed.

        Returns:
            The names of those that failed.
        """
        failed: list[str] = []

        def do(task: tuple[int, Cell]) -> None:
            seed, cell = task
            if self.is_done(cell, seed) or self._time_is_over():
                return
            logger.info("%s, seed %d: begins", cell.name, seed)
            try:
                done = self._do(cell, seed)
                if done:
                    after_each()
            except (subprocess.CalledProcessError, InputRefused) as error:
                failed.append(f"{cell.name}, seed {seed}")
                log = self.folder(cell, seed) / LOG
                logger.error("%s, seed %d: failed: %s; see %s", cell.name, seed, _reason(error, log), log)
                return
            logger.info("%s, seed %d: %s", cell.name, seed, "done" if done else "stopped by the time limit")

        with ThreadPoolExecutor(self.jobs) as pool, ending_together():
            try:
                list(pool.map(do, [(seed, cell) for seed in seeds for cell in cells]))
            except BaseException:
                self.deadline = 0.0  # what has not begun is left
                raise
        return failed

    def _time_is_over(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _do(self, cell: Cell, seed: int) -> bool:
        """Trains, evaluates and measures; returns whether the time was enough."""
        folder = self.folder(cell, seed)
        folder.mkdir(parents=True, exist_ok=True)
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        left = 0.0 if self.deadline is None else (self.deadline - time.monotonic()) / 60
        values = {**cell.values(), "seed": seed}
        finished = run_stages(
            self.bundle_root,
            self.dataset_dir,
            folder,
            self.stages,
            values,
            self.options,
            left,
            environment,
            folder / LOG,
        )
        if not finished:
            return False
        run_logged(self._evaluation(cell, folder), environment, folder / LOG)
        self._measure_collapse(cell, folder)
        return True

    def _evaluation(self, cell: Cell, folder: Path) -> list[str]:
        """The command that evaluates a trained cell."""
        if self.by_folds:
            command = [sys.executable, "-m", "convformer_monai.cli", "evaluate", str(self.bundle_root)]
            command += ["--data", self.dataset_dir, "--runs", str(folder), "--overwrite"]
            command += ["--output-dir", str(folder / EVALUATION)]
            if self.folds:
                command += ["--folds", ",".join(map(str, self.folds))]
            definition = repr(network_of(self.bundle_root, cell.network))
            return [*command, "--network-def", definition]
        weights = str(folder / self.stages[-1]["name"] / BEST)
        values: dict[str, Any] = {**cell.network, "weights": weights, "weights_sha256": ""}
        names = ["inference", "evaluate"]
        return bundle_command(self.bundle_root, names, self.dataset_dir, folder / EVALUATION, values)

    def _measure_collapse(self, cell: Cell, folder: Path) -> None:
        """Writes the measures of attention collapse of a cell, before and after training, on validation images."""
        from convformer_monai.analysis import measure_collapse

        with self._lock, torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = component(self.bundle_root, "inference", "network_def", cell.network).eval()
            with torch.inference_mode():
                untrained = [asdict(layer) for layer in measure_collapse(network, self._images)]
                load_weights(network, folder / self.stages[-1]["name"] / BEST).eval()
                layers = [asdict(layer) for layer in measure_collapse(network, self._images)]
        content: dict[str, Any] = {
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "images": len(self._images),
            "layers": layers,
            "untrained": untrained,
        }
        write_text(folder / COLLAPSE, json.dumps(content, indent=2) + "\n", overwrite=True)

    @cached_property
    def _images(self) -> torch.Tensor:
        """Validation images as the network sees them, ``(N, C, X, Y)``, of volumes slices with something to find."""
        if self.by_folds:
            part = component(self.bundle_root, "train", "validate#dataset", {"dataset_dir": self.dataset_dir})
            return part[torch.linspace(0, len(part) - 1, min(IMAGES, len(part))).long()]["image"].float()  # type: ignore[no-any-return]
        ids = ["validate#dataset#data", "validate#preprocessing", "canvas"]
        parts = component(self.bundle_root, "train", ids, {"dataset_dir": self.dataset_dir})
        cases, preprocessing, canvas = (parts[key] for key in ids)
        dataset = SliceDataset(cases[:: max(1, len(cases) // IMAGES)], preprocessing, canvas)
        labelled = (dataset[torch.arange(len(dataset))]["label"] > 0).flatten(1).any(1).nonzero().flatten()
        chosen = labelled[torch.linspace(0, len(labelled) - 1, min(IMAGES, len(labelled))).long()]
        return dataset.images[chosen].float()


def _reason(error: Exception, log: Path) -> str:
    """What a failed command said last, or the refusal."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    said = [line for line in lines if line.strip()]
    return said[-1].strip() if said and isinstance(error, subprocess.CalledProcessError) else str(error)
