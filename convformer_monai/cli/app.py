"""The program: its commands, and how it ends.

Exit codes: 0 done; 2 an input or argument was refused, with one line on stderr that says why; 1 a fault of ours; 130
stopped by the user.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from convformer_monai import __version__
from convformer_monai.cli import benchmarks, cohort, phantoms, segmenting, serving, tools, training
from convformer_monai.errors import DEBUG, EXIT_FAULT, EXIT_INTERRUPTED, EXIT_REFUSED, find_refusal, printable

__all__ = ["app", "main", "run"]

PROGRAM = "convformer-monai"
# For the commands that take --ID VALUE for the ids of a config.
TAKES_IDS = {"allow_extra_args": True, "ignore_unknown_options": True}


def with_dashes(name: str) -> str:
    """The one spelling of an option or choice: ``--max_minutes`` means ``--max-minutes``."""
    return name.replace("_", "-")


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": with_dashes},
)


def show_version(asked: bool) -> None:
    """Prints the version and ends."""
    if asked:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Segment medical images with the ConvFormer bundles. Results are for research, not for diagnosis."""


app.command()(segmenting.segment)
app.command()(cohort.cohort)
app.command()(segmenting.measure)
app.command()(segmenting.explain)
app.command()(training.evaluate)
app.command(context_settings=TAKES_IDS)(training.train)
app.command(context_settings=TAKES_IDS)(training.experiment)
app.command()(tools.export)
app.command()(tools.view)
app.command()(tools.label)
app.command()(serving.serve)
app.command()(tools.demo)
app.command()(tools.info)
app.add_typer(benchmarks.app, name="benchmark")
app.add_typer(phantoms.app, name="phantom")


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: arguments; ``None`` takes those of the program.

    Returns:
        The exit code.
    """
    try:
        result: Any = app(args=argv, prog_name=PROGRAM, standalone_mode=False)
        return report_interruption() if result == EXIT_INTERRUPTED else int(result or 0)
    except typer.Exit as ending:
        return int(ending.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return report_interruption()
    except Exception as error:
        return report_error(error)


def report_interruption() -> int:
    """Says that the user stopped the command, and returns the exit code."""
    sys.stderr.write("interrupted; what is done is complete, and the same command goes on\n")
    return EXIT_INTERRUPTED


def report_error(error: Exception) -> int:
    """Says in one line what went wrong, and returns the exit code."""
    refusal = find_refusal(error)
    if refusal is not None:
        sys.stderr.write(f"{refusal}\n")
        return EXIT_REFUSED
    if hasattr(error, "format_message"):  # a usage error of the command line
        return report_usage(error)
    if os.environ.get(DEBUG):
        raise error
    sys.stderr.write(
        f"error[FAULT]: {type(error).__name__} in {PROGRAM}, a fault of ours; run again with {DEBUG}=1 and "
        "report what it says\n"
    )
    return EXIT_FAULT


def report_usage(error: Any) -> int:
    """Says what is wrong with the arguments, and returns the exit code; of no arguments at all it shows the help."""
    message = printable(" ".join(error.format_message().split()))
    if message.startswith("Usage:"):
        error.show()
    else:
        context = getattr(error, "ctx", None)
        program = PROGRAM if context is None else context.command_path
        hint = "; quote paths that hold spaces" if "unexpected extra argument" in message else ""
        sys.stderr.write(f"error[OPTION]: {message.rstrip('.')}{hint}; see {program} --help\n")
    return EXIT_REFUSED


def run() -> None:
    """Entry point of the installed command."""
    sys.exit(main())
