"""Real servers for the tests: started on a free port of the loopback, in a home of their own, and gone afterwards."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import requests

WAIT_S = 240


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str], ready: str, log: Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen]:
    """Runs a server in a process group of its own until the block ends.

    Args:
        command: program and arguments.
        ready: address that answers 200 when the server is ready.
        log: file for what it prints.
        environment: variables beside this process's own.
        cwd: its working folder.
    """
    with log.open("wb") as file:
        process = subprocess.Popen(
            list(command),
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            start_new_session=True,
        )
    try:
        wait_for(ready, process, log)
        yield process
    finally:
        stop(process)


def wait_for(ready: str, process: subprocess.Popen, log: Path) -> None:
    """Waits until the address answers; fails with the log's end if the server ends or does not come."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}:\n{tail(log)}")
        with contextlib.suppress(requests.RequestException):
            if requests.get(ready, timeout=5).status_code == 200:
                return
        time.sleep(0.3)
    raise AssertionError(f"{ready} did not answer within {WAIT_S} s:\n{tail(log)}")


def stop(process: subprocess.Popen) -> None:
    """Ends a server and all that it started."""
    for kind, patience in ((signal.SIGINT, 20), (signal.SIGKILL, 20)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def tail(log: Path, lines: int = 40) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def monailabel_command(app: Path, studies: str | Path, port: int, **conf: str) -> list[str]:
    """The command that starts MONAI Label's server for an app, as its documentation gives it."""
    options = [part for key, value in conf.items() for part in ("--conf", key, value)]
    where = ["--app", str(app), "--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    return [sys.executable, "-m", "monailabel.main", "start_server", *where, *options]
