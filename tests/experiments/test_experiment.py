"""An experiment's runner and table, with commands in place of training and evaluation that only leave files."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from bundle_kinds import KINDS, training_data

from convformer_monai.bundle import Bundle
from convformer_monai.errors import InputRefused
from convformer_monai.experiments import (
    Runner,
    choose_rates,
    draw_pictures,
    make_cells,
    runner,
    write_table,
)
from convformer_monai.experiments.curves import draw_fractions
from convformer_monai.experiments.rates import family_of
from convformer_monai.training import plan

CARDIAC = KINDS["cardiac"].root
HEMORRHAGE = KINDS["hemorrhage"].root
RECORD = ("trainings", "epochs", "cases", "layers")
GAIN = {"convformer": 0.9, "conv": 0.8, "basicunet": 0.7}


@dataclass
class Commands:
    """What was asked for; trainings of the networks in ``broken`` fail."""

    asked: list[dict[str, str]] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def run(self, command: list[str], env: dict[str, str], output: object) -> int:
        scans = "evaluate" in command
        words = [word for word in command if word != "--overwrite"]
        start = words.index("--data") if scans else words.index("run") + 1
        options = dict(zip(words[start::2], words[start + 1 :: 2], strict=True))
        options["--output_dir"] = options.get("--output_dir", options.get("--output-dir", ""))
        self.asked.append({**options, "threads": env["OMP_NUM_THREADS"]})
        place = Path(options["--output_dir"])
        if "train.json" in options.get("--config_file", ""):
            if place.parts[-3] in self.broken:
                return 1
            place.mkdir(parents=True, exist_ok=True)
            torch.save({"trainer": {"iteration": 1, "max_epochs": 1, "epoch_length": 1}}, place / "checkpoint.pt")
            (place / "best.pt").write_text(str(place))
            (place / "best.json").write_text(json.dumps({"metric": "val_mean_dice", "value": 0.5}))
            steps = ["epoch 1 step 1 loss 3.00000", "epoch 1 step 1 loss 2.00000", "epoch 1 step 2 loss 1.00000"]
            (place / "train_log.txt").write_text("\n".join([*steps, "epoch 1/1: loss 1.5000, 3 s, 0:00:00 left"]))
            return 0
        place.mkdir()
        network, seed = place.parts[-3], int(place.parts[-2].removeprefix("seed"))
        with open(place / ("slices.csv" if scans else "per_case.csv"), "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["case", "patient", "dice", *(["seen_in", "lesions", "findings"] if scans else [])])
            for i in range(6):
                dice = "nan" if scans and i > 3 else GAIN[network] + 0.01 * seed + 0.001 * i
                writer.writerow([f"c{i}", f"c{i}", dice, *(["expert", int(i < 4), int(i != 5)] if scans else [])])
        return 0


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    def collapse(_self: Runner, cell: object, place: Path) -> None:
        layer = {
            "block": "ViTBlock",
            "grid": [4, 8],
            "token_similarity": 0.5,
            "patch_similarity": None,
            "head_similarity": 0.25,
        }
        content = {"parameters": 2_000_000, "layers": [layer], "untrained": [{**layer, "token_similarity": 0.75}]}
        (place / "collapse.json").write_text(json.dumps(content))

    monkeypatch.setattr(runner.Runner, "_measure_collapse", collapse)
    replaced = Commands()
    monkeypatch.setattr(plan, "_run", replaced.run)
    return replaced


def table_of(experiment: Runner, cells: list, seeds: list[int]) -> str:
    experiment.record.take(experiment, cells, seeds)
    return write_table(experiment.record, cells, seeds, experiment.options)


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

    table = table_of(experiment, cells, [0, 1])
    rows = list(csv.DictReader(open(tmp_path / "out" / "table.csv")))
    assert [row["network"] for row in rows] == ["convformer", "conv", "basicunet"]
    assert float(rows[0]["dice"]) == pytest.approx(0.9 + 0.005 + 0.0025)
    assert float(rows[1]["difference"]) == pytest.approx(-0.1)
    assert 0 <= float(rows[1]["p"]) < 1e-6 and rows[0]["p"] == "", "always 0.1 less"
    assert [row["seeds"] for row in rows] == ["2"] * 3 and rows[1]["seeds_compared"] == "2"
    assert float(rows[0]["dice_sd_of_seeds"]) == pytest.approx(0.01 / 2**0.5)
    assert rows[0]["token_similarity"] == "0.5" and rows[0]["patch_similarity"] == ""
    assert "reference" in table.splitlines()[2] and "-0.100 [-0.100, -0.100]" in table
    assert "--max_epochs 1" in (tmp_path / "out" / "table.md").read_text()

    assert experiment.run(cells, [0, 1]) == [] and len(commands.asked) == 12, "nothing is left to do"


def test_rows_are_compared_on_the_seeds_that_both_have(commands: Commands, tmp_path: Path) -> None:
    cells = make_cells("controls", CARDIAC)
    experiment = Runner(CARDIAC, "data", tmp_path / "out")
    experiment.run(cells, [0])
    experiment.run(cells[:1], [1])
    table = table_of(experiment, cells, [0, 1])
    rows = list(csv.DictReader(open(tmp_path / "out" / "table.csv")))
    assert [row["seeds"] for row in rows] == ["2", "1", "1"]
    assert float(rows[0]["dice"]) == pytest.approx(0.9 + 0.005 + 0.0025)
    assert float(rows[1]["difference"]) == pytest.approx(-0.1) and rows[1]["seeds_compared"] == "1"
    assert rows[1]["dice_sd_of_seeds"] == "" and "] | - " in table.splitlines()[3]


def test_record_keeps_what_the_weights_leave_behind(commands: Commands, tmp_path: Path) -> None:
    cells = make_cells("controls", CARDIAC, nets=["convformer", "conv"])
    experiment = Runner(CARDIAC, "data", tmp_path / "out")
    experiment.run(cells, [0])
    experiment.run(cells[:1], [1])
    experiment.record.take(experiment, cells, [0, 1])
    kept = {name: list(csv.DictReader(open(tmp_path / "out" / f"{name}.csv"))) for name in RECORD}
    assert [(row["network"], row["seed"]) for row in kept["trainings"]] == [
        ("convformer", "0"),
        ("convformer", "1"),
        ("conv", "0"),
    ]
    weights = tmp_path / "out" / "conv" / "seed0" / "train" / "best.pt"
    assert kept["trainings"][2]["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert kept["trainings"][0]["steps"] == "2" and kept["trainings"][0]["best_validation"] == "0.5"
    assert [row["loss"] for row in kept["epochs"]] == ["1.5"] * 3, "a step done twice counts once"
    assert [row["dice"] for row in kept["cases"][:2]] == ["0.9", "0.901"] and len(kept["cases"]) == 18
    assert [(row["trained"], row["token_similarity"]) for row in kept["layers"][:2]] == [("0", "0.75"), ("1", "0.5")]
    assert kept["layers"][0]["grid"] == "4 x 8" and kept["layers"][0]["class"] == "ViTBlock"
    assert kept["layers"][0]["patch_similarity"] == ""


def test_record_without_trainings_leaves_nothing(commands: Commands, tmp_path: Path) -> None:
    table_of(Runner(CARDIAC, "data", tmp_path / "out"), make_cells("controls", CARDIAC), [0])
    assert not list((tmp_path / "out").glob("*.csv"))


class TestGoesOnFromARecord:
    """The files of another machine count as trainings; their weights are elsewhere."""

    @pytest.fixture
    def cells(self) -> list:
        return make_cells("controls", CARDIAC, nets=["convformer", "conv"])

    @pytest.fixture
    def copy(self, commands: Commands, cells: list, tmp_path: Path) -> Path:
        """The record of one seed, without weights; a patient begins with "-", a case with "=" and one with "0"."""
        first = Runner(CARDIAC, "data", tmp_path / "first")
        first.run(cells, [0])
        for file in (tmp_path / "first").rglob("per_case.csv"):
            file.write_text(file.read_text().replace("c0,c0", "=c0,-1").replace("c1,c1", "007,007"))
        table_of(first, cells, [0])
        (tmp_path / "out").mkdir()
        for file in (tmp_path / "first").glob("*.*"):
            (tmp_path / "out" / file.name).write_bytes(file.read_bytes())
        commands.asked.clear()
        return tmp_path / "out"

    def test_nothing_is_left_to_do(self, commands: Commands, cells: list, copy: Path, tmp_path: Path) -> None:
        before = {file.name: file.read_bytes() for file in copy.glob("*.csv")}
        experiment = Runner(CARDIAC, "data", copy)
        assert experiment.run(cells, [0]) == [] and not commands.asked
        assert table_of(experiment, cells, [0]) == table_of(Runner(CARDIAC, "data", tmp_path / "first"), cells, [0])
        assert before.keys() == {"cases.csv", "epochs.csv", "layers.csv", "table.csv", "trainings.csv"}
        assert {file.name: file.read_bytes() for file in copy.glob("*.csv")} == before

    def test_further_seeds_and_cells_are_added(self, commands: Commands, copy: Path) -> None:
        everything = make_cells("controls", CARDIAC)
        experiment = Runner(CARDIAC, "data", copy)
        for file in copy.glob("cases.csv"):
            file.write_text(file.read_text().replace("'-1,'=c0", "c0,c0").replace("007,007", "c1,c1"))
        experiment = Runner(CARDIAC, "data", copy)
        experiment.run(everything[1:], [0, 1])
        trained = {asked["--output_dir"] for asked in commands.asked if "train.json" in asked["--config_file"]}
        assert trained == {str(copy / name / "train") for name in ("conv/seed1", "basicunet/seed0", "basicunet/seed1")}
        table_of(experiment, everything[1:], [0, 1])
        kept = [(row["network"], row["seed"]) for row in csv.DictReader(open(copy / "trainings.csv"))]
        assert kept == [("conv", "0"), ("conv", "1"), ("basicunet", "0"), ("basicunet", "1"), ("convformer", "0")]
        table_of(experiment, everything, [0, 1])
        rows = list(csv.DictReader(open(copy / "table.csv")))
        assert [row["seeds"] for row in rows] == ["1", "2", "2"] and rows[1]["seeds_compared"] == "1"

    def test_a_training_here_replaces_its_row(self, commands: Commands, cells: list, copy: Path) -> None:
        elsewhere = Runner(CARDIAC, "data", copy.parent / "first")
        folder = elsewhere.folder(cells[0], 0)
        file = folder / "train" / "best.json"
        file.write_text(file.read_text().replace("0.5", "0.25"))
        table_of(elsewhere, cells, [0])
        rows = list(csv.DictReader(open(copy.parent / "first" / "trainings.csv")))
        assert [row["best_validation"] for row in rows] == ["0.25", "0.5"]

    def test_another_learning_rate_is_another_training(self, cells: list, copy: Path) -> None:
        experiment = Runner(CARDIAC, "data", copy)
        assert experiment.is_done(cells[0], 0)
        assert not experiment.is_done(replace(cells[0], training={"learning_rate": 0.1}), 0)

    def test_seeds_of_other_cases_are_refused(self, cells: list, copy: Path) -> None:
        experiment = Runner(CARDIAC, "data", copy)
        experiment.run(cells, [1])
        with pytest.raises(InputRefused, match="SCORES"):
            table_of(experiment, cells, [0, 1])

    @pytest.mark.parametrize("content", ["", "network,seed\nconv,0\n", "half"])
    def test_a_file_of_another_kind_is_refused(self, copy: Path, content: str) -> None:
        file = copy / "trainings.csv"
        file.write_text(file.read_text()[:-80] if content == "half" else content)
        with pytest.raises(InputRefused, match=r"SCORES.*trainings\.csv"):
            Runner(CARDIAC, "data", copy)


def test_cross_validated_bundles_train_all_folds_but_not_what_is_shipped(commands: Commands, tmp_path: Path) -> None:
    cells = make_cells("controls", HEMORRHAGE, nets=["conv"])
    Runner(HEMORRHAGE, "data", tmp_path / "out").run(cells, [0])
    places = [Path(asked["--output_dir"]).name for asked in commands.asked]
    assert places == ["fold0", "fold1", "fold2", "fold3", "fold4", "evaluation"]
    assert commands.asked[-1]["--runs"].endswith("conv/seed0")
    assert "'block': 'conv'" in commands.asked[-1]["--network-def"]


def test_blood_free_slices_with_a_finding_are_counted(commands: Commands, tmp_path: Path) -> None:
    """Of the stand-in's six slices two are free of blood, and one of these has a finding."""
    cells = make_cells("controls", HEMORRHAGE, nets=["convformer", "conv"])
    experiment = Runner(HEMORRHAGE, "data", tmp_path / "out", folds=[0])
    experiment.run(cells, [0])
    table = table_of(experiment, cells, [0])
    rows = list(csv.DictReader(open(tmp_path / "out" / "table.csv")))
    assert [row["false_positives"] for row in rows] == ["0.5", "0.5"] and "50.0%" in table
    assert float(rows[1]["difference"]) == pytest.approx(-0.1)


def test_other_seeds_have_the_same_folds() -> None:
    """The folds of an evaluation are those of every training, whatever its seed."""
    pool = Bundle(HEMORRHAGE).read("train")["pool"]
    assert "seed" not in pool and "@seed" not in pool.values()


def test_one_fold_is_trained_and_evaluated_if_so_asked(commands: Commands, tmp_path: Path) -> None:
    cells = make_cells("controls", HEMORRHAGE, nets=["conv"])
    Runner(HEMORRHAGE, "data", tmp_path / "out", folds=[2]).run(cells, [0])
    assert [Path(asked["--output_dir"]).name for asked in commands.asked] == ["fold2", "evaluation"]
    assert commands.asked[-1]["--folds"] == "2"
    with pytest.raises(InputRefused, match="OTHER_OPTIONS"):
        Runner(HEMORRHAGE, "data", tmp_path / "out", folds=[0])


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
    table_of(experiment, cells, [0])
    return experiment.output_dir / "table.csv"


def test_results_of_other_options_are_not_mixed(commands: Commands, tmp_path: Path) -> None:
    Runner(CARDIAC, "data", tmp_path / "out", ["--max_epochs", "1"])
    Runner(CARDIAC, "data", tmp_path / "out", ["--max_epochs", "1"])
    with pytest.raises(InputRefused, match="--max_epochs 1"):
        Runner(CARDIAC, "data", tmp_path / "out", ["--max_epochs", "2"])
    with pytest.raises(InputRefused, match="OTHER_OPTIONS"):
        Runner(HEMORRHAGE, "data", tmp_path / "out", ["--max_epochs", "1"])


class TestLearningRates:
    """``GAIN`` is by network; a trial's name ends in its rate, of which the commands like the smaller ones."""

    @pytest.fixture(autouse=True)
    def _gains(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gains = {f"{net}_rate{rate}": 0.5 - float(rate) for net in GAIN for rate in ("0.1", "0.2")}
        for name, gain in gains.items():
            monkeypatch.setitem(GAIN, name, gain)
        monkeypatch.setitem(GAIN, "basicunet_rate0.2", 0.6)

    def test_best_of_each_family_is_taken(self, commands: Commands, tmp_path: Path) -> None:
        cells = make_cells("controls", CARDIAC)
        experiment = Runner(CARDIAC, "data", tmp_path / "out")
        chosen, failed = choose_rates(experiment, cells, [0.1, 0.2], 0)
        assert chosen is not None and failed == []
        assert [cell.values()["learning_rate"] for cell in chosen] == [0.1, 0.1, 0.2]
        assert [cell.name for cell in chosen] == [cell.name for cell in cells]
        trained = [asked for asked in commands.asked if "train.json" in asked["--config_file"]]
        assert [asked["--learning_rate"] for asked in trained] == ["0.1", "0.2"] * 3
        kept = json.loads((tmp_path / "out" / "rates.json").read_text())
        assert kept["basicunet"]["rate"] == 0.2
        assert kept["basicunet"]["validation_dice"] == pytest.approx({"0.1": 0.4025, "0.2": 0.6025})
        assert choose_rates(experiment, cells, [0.1, 0.2], 0) == (chosen, []) and len(commands.asked) == 12
        assert experiment.run(chosen, [0]) == [] and len(commands.asked) == 12, "the trial is the cell's training"
        scores = (tmp_path / "out" / "basicunet" / "seed0" / "evaluation" / "per_case.csv").read_text()
        assert "c0,c0,0.6" in scores and not (tmp_path / "out" / "basicunet_rate0.2" / "seed0").exists()
        assert (tmp_path / "out" / "basicunet_rate0.1" / "seed0").is_dir()

    def test_results_of_a_cell_stay(self, commands: Commands, tmp_path: Path) -> None:
        trial, cell = make_cells("controls", CARDIAC, nets=["convformer", "conv"])
        experiment = Runner(CARDIAC, "data", tmp_path / "out")
        experiment.run([trial, cell], [0])
        experiment.adopt(trial, cell, 0)
        assert experiment.is_done(trial, 0) and experiment.is_done(cell, 0)

    def test_failed_trial_is_left_for_another_time(self, commands: Commands, tmp_path: Path) -> None:
        commands.broken = {"conv_rate0.1"}
        experiment = Runner(CARDIAC, "data", tmp_path / "out")
        failed = ["conv_rate0.1, seed 0"]
        assert choose_rates(experiment, make_cells("controls", CARDIAC), [0.1, 0.2], 0) == (None, failed)
        commands.broken = set()
        assert choose_rates(experiment, make_cells("controls", CARDIAC), [0.1, 0.2], 0)[0] is not None

    def test_blocks_of_one_kind_share_their_rate(self) -> None:
        cells = make_cells("table1", CARDIAC, nets=["SETR"])
        assert [family_of(cell) for cell in cells] == ["SETR attention"] * 4 + ["SETR convformer"] + [
            "SETR convolution"
        ] * 2
        assert {family_of(cell) for cell in make_cells("alpha", CARDIAC)} == {"SETR convformer"}
        assert {family_of(cell) for cell in make_cells("controls", CARDIAC)} == {"convformer", "conv", "basicunet"}


def test_jobs_share_the_cores(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.os, "cpu_count", lambda: 4)
    Runner(CARDIAC, "data", tmp_path / "out", jobs=2).run(make_cells("controls", CARDIAC), [0])
    assert {asked["threads"] for asked in commands.asked} == {"2"}


def test_no_cell_done_is_no_table(commands: Commands, tmp_path: Path) -> None:
    experiment = Runner(CARDIAC, "data", tmp_path / "out")
    assert table_of(experiment, make_cells("controls", CARDIAC), [0]) == ""


def test_pictures(commands: Commands, tmp_path: Path) -> None:
    cells = make_cells("controls", CARDIAC)
    experiment = Runner(CARDIAC, "data", tmp_path / "out")
    assert draw_pictures(experiment.output_dir) == [], "nothing is done yet"
    experiment.run(cells, [0])
    table_of(experiment, cells, [0])
    drawn = draw_pictures(experiment.output_dir)
    assert [path.name for path in drawn] == ["differences.png", "collapse.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_curves(tmp_path: Path) -> None:
    rows = [
        {"network": net, "patients": f"{share}%", "dice": f"0.{share}", "dice_ci95_low": "0.1", "dice_ci95_high": "0.9"}
        for net in ("vit", "conv")
        for share in (25, 50)
    ]
    assert draw_fractions(rows, tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


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
    layers = list(csv.DictReader(open(tmp_path / "out" / "layers.csv")))
    assert {(row["block"], row["trained"]) for row in layers} >= {("vit", "0"), ("vit", "1"), ("convformer", "0")}
    for name in ("trainings.csv", "epochs.csv", "cases.csv", "differences.png", "collapse.png"):
        assert (tmp_path / "out" / name).stat().st_size

    (tmp_path / "out" / "table.csv").unlink()
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0 and "begins" not in again.stderr
    assert (tmp_path / "out" / "table.csv").is_file()
