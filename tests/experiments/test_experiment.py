"""An experiment's runner and table, with commands in place of training and evaluation that only leave files."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from bundle_kinds import KINDS, training_data

from convformer_monai.errors import InputRefused
from convformer_monai.experiments import Runner, make_cells, runner, write_table

CARDIAC = KINDS["cardiac"].root
HEMORRHAGE = KINDS["hemorrhage"].root
GAIN = {"convformer": 0.9, "conv": 0.8, "basicunet": 0.7}


@dataclass
class Commands:
    """What was asked for; trainings of the networks in ``broken`` fail."""

    asked: list[dict[str, str]] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def run(self, command: list[str], check: bool, env: dict[str, str], stdout: object, stderr: object) -> None:
        scans = "evaluate" in command
        words = [word for word in command if word != "--overwrite"]
        start = words.index("--data") if scans else words.index("run") + 1
        options = dict(zip(words[start::2], words[start + 1 :: 2], strict=True))
        options["--output_dir"] = options.get("--output_dir", options.get("--output-dir", ""))
        self.asked.append({**options, "threads": env["OMP_NUM_THREADS"]})
        place = Path(options["--output_dir"])
        if "train.json" in options.get("--config_file", ""):
            if place.parts[-3] in self.broken:
                raise subprocess.CalledProcessError(1, command)
            place.mkdir(parents=True, exist_ok=True)
            torch.save({"trainer": {"iteration": 1, "max_epochs": 1, "epoch_length": 1}}, place / "checkpoint.pt")
            (place / "best.pt").touch()
            return
        place.mkdir()
        network, seed = place.parts[-3], int(place.parts[-2].removeprefix("seed"))
        with open(place / ("slices.csv" if scans else "per_case.csv"), "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["case", "patient", "dice"])
            writer.writerows([f"c{i}", f"c{i}", GAIN[network] + 0.01 * seed + 0.001 * i] for i in range(6))
        (place / "summary.json").write_text("{}")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    def collapse(_self: Runner, cell: object, place: Path) -> None:
        layer = {"token_similarity": 0.5, "patch_similarity": None, "head_similarity": 0.25}
        (place / "collapse.json").write_text(json.dumps({"parameters": 2_000_000, "layers": [layer]}))

    monkeypatch.setattr(runner.Runner, "_measure_collapse", collapse)
    replaced = Commands()
    monkeypatch.setattr(subprocess, "run", replaced.run)
    return replaced


def test_trains_evaluates_and_compares_every_cell(commands: Commands, tmp_path: Path) -> None:
    cells = make_cells("controls", CARDIAC)
    experiment = Runner(CARDIAC, "data", tmp_path / "out", ["--max_epochs", "1"], jobs=1)
    assert experiment.run(cells, [0, 1]) == []
    assert len(commands.asked) == 2 * 2 * 3
    training, evaluation = commands.asked[2:4]
    assert training["--network_def#overrides"] == "{'network_def#block': 'conv'}"
    assert training["--max_epochs"] == "1" and training["--seed"] == "0" and training["--dataset_dir"] == "data"
    assert evaluation["--network_def#block"] == "conv"
    assert evaluation["--weights"] == str(tmp_path / "out" / "conv" / "seed0" / "train" / "best.pt")

    table = write_table(experiment, cells, [0, 1])
    rows = list(csv.DictReader(open(tmp_path / "out" / "table.csv")))
    assert [row["network"] for row in rows] == ["convformer", "conv", "basicunet"]
    assert float(rows[0]["dice"]) == pytest.approx(0.9 + 0.005 + 0.0025)
    assert float(rows[1]["difference"]) == pytest.approx(-0.1)
    assert float(rows[1]["p"]) == pytest.approx(2 * 2 / 2**6), "Wilcoxon of six patients, twice by Holm"
    assert rows[0]["token_similarity"] == "0.5" and rows[0]["patch_similarity"] == ""
    assert "reference" in table.splitlines()[2] and "-0.100 [-0.100, -0.100]" in table
    assert "--max_epochs 1" in (tmp_path / "out" / "table.md").read_text()

    assert experiment.run(cells, [0, 1]) == [] and len(commands.asked) == 12, "nothing is left to do"


def test_only_seeds_that_all_rows_have_are_compared(commands: Commands, tmp_path: Path) -> None:
    cells = make_cells("controls", CARDIAC)
    experiment = Runner(CARDIAC, "data", tmp_path / "out")
    experiment.run(cells, [0])
    experiment.run(cells[:1], [1])
    write_table(experiment, cells, [0, 1])
    rows = list(csv.DictReader(open(tmp_path / "out" / "table.csv")))
    assert float(rows[0]["dice"]) == pytest.approx(0.9 + 0.0025)


def test_cross_validated_bundles_train_all_folds_but_not_what_is_shipped(commands: Commands, tmp_path: Path) -> None:
    cells = make_cells("controls", HEMORRHAGE, nets=["conv"])
    Runner(HEMORRHAGE, "data", tmp_path / "out").run(cells, [0])
    places = [Path(asked["--output_dir"]).name for asked in commands.asked]
    assert places == ["fold0", "fold1", "fold2", "fold3", "fold4", "evaluation"]
    assert commands.asked[-1]["--runs"].endswith("conv/seed0")
    assert "'block': 'conv'" in commands.asked[-1]["--network-def"]


def test_a_failure_does_not_stop_the_others(commands: Commands, tmp_path: Path) -> None:
    commands.broken = {"conv"}
    cells = make_cells("controls", CARDIAC)
    experiment = Runner(CARDIAC, "data", tmp_path / "out")
    assert experiment.run(cells, [0]) == ["conv, seed 0"]
    assert experiment.is_done(cells[2], 0) and not experiment.is_done(cells[1], 0)
    assert "conv" not in [row["network"] for row in csv.DictReader(open(_table(experiment, cells)))]


def test_a_failure_is_told_by_its_last_line(
    commands: Commands, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    commands.broken = {"conv"}
    log = tmp_path / "out" / "conv" / "seed0" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("much\nerror[DATALIST_MISSING]: no list\n\n")
    Runner(CARDIAC, "data", tmp_path / "out").run(make_cells("controls", CARDIAC, nets=["conv"]), [0])
    assert f"conv, seed 0: failed: error[DATALIST_MISSING]: no list; see {log}" in caplog.text


def _table(experiment: Runner, cells: list) -> Path:
    write_table(experiment, cells, [0])
    return experiment.output_dir / "table.csv"


def test_results_of_other_options_are_not_mixed(commands: Commands, tmp_path: Path) -> None:
    Runner(CARDIAC, "data", tmp_path / "out", ["--max_epochs", "1"])
    Runner(CARDIAC, "data", tmp_path / "out", ["--max_epochs", "1"])
    with pytest.raises(InputRefused, match="--max_epochs 1"):
        Runner(CARDIAC, "data", tmp_path / "out", ["--max_epochs", "2"])
    with pytest.raises(InputRefused, match="OTHER_OPTIONS"):
        Runner(HEMORRHAGE, "data", tmp_path / "out", ["--max_epochs", "1"])


def test_jobs_share_the_cores(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 4)
    Runner(CARDIAC, "data", tmp_path / "out", jobs=2).run(make_cells("controls", CARDIAC), [0])
    assert {asked["threads"] for asked in commands.asked} == {"2"}


def test_no_cell_done_is_no_table(commands: Commands, tmp_path: Path) -> None:
    experiment = Runner(CARDIAC, "data", tmp_path / "out")
    assert write_table(experiment, make_cells("controls", CARDIAC), [0]) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cardiac", "dermoscopy"])
def test_really_trains_and_goes_on(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    data = tmp_path / "my images"
    data.mkdir()
    training_data(kind, data)
    sizes = ["--crop", "[64,64]"] if name == "cardiac" else ["--sizes", "[[64,48]]"]
    options = ["experiment", "table1", "--task", str(kind.root), "--data", str(data)]
    options += ["--output_dir", str(tmp_path / "out"), "--nets", "SETR", "--blocks", "vit,convformer"]
    options += ["--batch_size", "4", "--max_epochs", "1", "--val_interval", "1", "--warmup_epochs", "1", *sizes]
    command = [sys.executable, "-m", "convformer_monai.cli", *options, "--canvas", "[64,64]"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    log = tmp_path / "out" / "SETR_vit" / "seed0" / "log.txt"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-1000:] + (log.read_text()[-1000:] if log.is_file() else "")
    vit, convformer = csv.DictReader(open(tmp_path / "out" / "table.csv"))
    assert 0 <= float(vit["dice"]) <= 1 and vit["difference"] not in ("", "nan")
    assert int(convformer["parameters"]) > int(vit["parameters"])
    assert -1 <= float(vit["token_similarity"]) <= 1 and 0 < float(vit["patch_similarity"]) <= 1
    assert "| SETR | vit " in done.stdout

    (tmp_path / "out" / "table.csv").unlink()
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0 and "begins" not in again.stderr
    assert (tmp_path / "out" / "table.csv").is_file()
