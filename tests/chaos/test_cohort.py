"""A cohort whose workers are killed, whose scheduler is killed, and which is stopped: each case is done once.

Equal to a run of ``segment`` without faults, byte for byte: masks, measurements, label files and the table of all
measurements. Reports hold times, which are left out before they are compared; tables of the cohort alone hold paths.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_cohort import DEADLY, tiny_bundle, write_study

from convformer_monai.cohort.status import Status, all_statuses
from convformer_monai.cohort.storage import place_of

STUDIES = 1000
CORRUPT, DEADLY_ONES = 20, 2
KILLS_ON_DASK, KILLS_LOCAL = 4, 6
SECONDS = 120  # after which a wait has failed
CLI = [sys.executable, "-m", "convformer_monai.cli"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where the system has such a folder: nothing here depends on the disk, and it is ten times faster."""
    memory = Path("/dev/shm")
    made = tempfile.mkdtemp(prefix="convformer-chaos-", dir=memory if os.access(memory, os.W_OK) else None)
    yield Path(made)
    shutil.rmtree(made, ignore_errors=True)


class Cohort:
    """The command, run again and again on one output folder."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.source, self.out = folder / "in", folder / "out"
        self.bundle = bundle
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Starts it."""
        words = ["cohort", str(self.source), "-o", str(self.out), "-b", str(self.bundle), "--device", "cpu", *more]
        return subprocess.Popen([*CLI, *words], stderr=subprocess.PIPE, text=True, env=self.environment)

    def statuses(self) -> list[Status]:
        """Of all cases."""
        return list(all_statuses(place_of(str(self.out))))

    def kill_a_worker(self, run: subprocess.Popen[str], seen: set[int]) -> None:
        """Kills a worker in the middle of a case that has not lost one before.

        Args:
            run: the command, which must go on.
            seen: processes that were killed; gets this one.
        """
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            assert run.poll() is None, run.communicate()[1]
            for status in self.statuses():
                if status.state == "running" and status.attempts == 1 and status.pid not in seen:
                    seen.add(status.pid)
                    os.kill(status.pid, signal.SIGKILL)
                    return
        pytest.fail("no worker does a case")

    def wait_for(self, done: int) -> None:
        """Waits until so many cases are done."""
        deadline = time.monotonic() + SECONDS
        while sum(status.state == "done" for status in self.statuses()) < done:
            assert time.monotonic() < deadline, f"not {done} cases are done"
            time.sleep(0.2)

    def masks(self) -> dict[str, tuple[int, int]]:
        """Inode and time of every mask: a case done again would have others."""
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in self.out.glob("*_seg.nii.gz")}


def make_studies(folder: Path) -> tuple[set[str], set[str]]:
    """Writes all studies; returns the names of the corrupt and of the deadly ones."""
    names = [f"s{number:04}" for number in range(STUDIES)]
    bad = random.Random(0).sample(names, CORRUPT + DEADLY_ONES)
    corrupt, deadly = set(bad[:CORRUPT]), set(bad[CORRUPT:])
    for number, name in enumerate(names):
        path = write_study(folder / f"{name}.nii.gz", number, DEADLY if name in deadly else 1000)
        if name in corrupt:
            path.write_bytes(path.read_bytes()[: 30 + number % 200])
    return corrupt, deadly


def contents(folder: Path) -> dict[str, bytes]:
    """What must be equal: every result by name, reports without their times."""
    found = {}
    for path in folder.iterdir():
        if path.name.endswith("_report.json"):
            report: dict[str, Any] = json.loads(path.read_text())
            del report["created"], report["seconds"]
            found[path.name] = json.dumps(report).encode()
        elif path.is_file():
            found[path.name] = path.read_bytes()
    return found


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_stopped_and_resumed(
    folder: Path, bundle_root: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("attack", "kills of a cohort's workers and scheduler")
    record_property("trials", KILLS_ON_DASK + KILLS_LOCAL + 2)
    bundle = tiny_bundle(bundle_root, folder / "tiny")
    corrupt, deadly = make_studies(folder / "in")
    cohort = Cohort(folder, bundle)
    killed: set[int] = set()
    before = _on_a_cluster(cohort, folder, killed)
    before |= _on_this_machine(cohort, killed, before)

    run = cohort.start("--workers", "2")
    _, said = run.communicate(timeout=600)
    assert run.returncode == 1, said  # because of the two that kill their workers
    statuses = {status.case: status for status in cohort.statuses()}
    assert len(statuses) == STUDIES and len(killed) == KILLS_ON_DASK + KILLS_LOCAL
    states = {name: status.state for name, status in statuses.items()}
    expected = {name: "refused" if name in corrupt else "quarantined" if name in deadly else "done" for name in states}
    assert states == expected
    masks = cohort.masks()
    assert {name: masks[name] for name in before} == before, "what was done stays as it is"
    with (cohort.out / "refused.csv").open(newline="") as file:
        reported = [(row["case"], row["state"]) for row in csv.DictReader(file)]
    assert reported == sorted((name, state) for name, state in expected.items() if state != "done")
    _compare(cohort, folder, deadly)


def _on_a_cluster(cohort: Cohort, folder: Path, killed: set[int]) -> dict[str, tuple[int, int]]:
    """Workers of a Dask cluster are killed, then its scheduler; returns the masks that are there."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": cohort.environment}
    python = [sys.executable, "-m", "dask"]
    scheduler = subprocess.Popen(
        [*python, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-show"], **quiet
    )
    workers = subprocess.Popen(
        [*python, "worker", address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--death-timeout", "60"]
        + ["--local-directory", str(folder / "dask")],
        **quiet,
    )
    try:
        run = cohort.start("--engine", "dask", "--scheduler", address)
        for kill in range(1, KILLS_ON_DASK + 1):
            cohort.wait_for(10 * kill)
            cohort.kill_a_worker(run, killed)
        cohort.wait_for(10 * (KILLS_ON_DASK + 1))
        scheduler.kill()
        _, said = run.communicate(timeout=SECONDS)
        assert run.returncode == 2 and "error[CLUSTER]: Dask's scheduler went away" in said, said
    finally:
        for process in (scheduler, workers):
            process.terminate()
            process.wait(timeout=SECONDS)
    return cohort.masks()


def _on_this_machine(
    cohort: Cohort, killed: set[int], before: dict[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """Worker processes of this machine are killed, then the run is stopped; returns the masks that are there."""
    start = len(before)
    run = cohort.start("--workers", "2")
    for kill in range(1, KILLS_LOCAL + 1):
        cohort.wait_for(start + 10 * kill)
        cohort.kill_a_worker(run, killed)
    cohort.wait_for(start + 10 * (KILLS_LOCAL + 1))
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=SECONDS)
    assert run.returncode == 130 and "what is done is complete" in said, said
    masks = cohort.masks()
    assert len(masks) < STUDIES - CORRUPT - DEADLY_ONES and {name: masks[name] for name in before} == before
    return masks


def _compare(cohort: Cohort, folder: Path, deadly: set[str]) -> None:
    """All results are those of ``segment`` without faults, and nothing else is left."""
    for name in deadly:
        (folder / "in" / f"{name}.nii.gz").unlink()
    words = ["segment", "-i", str(folder / "in"), "-o", str(folder / "segment"), "-b", str(cohort.bundle), "-q"]
    runs = [subprocess.Popen([*CLI, *words, "--device", "cpu"], env=cohort.environment) for _ in range(2)]
    assert [run.wait(timeout=600) for run in runs] == [2, 2]
    ours, theirs = contents(cohort.out), contents(folder / "segment")
    own = {"measurements.parquet", "refused.csv", "cohort.html", *(f"{name}_fault.txt" for name in deadly)}
    assert set(ours) == set(theirs) | own
    different = [name for name, content in theirs.items() if ours[name] != content]
    assert not different
    left = [path for path in cohort.out.rglob(".*") if path.name != ".cohort"]
    assert not left
    partial = [path for path in (cohort.out / ".cohort").rglob("*") if path.is_file() and path.suffix != ".json"]
    assert not partial
