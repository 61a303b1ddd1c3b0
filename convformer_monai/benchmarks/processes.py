"""Whole commands, and functions, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import IO, NamedTuple, ParamSpec, TypeVar, cast

__all__ = ["Ran", "in_own_process", "run_program", "run_python"]

P = ParamSpec("P")
Result = TypeVar("Result")

RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss, getrusage(2)
# A small process between: Linux counts the memory of the process that starts another as the other's own. Its last line
# on stdout is what the program took. It ends with the program, which it ends with itself.
LAUNCHER = """
import os, signal, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: process.terminate())
signal.signal(signal.SIGINT, signal.SIG_IGN)
_, status, usage = os.wait4(process.pid, 0)
print()
print(time.perf_counter() - start, usage.ru_maxrss, usage.ru_utime + usage.ru_stime)
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Ran(NamedTuple):
    """What a process took.

    Attributes:
        seconds: from its start to its end.
        megabytes: peak resident memory, in units of a million bytes.
        processor_seconds: of all its threads, user and system: what other programs do changes it little.
    """

    seconds: float
    megabytes: float
    processor_seconds: float


def run_python(arguments: Sequence[str]) -> Ran:
    """Runs Python with these arguments.

    Raises:
        RuntimeError: if it fails, with the last line that it said.
    """
    try:
        return run_program([sys.executable, *arguments])[1]
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit status {error.returncode}") from None


def run_program(
    command: Sequence[str], environment: Mapping[str, str] | None = None, errors: IO[str] | None = None
) -> tuple[str, Ran]:
    """Runs a program, which ends with this call, however that ends.

    Args:
        command: program and arguments.
        environment: its variables; None for those of this process.
        errors: file that gets its stderr; None to keep it for the exception.

    Returns:
        What it wrote to stdout, and what it took.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    launcher = [sys.executable, "-S", "-c", LAUNCHER, *command]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        launcher, env=environment, stdout=pipe, stderr=errors or pipe, text=True, errors="replace"
    ) as process:
        try:
            said, failure = process.communicate()
        except BaseException:
            process.terminate()
            raise
    said, _, took = said.rstrip("\n").rpartition("\n")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, said, failure or "")
    seconds, peak, processor = map(float, took.split())
    return said, Ran(seconds, peak * RSS_UNIT / 1e6, processor)


def in_own_process(function: Callable[P, Result], *arguments: P.args, **options: P.kwargs) -> Result:
    """Calls a function in a process that has done nothing before but import.

    It is forked from one that keeps the imports, so it starts at once; not on Windows.

    Raises:
        RuntimeError: if it fails, with the message, or dies.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["convformer_monai.inferers", "convformer_monai.networks", "monai.networks.nets"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments, options))
    process.start()
    sender.close()  # so that its death ends the wait
    try:
        failure, result = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"its process ended with exit status {process.exitcode}") from None
    process.join()
    if failure is not None:
        raise RuntimeError(failure)
    return cast(Result, result)


def _answer(
    sender: Connection, function: Callable[..., object], arguments: tuple[object, ...], options: dict[str, object]
) -> None:
    """Sends what the function returns, or why it does not."""
    answer: tuple[str | None, object]
    try:
        answer = None, function(*arguments, **options)
    except Exception as error:  # of whatever function
        answer = str(error) or type(error).__name__, None
    sender.send(answer)
