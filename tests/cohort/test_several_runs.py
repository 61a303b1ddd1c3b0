"""Several runs on one output folder: each case once, and one table of the whole folder."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from convformer_monai.cohort import folder, segment_cases
from convformer_monai.locks import SUFFIX
from convformer_monai.outputs.writer import Options
from convformer_monai.phantoms import cardiac_phantom

COUNT = 6


@pytest.fixture
def hearts(tmp_path: Path) -> Path:
    for seed in range(COUNT):
        cardiac_phantom(shape=(64, 64, 2), spacing=(2.4, 2.4, 10.0), seed=seed).save(tmp_path / "in", f"p{seed}")
    return tmp_path / "in"


def cases_in(table: Path) -> set[str]:
    with table.open(newline="") as file:
        return {row["case"] for row in csv.DictReader(file)}


@pytest.mark.slow
def test_three_runs_at_once(hearts: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convformer_monai.cli", "segment", "-i", str(hearts), "-o", str(tmp_path / "out")]
    runs = [
        subprocess.Popen([*command, "--json", "-q"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    done: list[str] = []
    for run in runs:
        said, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors
        statuses = {case["case"]: case["status"] for case in json.loads(said)["cases"]}
        assert len(statuses) == COUNT and set(statuses.values()) <= {"done", "skipped"}
        done += [name for name, status in statuses.items() if status == "done"]
    assert sorted(done) == [f"p{seed}" for seed in range(COUNT)], "each case by one run"
    assert cases_in(tmp_path / "out" / "measurements.csv") == {f"p{seed}" for seed in range(COUNT)}
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.endswith(SUFFIX)]


def test_the_table_is_that_of_the_whole_folder(hearts: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "later").mkdir()
    for file in hearts.glob("p[345]*"):
        file.rename(hearts / "later" / file.name)
    segment_cases(hearts / "later", tmp_path / "out", "cardiac", Options(), device="cpu", quiet=True)
    assert cases_in(tmp_path / "out" / "measurements.csv") == {"p3", "p4", "p5"}
    (tmp_path / "rest").mkdir()
    for file in hearts.glob("p[01]*"):
        file.rename(tmp_path / "rest" / file.name)
    segment_cases(tmp_path / "rest", tmp_path / "out", "cardiac", Options(), device="cpu", quiet=True)
    assert cases_in(tmp_path / "out" / "measurements.csv") == {"p0", "p1", "p3", "p4", "p5"}


HOLDER = """
import sys
from pathlib import Path
from convformer_monai.locks import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_a_case_of_another_run_is_waited_for_and_taken_over(
    hearts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """The other run ends without having done its case."""
    monkeypatch.setattr(folder, "WAIT_SECONDS", 0.1)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "out" / "p2")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    order: list[str] = []
    one = folder._one

    def noted(segmenter, case, *rest):  # type: ignore[no-untyped-def]
        order.append(case.name)
        if len(order) == COUNT - 1:
            holder.kill() if killed else holder.stdin.close()  # type: ignore[union-attr]
        return one(segmenter, case, *rest)

    monkeypatch.setattr(folder, "_one", noted)
    summary = segment_cases(hearts, tmp_path / "out", "cardiac", Options(), device="cpu", quiet=True)
    holder.wait()
    assert sorted(order[:-1]) == ["p0", "p1", "p3", "p4", "p5"] and order[-1] == "p2"  # some are done together
    assert {result.status for result in summary.results} == {"done"}
