"""Counts the attacks, a row for each file, as the table in docs/reliability.md has them; prints it at the end.

A test is one trial, unless it says how many it made: ``record_property("trials", 40)``; and it is of its file's row,
unless it names another: ``record_property("attack", "kills of a command")``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.name
TRIALS: Counter[str] = Counter()
FAILURES: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Counts a test."""
    path = Path(report.nodeid.split("::")[0])
    if path.parent.name == FOLDER and report.when == "call" and not report.skipped:
        said = dict(report.user_properties)
        kind = str(said.get("attack", path.stem.removeprefix("test_")))
        TRIALS[kind] += int(said.get("trials", 1))
        FAILURES[kind] += report.failed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the table."""
    if TRIALS:
        terminalreporter.write_line("| attack | trials | failures |")
        for kind in sorted(TRIALS):
            terminalreporter.write_line(f"| {kind} | {TRIALS[kind]} | {FAILURES[kind]} |")
