"""Runs of a bundle's configs with MONAI's own command, ``python -m monai.bundle run``. Imports nothing heavy."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from convformer_monai.bundle import Bundle
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.cases import refuse_no_file

__all__ = [
    "bundle_command",
    "bundle_folder",
    "check_overrides",
    "dataset_path",
    "eval_path",
    "hand_over",
    "monai_path",
    "run_path",
]

SECURITY_WARNING = "parsing config_file"  # how it begins


def bundle_folder(bundle: str) -> Path:
    """Finds a bundle that MONAI can run.

    Args:
        bundle: see :func:`convformer_monai.bundle.Bundle`.

    Raises:
        InputRefused: if there is none, or it is a zip.
    """
    if Path(bundle).is_file():
        raise InputRefused(RefusalCode.BUNDLE_UNUSABLE, f"{bundle} is a file, and MONAI runs folders; unpack it first")
    return monai_path(Bundle(bundle).root)


def monai_path(path: Path) -> Path:
    """The absolute form of a path that MONAI's parser takes as it is.

    Raises:
        InputRefused: if it holds a ``#``, which the parser reads as a separator.
    """
    if "#" in str(path):
        raise InputRefused(
            RefusalCode.PATH, f"MONAI cannot take a path with '#': {path}; rename it or make a link to it"
        )
    return Path(os.path.abspath(path.expanduser()))


def dataset_path(path: Path) -> Path:
    """Checks the folder, or the datalist, that the user names with ``--data``.

    Raises:
        InputRefused: if it is no folder or file, or MONAI cannot take it.
    """
    folder = monai_path(path)
    if not (folder.is_file() or folder.is_dir()):
        advice = "give the folder that holds datalist.json as --data"
        refuse_no_file(path, advice, RefusalCode.DATALIST_MISSING)
    return folder


def run_path(output_dir: Path | None, bundle: str, *parts: str, experiment: str = "") -> Path:
    """The folder of a run: the user's, or ``runs/<experiment>/<bundle>`` where the user stands; parts as below."""
    return monai_path(output_dir or Path("runs") / experiment / "-".join([_last_name(bundle), *parts]))


def eval_path(output_dir: Path | None, bundle: str, *parts: str) -> Path:
    """The folder of an evaluation: the user's, or ``eval/<bundle>`` where the user stands.

    Args:
        output_dir: the user's.
        bundle: as the user names it.
        parts: what is evaluated in place of the bundle's own weights and list; the folder is named after it, too.
    """
    return monai_path(output_dir or Path("eval") / "-".join([_last_name(bundle), *parts]))


def _last_name(path: str | Path) -> str:
    return Path(os.path.abspath(path)).name


def check_overrides(bundle_root: Path, words: Sequence[str]) -> list[str]:
    """Checks the words ``--ID VALUE`` that replace ids of a bundle's ``train.json``.

    Args:
        bundle_root: folder of the bundle.
        words: of the command line. ``--ID=VALUE`` is allowed, and dashes for the underscores of an id.

    Returns:
        The words, each id as the config spells it, each followed by its value.

    Raises:
        InputRefused: if the config has no such id, or a value is missing.
    """
    bundle = Bundle(bundle_root)
    if not bundle.has("train"):
        raise InputRefused(RefusalCode.OPTION, f"{bundle_root} has no configs/train.json")
    ids = bundle.read("train")
    checked, rest = [], list(words)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        if not option.startswith("--"):
            raise InputRefused(RefusalCode.OPTION, f"unexpected argument {option}; an option is --ID VALUE")
        id, mark, part = option[2:].partition("#")
        id = id.replace("-", "_")
        if id not in ids:
            similar = difflib.get_close_matches(id, ids, 1)
            hint = f"; did you mean --{similar[0]}?" if similar else ""
            raise InputRefused(RefusalCode.OPTION, f"configs/train.json has no id {id}{hint}")
        if not equals:
            value = rest.pop(0) if rest else ""
        if not value or value.startswith("--"):
            raise InputRefused(RefusalCode.OPTION, f"{option} needs a value")
        checked += [f"--{id}{mark}{part}", value]
    return checked


def bundle_command(
    bundle_root: Path, config: str | Sequence[str], dataset_dir: str, output_dir: Path | None, values: Mapping[str, Any]
) -> list[str]:
    """The command that runs a config of a bundle, or several laid over each other.

    Args:
        bundle_root: folder of the bundle.
        config: name of a file in its ``configs``, without ``.json``, or several; the last wins.
        dataset_dir: of the config.
        output_dir: of the config; ``None`` for the config's own.
        values: further ids of the config, and what they are to be.
    """
    # MONAI warns that configs execute code; that of the shipped bundles came with the program that the user runs.
    quiet = ["-W", f"ignore:{SECURITY_WARNING}"] if Bundle(bundle_root).short_name else []
    command = [sys.executable, *quiet, "-m", "monai.bundle", "run", "--bundle_root", str(bundle_root)]
    names = [config] if isinstance(config, str) else config
    files = [str(Bundle(bundle_root).path(name)) for name in names]
    command += ["--config_file", files[0] if len(files) == 1 else repr(files)]
    command += ["--dataset_dir", dataset_dir]
    if output_dir is not None:
        command += ["--output_dir", str(output_dir)]
    for key, value in values.items():
        command += [f"--{key}", value if isinstance(value, str) else repr(value)]
    return command


def hand_over(command: Sequence[str]) -> NoReturn:
    """Replaces this process by a command, which gets its signals and gives its exit status."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], list(command))
