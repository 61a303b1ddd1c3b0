"""``convformer-monai evaluate``: a bundle on labelled data, or a look at its doubt, flags or thresholds."""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convformer_monai.bundle import Bundle
from convformer_monai.bundle_run import bundle_command, bundle_folder, dataset_path, eval_path, hand_over, monai_path
from convformer_monai.commands.lists import numbers_in
from convformer_monai.datalist import read_lists
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.cases import refuse_no_file

__all__ = [
    "EvaluateOptions",
    "evaluate",
    "evaluate_command",
    "evaluate_doubt",
    "evaluate_flags",
    "evaluate_peaks",
    "evaluate_scans",
    "evaluate_shifts",
    "takes_scans",
]

NETWORK = "convformer"
SUMMARY = "summary.json"  # of an evaluation on labels


@dataclass(frozen=True)
class EvaluateOptions:
    """What of a bundle is evaluated, and how.

    Attributes:
        section: of the datalist; ``None`` for the config's own.
        output_dir: folder for the results; ``None`` for that of :func:`eval_path`.
        overlays: number of pictures to draw.
        overlay_choice: which cases they show: ``worst``, ``best`` or ``first``.
        device: to run on.
        weights: file of the user's own weights.
        runs: folder that ``train --all`` wrote, for a cross-validation.
        folds: of the runs, separated by commas; ``None`` for all.
        network: name in the bundle's ``configs/runs.json``.
        network_def: definition of another network, as Python.
        overwrite: replace the results of another evaluation.
    """

    section: str | None = None
    output_dir: Path | None = None
    overlays: int | None = None
    overlay_choice: str | None = None
    device: str | None = None
    weights: Path | None = None
    runs: Path | None = None
    folds: str | None = None
    network: str | None = None
    network_def: str | None = None
    overwrite: bool = False

    def refuse(self, names: str, purpose: str) -> None:
        """Refuses options that a purpose cannot take."""
        for name in names.split():
            if getattr(self, name) is not None:
                raise InputRefused(RefusalCode.OPTION, f"--{name.replace('_', '-')} is not for {purpose}")


def evaluate(bundle: str, data: Path, options: EvaluateOptions) -> None:
    """Evaluates a bundle in the place of this process; see :func:`evaluate_command`."""
    hand_over(evaluate_command(bundle, data, options))


def evaluate_command(bundle: str, data: Path, options: EvaluateOptions) -> list[str]:
    """The command that evaluates a bundle.

    Args:
        bundle: see :class:`convformer_monai.bundle.Bundle`.
        data: folder that holds ``datalist.json``, or a datalist of another name.
        options: what else was asked for.

    Raises:
        InputRefused: if the bundle, a path or an option cannot be used.
    """
    root, dataset = bundle_folder(bundle), dataset_path(data)
    names = ("section", "overlays", "overlay_choice", "device")
    values: dict[str, Any] = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.runs is not None:
        raise InputRefused(RefusalCode.OPTION, "--runs is for the folds of hemorrhage; this evaluation has none")
    options.refuse("folds", "an evaluation without --runs")
    if options.weights is not None:
        values |= {"weights": str(monai_path(options.weights)), "weights_sha256": ""}
    if options.network is not None:
        values |= _network(root, options)
    elif options.network_def is not None:
        values["network_def"] = options.network_def
    if options.weights is not None and not options.weights.expanduser().is_file():
        refuse_no_file(options.weights, "give the best.pt of a training", RefusalCode.WEIGHTS_NOT_FOUND)
    folder = _free_folder(bundle, options, SUMMARY)
    return bundle_command(root, ["inference", "evaluate"], str(dataset), folder, values)


def evaluate_doubt(bundle: str, data: Path, options: EvaluateOptions) -> str:
    """Tells which measure of doubt finds bad masks, and how well probabilities are calibrated.

    See :func:`convformer_monai.evaluation.doubt.report_doubt`.

    Args:
        bundle: see :func:`evaluate_command`.
        data: see there.
        options: of which it takes the output folder, and of hemorrhage the runs.

    Returns:
        The summary, for people.

    Raises:
        InputRefused: if the bundle, a path, an option, the data or the weights cannot be used.
    """
    options.refuse("section overlays overlay_choice device weights folds network network_def", "--doubt")
    root, dataset = bundle_folder(bundle), dataset_path(data)
    scans = bool(Bundle(root).read("evaluate").get("scan_lists"))
    if scans != (options.runs is not None):
        raise InputRefused(
            RefusalCode.OPTION,
            "--doubt of hemorrhage goes by --runs, the folder of train --all"
            if scans
            else "--runs is for the folds of hemorrhage; this evaluation has none",
        )
    folder = _free_folder(bundle, options, "doubt.json")
    from convformer_monai.evaluation.doubt import report_doubt

    return report_doubt(root, dataset, folder, _network_runs(options) if scans else None)


def evaluate_flags(bundle: str, data: Path, options: EvaluateOptions) -> str:
    """Measures how often each flag is raised on the experts' masks; writes ``flags.csv``.

    Args:
        bundle: see :func:`evaluate_command`.
        data: see there.
        options: of which it takes the sections, separated by commas, and the output folder.

    Returns:
        The table, for people.

    Raises:
        InputRefused: if the bundle, a path, an option or the data cannot be used.
    """
    options.refuse("overlays overlay_choice device weights runs folds network network_def", "--flags")
    root, dataset = bundle_folder(bundle), dataset_path(data)
    folder = _free_folder(bundle, options, "flags.csv")
    from convformer_monai.evaluation.flag_rates import report_flags

    sections = [name.strip() for name in (options.section or "val").split(",")]
    return report_flags(root, dataset, folder, sections)


def evaluate_shifts(bundle: str, data: Path, options: EvaluateOptions) -> str:
    """Scores the validation images changed as other scanners might have made them; writes ``shifts.csv``.

    See :mod:`convformer_monai.evaluation.shifts`.

    Args:
        bundle: see :func:`evaluate_command`.
        data: see there.
        options: of which it takes the weights and the output folder.

    Returns:
        The table, for people.

    Raises:
        InputRefused: if the bundle, a path, an option, the data or the weights cannot be used.
    """
    options.refuse("section overlays overlay_choice device runs folds network network_def", "--shifts")
    root, dataset = bundle_folder(bundle), dataset_path(data)
    folder = _free_folder(bundle, options, "shifts.csv")
    from convformer_monai.evaluation.shifts import report_shifts

    return report_shifts(root, dataset, folder, options.weights)


def takes_scans(bundle: str, data: Path, options: EvaluateOptions) -> bool:
    """Whether an evaluation is one of whole heads and slices.

    So it is where the bundle's ``evaluate.json`` names ``scan_lists``, the datalist has one of them, and the user names
    no other list.

    Raises:
        InputRefused: if the bundle cannot be used; of an unusable datalist the evaluation itself tells.
    """
    lists = Bundle(bundle_folder(bundle)).read("evaluate").get("scan_lists", ())
    if options.section is not None or not lists:
        return False
    try:
        return bool(set(lists) & set(read_lists(dataset_path(data))))
    except InputRefused:
        return False


def evaluate_scans(bundle: str, data: Path, options: EvaluateOptions) -> str:
    """Scores whole heads and single slices for hemorrhage; see :mod:`convformer_monai.evaluation.head_scans`.

    Args:
        bundle: see :func:`evaluate_command`.
        data: see there; with one of the lists ``heads``, ``expert``, ``gold``, ``normal``.
        options: of which it takes the output folder, the overlays, and the weights or the runs with the network.

    Returns:
        The tables, for people.

    Raises:
        InputRefused: if the bundle, a path, an option or the data cannot be used.
    """
    options.refuse("overlay_choice device", "whole heads and slices; --section NAME takes them")
    root, dataset = bundle_folder(bundle), dataset_path(data)
    if options.weights is not None:
        options.refuse("runs", "--weights")
    if options.runs is None:
        options.refuse("folds", "an evaluation without --runs")
    runs = None if options.runs is None else _network_runs(options)
    from convformer_monai.evaluation.head_folds import ALL_FOLDS
    from convformer_monai.evaluation.head_report import report_scans

    folds = list(ALL_FOLDS) if options.folds is None else numbers_in(options.folds, "--folds")
    if not set(folds) <= set(ALL_FOLDS):
        raise InputRefused(RefusalCode.OPTION, f"--folds must be among {', '.join(map(str, ALL_FOLDS))}")
    folder, network = _free_folder(bundle, options, "scans.json"), _network(root, options)
    return report_scans(root, dataset, folder, options.weights, runs, options.overlays or 0, network, folds)


def evaluate_peaks(bundle: str, data: Path, options: EvaluateOptions) -> str:
    """Scores heads and expert slices at several thresholds, by the networks of the folds; writes ``peaks.csv``.

    Args:
        bundle: see :func:`evaluate_command`.
        data: see :func:`evaluate_scans`.
        options: of which it takes the output folder, the runs and the network.

    Returns:
        The table, for people.

    Raises:
        InputRefused: if the bundle, a path, an option, the data or the weights cannot be used.
    """
    options.refuse("section overlays overlay_choice device weights folds network_def", "--peaks")
    root, dataset = bundle_folder(bundle), dataset_path(data)
    if options.runs is None or not Bundle(root).read("evaluate").get("scan_lists"):
        raise InputRefused(RefusalCode.OPTION, "--peaks is for hemorrhage, with --runs, the folder of train --all")
    folder = _free_folder(bundle, options, "peaks.csv")
    from convformer_monai.evaluation.head_report import report_peaks

    return report_peaks(root, dataset, folder, _network_runs(options), network=_network(root, options))


def _free_folder(bundle: str, options: EvaluateOptions, result: str) -> Path:
    """The folder of an evaluation, which holds no results of another one.

    Raises:
        InputRefused: ``EXISTS`` if it holds the file ``result`` and the user does not want it replaced.
    """
    parts = [part for part in (options.section, options.network) if part]
    if options.weights is not None:
        file = Path(os.path.abspath(options.weights))
        parts += [file.parent.name, file.stem]
    if options.runs is not None:
        parts.append(Path(os.path.abspath(options.runs)).name)
    folder = eval_path(options.output_dir, bundle, *parts)
    if (folder / result).exists() and not options.overwrite:
        raise InputRefused(
            RefusalCode.EXISTS,
            f"{folder / result} is there already; add --overwrite to replace that evaluation, or give another "
            "--output-dir",
        )
    if (folder / result).exists():
        for old in (*folder.glob("overlays/*.png"), *folder.glob("agreement_*.png"), *folder.glob("function.csv")):
            old.unlink()  # of the evaluation that is replaced
    return folder


def _network_runs(options: EvaluateOptions) -> Path:
    """The folder of one network's folds: that of its name in the folder of ``train --all``, or the folder itself."""
    folder = monai_path(options.runs or Path())
    named = folder / (options.network or NETWORK)
    return named if options.network or named.is_dir() else folder


def _network(root: Path, options: EvaluateOptions) -> dict[str, Any]:
    """What the named or given network changes in ``inference.json``.

    Raises:
        InputRefused: if it cannot be read, or both are given.
    """
    if options.network is not None:
        options.refuse("network_def", "--network, which names one")
        return _control(root, options.network)
    if options.network_def is None:
        return {}
    try:
        return {"network_def": ast.literal_eval(options.network_def)}
    except (ValueError, SyntaxError) as error:
        raise InputRefused(RefusalCode.OPTION, f"--network-def must be a Python dictionary: {error}") from error


def _control(root: Path, network: str) -> dict[str, Any]:
    """What a network of ``configs/runs.json`` changes in ``inference.json``."""
    bundle = Bundle(root)
    if not bundle.has("runs"):
        raise InputRefused(RefusalCode.PLAN, f"{root.name} has no configs/runs.json: leave --network out")
    networks: dict[str, dict[str, Any]] = bundle.read("runs")["networks"]
    if network not in networks:
        raise InputRefused(RefusalCode.OPTION, f"--network must be one of {', '.join(networks)}, got {network}")
    return networks[network]
