"""What a command writes to the terminal: results to stdout, all else to stderr."""

from __future__ import annotations

import logging
import sys
from typing import Any

import typer

from convformer_monai.errors import printable

__all__ = ["print_json", "print_text", "start_logging"]


class PrintableFormatter(logging.Formatter):
    """Messages without control characters, which names of files may hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Escapes the message, before a traceback is added."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Escapes a traceback, but for its lines."""
        return printable(super().formatException(ei), keep="\n")


def print_json(content: object) -> None:
    """Prints an object on stdout."""
    import json

    typer.echo(json.dumps(content, indent=2, allow_nan=False))


def print_text(text: str) -> None:
    """Prints lines on stdout."""
    typer.echo(printable(text, keep="\n"))


def start_logging(quiet: bool = False, times: bool = False) -> None:
    """Sends our own messages to stderr, those of the libraries nowhere.

    Args:
        quiet: errors only.
        times: begin each message with the time, for commands that run for hours.
    """
    import warnings

    warnings.filterwarnings("ignore")
    layout = "%(asctime)s - %(message)s" if times else "%(message)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter(layout))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    logging.getLogger("convformer_monai").setLevel(logging.ERROR if quiet else logging.INFO)
    for name in ("monai", "pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
