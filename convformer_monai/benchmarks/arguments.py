"""The options of the benchmarks: a bad one gives one line and exit status 2."""

from __future__ import annotations

import argparse
from typing import NoReturn

__all__ = ["Parser", "positive"]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; options are not abbreviated."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def positive(text: str) -> int:
    """The whole number of at least 1 that an option is given as.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)
