"""``convformer-monai experiment``: networks trained and evaluated alike, and the table that compares them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convformer_monai.bundle import file_sha256
from convformer_monai.bundle_run import bundle_folder, check_overrides, dataset_path, run_path
from convformer_monai.commands.lists import names_in, numbers_in, positive_in
from convformer_monai.datalist import datalist_path
from convformer_monai.errors import EXIT_FAULT, InputRefused, RefusalCode

__all__ = ["ExperimentOptions", "pack", "run_experiment"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExperimentOptions:
    """Which cells of an experiment are done, and how.

    Attributes:
        preset: size of the nets.
        nets: names, separated by commas; empty for all.
        blocks: the same.
        seeds: whole numbers, separated by commas.
        jobs: cells at a time.
        max_minutes: nothing begins after so many minutes; 0 for no limit.
        learning_rates: to choose from for each net and family of blocks, separated by commas; empty for the bundle's.
        folds: of a bundle that is cross-validated, separated by commas; empty for all.
    """

    preset: str = "small"
    nets: str | None = None
    blocks: str | None = None
    seeds: str = "0"
    jobs: int = 1
    max_minutes: float = 0
    learning_rates: str | None = None
    folds: str | None = None


def run_experiment(
    experiment: str,
    bundle: str,
    data: Path,
    output_dir: Path | None,
    options: ExperimentOptions,
    overrides: Sequence[str] = (),
) -> tuple[str, int]:
    """Does what is left of an experiment.

    Args:
        experiment: one of :data:`convformer_monai.experiments.EXPERIMENTS`.
        bundle: see :class:`convformer_monai.bundle.Bundle`; its data, training and evaluation are used.
        data: folder that holds ``datalist.json``, or a datalist of another name.
        output_dir: of the experiment; ``None`` for ``runs/<experiment>/<bundle>`` where the user stands.
        options: which cells.
        overrides: words ``--ID VALUE`` for ids of ``train.json``, for every training.

    Returns:
        The table, empty before the first cell is done, and the exit code.

    Raises:
        InputRefused: if the bundle, a path, an id or a name cannot be used.
    """
    root, dataset = bundle_folder(bundle), dataset_path(data)
    checked, seeds = check_overrides(root, overrides), numbers_in(options.seeds, "--seeds")
    folder = run_path(output_dir, bundle, experiment=experiment)
    rates = positive_in(options.learning_rates, "--learning-rates")
    _refuse_own(checked, experiment, bool(rates))
    from convformer_monai.experiments import Runner, choose_rates, draw_pictures, make_cells, write_table

    try:
        cells = make_cells(experiment, root, options.preset, names_in(options.nets), names_in(options.blocks))
    except ValueError as error:
        raise InputRefused(RefusalCode.OPTION, str(error)) from error
    folds = numbers_in(options.folds, "--folds") if options.folds else []
    about = {
        "experiment": experiment,
        "preset": options.preset,
        "learning_rates": ",".join(f"{rate:g}" for rate in rates),
    }
    if datalist_path(dataset).is_file():
        about["datalist_sha256"] = file_sha256(datalist_path(dataset))
    runner = Runner(root, str(dataset), folder, checked, options.max_minutes, options.jobs, folds, about)
    if rates:
        chosen, failed = choose_rates(runner, cells, rates, seeds[0])
        if failed:
            logger.error("failed: %s", "; ".join(failed))
            return "", EXIT_FAULT
        if chosen is None:
            logger.info("not every learning rate was tried; the same command goes on")
            return "", 0
        cells = chosen

    def show() -> str:
        runner.record.take(runner, cells, seeds)
        return write_table(runner.record, cells, seeds, checked)

    failed = runner.run(cells, seeds, show)
    table = show()
    draw_pictures(folder)
    if failed:
        logger.error("failed: %s", "; ".join(failed))
        return table, EXIT_FAULT
    left = sum(not runner.is_done(cell, seed) for cell in cells for seed in seeds)
    if left:
        logger.info("%d trainings are left; the same command goes on", left)
    return table, 0


def _refuse_own(overrides: Sequence[str], experiment: str, rates: bool) -> None:
    """Refuses ids that the experiment itself sets, one value for each training.

    Raises:
        InputRefused: ``OPTION``.
    """
    own = {"seed": "--seeds sets it", "network_def": "the experiment sets it"}
    if experiment == "fraction":
        own["share"] = "the experiment sets it"
    if rates:
        own["learning_rate"] = "--learning-rates sets it"
    for word in overrides:
        name = word.removeprefix("--").partition("#")[0]
        if word.startswith("--") and name in own:
            raise InputRefused(RefusalCode.OPTION, f"leave {word} out: {own[name]}")


def pack(
    bundle: str, data: Path, output_dir: Path | None, part_mib: float, overrides: Sequence[str] = ()
) -> list[Path]:
    """Packs the data and packages of a bundle's experiments; see :mod:`convformer_monai.experiments.pack`.

    Args:
        bundle: see :func:`run_experiment`.
        data: see there.
        output_dir: an empty folder; ``None`` for ``runs/pack/<bundle>`` where the user stands.
        part_mib: size of a part, 2^20 bytes.
        overrides: must be empty; they are for the experiment.

    Returns:
        The files.

    Raises:
        InputRefused: if the bundle, the data or the folder cannot be used.
    """
    if overrides:
        raise InputRefused(RefusalCode.OPTION, f"pack takes no {overrides[0]}; give it to the run.sh of the pack")
    root, dataset = bundle_folder(bundle), dataset_path(data)
    from convformer_monai.experiments import pack_experiment

    return pack_experiment(root, Path(dataset), run_path(output_dir, bundle, experiment="pack"), part_mib)
