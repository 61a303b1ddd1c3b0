"""What a benchmark would fail on at the end is refused at the start, and its files are complete or not there."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from convformer_monai.benchmarks import cohort, training
from convformer_monai.benchmarks.files import check_output, drawn
from convformer_monai.cli import main
from convformer_monai.errors import InputRefused

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="of Linux alone")
COMMANDS = [("cohort", "check_packages", "schedule"), pytest.param("training", "growing_data", "_measure", marks=LINUX)]
SCHEDULED = cohort.Scheduling(3, 2, 0.5, 1.0, 0.75, 0.2, 1.5)
GROWN = [training.Growth(9, kept, 17.5, 1.0, 0.0, 3.123456, 1.0, 2.0, 4.0, 300.0) for kept in ("memory", "disk")]


@pytest.mark.parametrize(("command", "other", "measured"), COMMANDS)
@pytest.mark.parametrize("fault", ["place", "folder", "matplotlib"])
def test_refused_before_it_is_measured(
    command: str,
    other: str,
    measured: str,
    fault: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = {"cohort": cohort, "training": training}[command]
    monkeypatch.setattr(module, other, lambda *_: None)
    monkeypatch.setattr(module, measured, Mock(side_effect=AssertionError("measures")))
    (tmp_path / "file").touch()
    (tmp_path / "t.csv").mkdir()
    output, code = tmp_path / "x", "CANNOT_WRITE"
    if fault == "place":
        output = tmp_path / "file" / "x"
    elif fault == "folder":
        output = tmp_path / "t"
    else:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        code = "MISSING_PACKAGE"
    assert main(["benchmark", command, "-o", str(output)]) == 2
    assert capsys.readouterr().err.startswith(f"error[{code}]")


def test_files_of_a_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "check_packages", lambda: None)
    monkeypatch.setattr(cohort, "schedule", lambda *_: [SCHEDULED])
    monkeypatch.setattr(cohort, "keep_books", lambda *_: [cohort.Books(10, 0.25, 0.5)])
    assert main(["benchmark", "cohort", "-o", str(tmp_path / "new" / "c")]) == 0
    (row,) = csv.DictReader((tmp_path / "new" / "c.csv").open())
    assert row["tasks"] == "3" and row["share_of_ideal"] == "0.75"
    (row,) = csv.DictReader((tmp_path / "new" / "c_files.csv").open())
    assert row == {"tasks": "10", "plan_s": "0.25", "tables_s": "0.5"}
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["c.csv", "c.svg", "c_files.csv"]


@LINUX
def test_files_of_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_measure", lambda *_: GROWN)
    (tmp_path / "t.csv").write_text("old")
    assert main(["benchmark", "training", "--cases", "9", "-o", str(tmp_path / "t")]) == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [row["kept"] for row in rows] == ["memory", "disk"] and rows[0]["pictures_per_s"] == "3.123"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["t.csv", "t.svg"]


@pytest.mark.parametrize("command", ["cohort", pytest.param("training", marks=LINUX)])
def test_a_benchmark_that_is_stopped_does_not_say_that_it_goes_on(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cohort, "check_packages", Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setattr(training, "_measure", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", command])
    assert ended.value.code == 130 and "goes on" not in (error := capsys.readouterr().err)
    assert error.startswith("interrupted; ")


def test_a_plot_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "x.svg").write_text("old")
    with pytest.raises(RuntimeError, match="why"), drawn(tmp_path / "x.svg", "x", (2, 2), 8):
        raise RuntimeError("why")
    assert (tmp_path / "x.svg").read_text() == "old"
    with drawn(tmp_path / "x.svg", "x", (2, 2), 8) as figure:
        figure.add_subplot().plot([1, 2])
    assert (tmp_path / "x.svg").read_text().startswith("<?xml") and len(list(tmp_path.iterdir())) == 1


def test_a_name_is_needed() -> None:
    with pytest.raises(InputRefused, match="--output must be the name of files"):
        check_output(Path("."), ".csv")
