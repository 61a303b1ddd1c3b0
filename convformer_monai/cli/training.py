"""The commands that train and compare networks: ``train``, ``evaluate``, ``experiment``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from convformer_monai.cli.console import print_text, start_logging
from convformer_monai.cli.options import BundleName, Data, MaxMinutes, Overwrite, ResultFolder
from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["evaluate", "experiment", "train"]


class OverlayChoice(str, Enum):
    """Which cases the pictures of an evaluation show."""

    WORST = "worst"
    BEST = "best"
    FIRST = "first"


class Experiment(str, Enum):
    """The comparisons of networks."""

    TABLE1 = "table1"
    ALPHA = "alpha"
    CONTROLS = "controls"
    FRACTION = "fraction"
    PACK = "pack"


def train(
    context: typer.Context,
    bundle: BundleName,
    data: Data,
    output_dir: ResultFolder = None,
    max_minutes: MaxMinutes = 0,
    processes: Annotated[int, typer.Option(min=1, help="GPUs, or processes on the CPU, to train on.")] = 1,
    cache_dir: Annotated[
        Path | None,
        typer.Option("--cache-dir", help="Keep prepared images in files there instead of in memory; made if missing."),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew instead of going on.")] = False,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="Start from the bundle's weights instead of from scratch.")
    ] = False,
    examples: Annotated[
        int, typer.Option(min=0, help="Draw so many training examples into FOLDER/examples.png, and stop.")
    ] = 0,
    all_runs: Annotated[bool, typer.Option("--all", help="Every run of the bundle's configs/runs.json.")] = False,
    networks: Annotated[str | None, typer.Option(help="Of --all only these networks, comma-separated.")] = None,
) -> None:
    """Train a bundle's network on your own images, from scratch or from the bundle's weights (--finetune).

    Takes the lists "train" and "val" of datalist.json: {"train": [{"image": "a.nii.gz", "label": "a_gt.nii.gz"}, ...],
    "val": [...]}, with paths relative to that file; hemorrhage takes the lists that configs/train.json names.

    Any other --ID VALUE replaces an id of the bundle's configs/train.json, also inside one: --max_epochs 20, --seed 1,
    --device cpu, --fold 0 (hemorrhage), --batch_size 8, --crop#0 96.

    Images are prepared once and held in memory. --cache-dir keeps them in files, for data larger than memory: the
    training is the same, and the next one finds them there.

    --finetune starts from the bundle's weights, with the small steps of its configs/finetune.json, into
    runs/BUNDLE-finetune; hemorrhage then takes the lists "train" and "val" of whole volumes.

    The folder, by default runs/BUNDLE, gets best.pt and best.json (the weights with the best validation, averaged over
    steps), checkpoint.pt and TensorBoard logs. Stopped at any time, the same command goes on from the last epoch.
    --all trains the network and its controls, all their stages, into FOLDER/NETWORK/STAGE.

    To put the weights into the bundle: convformer-monai export BUNDLE --weights FOLDER/best.pt
    """
    start_logging(times=True)
    from convformer_monai.commands.train import TrainOptions, train

    options = TrainOptions(
        output_dir=output_dir,
        max_minutes=max_minutes,
        processes=processes,
        cache_dir=cache_dir,
        restart=restart,
        finetune=finetune,
        examples=examples,
        all_runs=all_runs,
        networks=networks,
        overrides=tuple(context.args),
    )
    raise typer.Exit(train(bundle, data, options))


def evaluate(
    bundle: BundleName,
    data: Data,
    output_dir: ResultFolder = None,
    section: Annotated[str | None, typer.Option(help="List of the datalist (default val).")] = None,
    overlays: Annotated[int | None, typer.Option(min=0, help="Number of pictures to draw (default 0).")] = None,
    overlay_choice: Annotated[OverlayChoice | None, typer.Option(help="Cases they show (default worst).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Your own weights, instead of the bundle's.")] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Hemorrhage, each patient by the fold without it: the folder of train --all.")
    ] = None,
    folds: Annotated[str | None, typer.Option(help="Of --runs, comma-separated (default all).")] = None,
    network: Annotated[str | None, typer.Option(help="Network of configs/runs.json that the weights are of.")] = None,
    network_def: Annotated[str | None, typer.Option(help="Definition of that network, as train took it.")] = None,
    doubt: Annotated[
        bool, typer.Option("--doubt", help="Which measure of doubt finds bad masks? Is it calibrated?")
    ] = False,
    peaks: Annotated[bool, typer.Option("--peaks", help="Hemorrhage with --runs: what do thresholds do?")] = False,
    flags: Annotated[bool, typer.Option("--flags", help="How often are the experts' own masks flagged?")] = False,
    shifts: Annotated[
        bool, typer.Option("--shifts", help="MRI: what if another scanner had made the validation images?")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Compare a bundle's masks with labels, on the images' own grids.

    Writes per_case.csv (a row for each case and structure: Dice, HD95, average surface distance, volumes; of
    photographs Dice and Jaccard), summary.json and summary.md (means, medians, 95% bootstrap confidence intervals) and
    overlays/CASE.png; by default to eval/BUNDLE where you stand. Of other weights, or another list, the folder has
    another name: eval/BUNDLE-SECTION, eval/BUNDLE-FOLDER-best for --weights FOLDER/best.pt.

    Hemorrhage scores whole heads and single slices where the datalist has a list heads, expert, gold or normal and no
    --section is given (found or missed, slice by slice, mL where there is no blood; Dice by source, kind and size),
    into scans.md, scans.json, heads.csv and slices.csv. --overlays N then draws the N worst, median and best slices,
    and heads with false or missed blood. With --runs each patient is segmented by the network
    RUNS/NETWORK/foldK/best.pt that has not seen the patient; --folds 0 leaves out the patients of other folds.

    --doubt writes doubt.csv and doubt.json, calibration.csv, reliability.png and risk_coverage.png: how far the
    probabilities can be trusted, and which number best tells a bad mask. --peaks writes peaks.csv: what thresholds
    do in heads and expert slices. --flags writes flags.csv: how often each flag of doubt is raised on the experts'
    masks of the lists in --section (comma-separated). --shifts writes shifts.csv: Dice on images with other tone,
    contrast, blur, noise and size.
    """
    start_logging()
    from convformer_monai.commands.evaluate import (
        EvaluateOptions,
        evaluate,
        evaluate_doubt,
        evaluate_flags,
        evaluate_peaks,
        evaluate_scans,
        evaluate_shifts,
        takes_scans,
    )

    options = EvaluateOptions(
        section=section,
        output_dir=output_dir,
        overlays=overlays,
        overlay_choice=overlay_choice.value if overlay_choice else None,
        device=device,
        weights=weights,
        runs=runs,
        folds=folds,
        network=network,
        network_def=network_def,
        overwrite=overwrite,
    )
    if flags + shifts + doubt + peaks > 1:
        raise InputRefused(RefusalCode.OPTION, "--flags, --shifts, --doubt and --peaks: give one of them")
    if flags:
        print_text(evaluate_flags(bundle, data, options))
    elif shifts:
        print_text(evaluate_shifts(bundle, data, options))
    elif doubt:
        print_text(evaluate_doubt(bundle, data, options))
    elif peaks:
        print_text(evaluate_peaks(bundle, data, options))
    elif takes_scans(bundle, data, options):
        print_text(evaluate_scans(bundle, data, options))
    else:
        evaluate(bundle, data, options)


def experiment(
    context: typer.Context,
    experiment: Annotated[Experiment, typer.Argument(metavar="table1|alpha|controls|fraction|pack")],
    task: Annotated[
        str, typer.Option("--task", "-b", "--bundle", help="cardiac, dermoscopy, hemorrhage, or a bundle's folder.")
    ],
    data: Data,
    output_dir: ResultFolder = None,
    preset: Annotated[str, typer.Option(help="Size of the nets: small or full.")] = "small",
    nets: Annotated[str | None, typer.Option(help="Comma-separated; all by default.")] = None,
    blocks: Annotated[str | None, typer.Option(help="Comma-separated; all by default.")] = None,
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "0",
    jobs: Annotated[int, typer.Option(min=1, help="Networks to train at a time, which share the cores.")] = 1,
    max_minutes: MaxMinutes = 0,
    learning_rates: Annotated[
        str | None,
        typer.Option(help="Comma-separated: the best of these for each net and kind of block, by validation."),
    ] = None,
    folds: Annotated[
        str | None, typer.Option(help="Of hemorrhage, comma-separated: train and evaluate these only (default all).")
    ] = None,
    part_size: Annotated[float, typer.Option(min=0.001, help="Of pack: largest size of a file, MiB.")] = 44,
) -> None:
    """Train networks alike, evaluate them alike, and compare them in one table.

    table1 is Table 1 of the ConvFormer paper: the nets SETR, TransUNet, TransFuse, FATNet and Patcher, each with the
    blocks vit, reattention, layerscale, refiner and convformer, and the controls conv and identity. alpha is its
    ablation of the largest receptive field: alpha 0.2 to 1.0 in ConvFormer; SETR by default. controls is the bundle's
    own network beside the controls of its configs/runs.json. fraction trains that network, vit and conv in place of its
    blocks, and nnU-Net's on 5 to 100% of the patients, with about as many steps. pack packs data and packages for a
    machine without network, into files of --part-size, with a run.sh.

    All are trained by the bundle's recipe. Any other --ID VALUE replaces an id of its configs/train.json for all of
    them: --max_epochs 8. The folder, by default runs/EXPERIMENT/TASK, gets table.csv and table.md with a row for each
    network, and NETWORK/seedK with weights, log, evaluation and measures of attention collapse. Stopped at any time,
    the same command goes on.
    """
    start_logging(times=True)
    from convformer_monai.commands.experiment import ExperimentOptions, pack, run_experiment

    if experiment is Experiment.PACK:
        for path in pack(task, data, output_dir, part_size, context.args):
            typer.echo(path)
        return
    options = ExperimentOptions(preset, nets, blocks, seeds, jobs, max_minutes, learning_rates, folds)
    table, exit_code = run_experiment(experiment.value, task, data, output_dir, options, context.args)
    typer.echo(table or "no network is done yet")
    raise typer.Exit(exit_code)
