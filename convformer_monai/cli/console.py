"""What a command writes to the terminal: results to stdout, all else to stderr."""

from __future__ import annotations

import logging
import sys

import typer

__all__ = ["print_json", "start_logging"]


def print_json(content: object) -> None:
    """Prints an object on stdout."""
    import json

    typer.echo(json.dumps(content, indent=2, allow_nan=False))


def start_logging(quiet: bool = False, times: bool = False) -> None:
    """Sends our own messages to stderr, those of the libraries nowhere.

    Args:
        quiet: errors only.
        times: begin each message with the time, for commands that run for hours.
    """
    import warnings

    warnings.filterwarnings("ignore")
    layout = "%(asctime)s - %(message)s" if times else "%(message)s"
    logging.basicConfig(level=logging.ERROR, format=layout, stream=sys.stderr)
    logging.getLogger("convformer_monai").setLevel(logging.ERROR if quiet else logging.INFO)
    for name in ("monai", "pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
