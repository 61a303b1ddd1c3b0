"""``convformer-monai evaluate``: a bundle on labelled data, cross-validated, or with a look at its doubt or peaks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convformer_monai.bundle_run import bundle_command, bundle_folder, dataset_path, hand_over, monai_path
from convformer_monai.errors import InputRefused

__all__ = ["EvaluateOptions", "evaluate", "evaluate_command", "evaluate_doubt", "evaluate_peaks"]

CROSS_VALIDATION = "crossvalidate"
NETWORK = "convformer"


@dataclass(frozen=True)
class EvaluateOptions:
    """What of a bundle is evaluated, and how.

    Attributes:
        section: of the datalist; ``None`` for the config's own.
        output_dir: folder for the results; ``None`` for ``eval`` in the bundle.
        overlays: number of pictures to draw.
        overlay_choice: which cases they show: ``worst``, ``best`` or ``first``.
        device: to run on.
        weights: file of the user's own weights.
        runs: folder that ``train --all`` wrote, for a cross-validation.
        network: name in the bundle's ``configs/runs.json``.
        network_def: definition of another network, as Python.
    """

    section: str | None = None
    output_dir: Path | None = None
    overlays: int | None = None
    overlay_choice: str | None = None
    device: str | None = None
    weights: Path | None = None
    runs: Path | None = None
    network: str | None = None
    network_def: str | None = None


def evaluate_command(bundle: str, data: Path, options: EvaluateOptions) -> list[str]:
    """The command that evaluates a bundle.

    Args:
        bundle: see :func:`convformer_monai.catalogue.bundle_path`.
        data: folder that holds ``datalist.json``, or a datalist of another name.
        options: what else was asked for.

    Raises:
        InputRefused: if the bundle, a path or an option cannot be used.
    """
    root, dataset = bundle_folder(bundle), dataset_path(data)
    names = ("section", "overlays", "overlay_choice", "device")
    values: dict[str, Any] = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.weights is not None:
        values |= {"weights": str(monai_path(options.weights)), "weights_sha256": ""}
    config = "evaluate"
    if options.runs is not None:
        _check_folds(root, "leave --runs out")
        for name in ("section", "overlay_choice", "weights"):
            if name in values:
                raise InputRefused("OPTION", f"--{name.replace('_', '-')} is not for a cross-validation with --runs")
        config = CROSS_VALIDATION
        values["weights"] = str(_network_runs(options.runs, options.network) / "fold{fold}" / "best.pt")
    if options.network is not None and options.network_def is not None:
        raise InputRefused("OPTION", "give --network or --network-def, not both")
    if options.network is not None:
        values["inference_overrides"] = repr(_control(root, options.network))
    elif options.network_def is not None:
        values["inference_overrides"] = f"{{'network_def': {options.network_def}}}"
    output_dir = None if options.output_dir is None else monai_path(options.output_dir)
    return bundle_command(root, config, str(dataset), output_dir, values)


def evaluate(bundle: str, data: Path, options: EvaluateOptions) -> None:
    """Evaluates a bundle in the place of this process; see :func:`evaluate_command`."""
    hand_over(evaluate_command(bundle, data, options))


def evaluate_doubt(bundle: str, data: Path, options: EvaluateOptions) -> str:
    """Compares the cases that are flagged for doubt with the others; writes ``doubt.csv`` and ``doubt.json``.

    Args:
        bundle: as for :func:`evaluate_command`.
        data: see there.
        options: of which it takes the output folder, the runs and the network.

    Returns:
        The summary, for people.

    Raises:
        InputRefused: if the bundle, a path, the data or the weights cannot be used.
    """
    root, dataset = _prepare(bundle, data, options, "--doubt")
    if options.runs is not None:
        _check_folds(root, "leave --runs out")
    from convformer_monai.evaluation.doubt import report_doubt

    runs = None if options.runs is None else _network_runs(options.runs, options.network)
    return report_doubt(root, dataset, monai_path(options.output_dir or root / "eval"), runs)


def evaluate_peaks(bundle: str, data: Path, options: EvaluateOptions) -> str:
    """Measures what leaving out unsure parts of the mask does; writes ``peaks.csv``.

    Args:
        bundle: a bundle with folds; as for :func:`evaluate_command`.
        data: see there.
        options: as for :func:`evaluate_doubt`; the runs are needed.

    Returns:
        The table, for people.

    Raises:
        InputRefused: if the bundle, a path, the data or the weights cannot be used.
    """
    root, dataset = _prepare(bundle, data, options, "--peaks")
    if options.runs is None:
        raise InputRefused("OPTION", "--peaks needs --runs, the folder that train --all wrote")
    _check_folds(root, "leave --peaks out")
    from convformer_monai.evaluation.confidence import report_peaks

    runs = _network_runs(options.runs, options.network)
    return report_peaks(root, dataset, monai_path(options.output_dir or root / "eval"), runs)


def _prepare(bundle: str, data: Path, options: EvaluateOptions, name: str) -> tuple[Path, Path]:
    """Checks bundle and data, and that nothing was asked for that this measurement would not do."""
    for other in ("section", "overlays", "overlay_choice", "device", "weights", "network_def"):
        if getattr(options, other) is not None:
            raise InputRefused("OPTION", f"--{other.replace('_', '-')} is not for {name}")
    return bundle_folder(bundle), dataset_path(data)


def _check_folds(root: Path, remedy: str) -> None:
    if not (root / "configs" / f"{CROSS_VALIDATION}.json").is_file():
        raise InputRefused("OPTION", f"{root.name} has no folds: {remedy}")


def _network_runs(runs: Path, network: str | None) -> Path:
    return monai_path(runs) / (network or NETWORK)


def _control(root: Path, network: str) -> dict[str, Any]:
    """What a network of ``configs/runs.json`` changes in ``inference.json``."""
    file = root / "configs" / "runs.json"
    if not file.is_file():
        raise InputRefused("PLAN", f"{root.name} has no configs/runs.json: leave --network out")
    networks: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["networks"]
    if network not in networks:
        raise InputRefused("OPTION", f"--network must be one of {', '.join(networks)}, got {network}")
    return networks[network]
