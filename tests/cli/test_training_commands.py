"""``train``, ``evaluate``, ``experiment`` and ``export``: what they check before any work, and what they pass on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convformer_monai.bundle_run import SECURITY_WARNING
from convformer_monai.cli import main
from convformer_monai.cli.training import Experiment
from convformer_monai.commands import evaluate as evaluating
from convformer_monai.commands import train as training
from convformer_monai.experiments import EXPERIMENTS
from convformer_monai.training import plan


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The commands that took the place of the program; the user stands in a folder with ``data`` and ``scans``."""
    (tmp_path / "data").mkdir()
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "datalist.json").write_text('{"heads": []}')
    monkeypatch.chdir(tmp_path)
    commands: list[list[str]] = []
    for module in (training, evaluating):
        monkeypatch.setattr(module, "hand_over", lambda command: commands.append(list(command)))
    return commands


def options_of(started: list[list[str]], *arguments: str) -> dict[str, str]:
    """The options that MONAI gets."""
    main([*arguments])
    (command,) = started
    quiet = ["-W", f"ignore:{SECURITY_WARNING}"] if command[1] == "-W" else []
    assert command[: len(quiet) + 4] == [sys.executable, *quiet, "-m", "monai.bundle", "run"]
    options = command[len(quiet) + 4 :]
    return dict(zip(options[::2], options[1::2], strict=True))


def bundle(repository: Path, name: str) -> Path:
    return next((repository / "bundles").glob(f"{name}_*"))


def configs(root: Path, overlay: str) -> str:
    return str([f"{root}/configs/{name}.json" for name in ("inference", overlay)])


def test_evaluate_passes_on_absolute_paths(started: list[list[str]], repository: Path, tmp_path: Path) -> None:
    (tmp_path / "w.pt").touch()
    arguments = "evaluate cardiac --data data --overlays 3 --overlay_choice best --weights w.pt".split()
    assert options_of(started, *arguments, "--output_dir", "my out") == {
        "--bundle_root": f"{bundle(repository, 'cardiac')}",
        "--config_file": configs(bundle(repository, "cardiac"), "evaluate"),
        "--dataset_dir": f"{tmp_path}/data",
        "--output_dir": f"{tmp_path}/my out",
        "--overlays": "3",
        "--overlay_choice": "best",
        "--weights": f"{tmp_path}/w.pt",
        "--weights_sha256": "",
    }


def test_evaluate_takes_another_network(started: list[list[str]]) -> None:
    definition = "{'_target_': 'MyNet', 'in_channels': 1}"
    options = options_of(started, "evaluate", "cardiac", "--data", "data", "--network_def", definition)
    assert options["--network_def"] == definition


def test_evaluate_scores_heads_by_the_folds_of_a_control(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "convformer_monai.evaluation.head_report.report_scans"
    monkeypatch.setattr(name, lambda *given: " ".join(map(str, given[1:])))
    assert main(["evaluate", "hemorrhage", "--data", "scans", "--runs", "my runs", "--network", "conv"]) == 0
    folder, runs = f"{tmp_path}/eval/hemorrhage-conv-my runs", f"{tmp_path}/my runs/conv"
    network = {"network_def#network#block": "conv"}
    assert capsys.readouterr().out == f"{tmp_path}/scans {folder} None {runs} 0 {network} [0, 1, 2, 3, 4]\n"
    assert main(["evaluate", "hemorrhage", "--data", "scans", "--runs", "runs", "--folds", "3,0"]) == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path}/runs 0 {{}} [3, 0]\n")


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ("", "eval/cardiac"),
        ("--section test", "eval/cardiac-test"),
        ("--weights runs/setr/best.pt", "eval/cardiac-setr-best"),
        ("--weights runs/setr/best.pt --output-dir mine", "mine"),
    ],
)
def test_each_evaluation_has_a_folder_of_its_own(
    started: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, folder: str
) -> None:
    (tmp_path / "runs" / "setr").mkdir(parents=True)
    (tmp_path / "runs" / "setr" / "best.pt").touch()
    command = ["evaluate", "cardiac", "--data", "data", *words.split()]
    assert options_of(started, *command)["--output_dir"] == f"{tmp_path}/{folder}"
    picture = tmp_path / folder / "overlays" / "a.png"
    picture.parent.mkdir(parents=True)
    picture.touch()
    (tmp_path / folder / "summary.json").touch()
    assert main(command) == 2 and len(started) == 1
    assert f"error[EXISTS]: {tmp_path}/{folder}/summary.json is there already" in capsys.readouterr().err
    assert picture.exists()
    main([*command, "--overwrite"])
    assert len(started) == 2 and not picture.exists()


@pytest.mark.parametrize(
    ("option", "name"), [("--doubt", "doubt.report_doubt"), ("--peaks", "head_report.report_peaks")]
)
def test_evaluate_prints_doubt_and_peaks(
    started: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    name: str,
) -> None:
    monkeypatch.setattr(f"convformer_monai.evaluation.{name}", lambda *given, **_: " ".join(map(str, given[1:])))
    runs = ["--runs", "r"]
    (tmp_path / "r" / "convformer").mkdir(parents=True)
    assert main(["evaluate", "hemorrhage", "--data", "data", *runs, option, "--output_dir", "o"]) == 0
    expected = [f"{tmp_path}/data", f"{tmp_path}/o", f"{tmp_path}/r/convformer"]
    assert capsys.readouterr().out == " ".join(expected) + "\n"


@pytest.mark.parametrize("dash", ["-", "_"])
def test_train_passes_on_ids_of_the_config(
    started: list[list[str]], repository: Path, tmp_path: Path, dash: str
) -> None:
    words = f"--max{dash}minutes 5 --crop#0 96 --restart --val{dash}interval=2".split()
    assert options_of(started, "train", "cardiac", "--data", "data", *words) == {
        "--bundle_root": f"{bundle(repository, 'cardiac')}",
        "--config_file": f"{bundle(repository, 'cardiac')}/configs/train.json",
        "--dataset_dir": f"{tmp_path}/data",
        "--output_dir": f"{tmp_path}/runs/cardiac",
        "--crop#0": "96",
        "--val_interval": "2",
        "--resume": "False",
        "--max_minutes": "5",
    }


@pytest.mark.parametrize("name", ["cardiac", "dermoscopy", "hemorrhage"])
def test_train_keeps_prepared_images_in_a_folder(
    started: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert options_of(started, "train", name, "--data", "data", "--cache-dir", "c")["--cache_dir"] == f"{tmp_path}/c"
    (tmp_path / "c").touch()
    assert main(["train", name, "--data", "data", "--cache-dir", "c"]) == 2 and len(started) == 1
    assert capsys.readouterr().err.startswith("error[CANNOT_WRITE]: --cache-dir c is not a folder")


@pytest.mark.parametrize("name", ["cardiac", "dermoscopy", "hemorrhage"])
def test_train_starts_from_the_weights_of_a_bundle(
    started: list[list[str]], repository: Path, tmp_path: Path, name: str
) -> None:
    options = options_of(started, "train", name, "--data", "data", "--finetune", "--max_epochs", "3")
    root = Path(options["--bundle_root"])
    assert options["--config_file"] == repr([f"{root}/configs/train.json", f"{root}/configs/finetune.json"])
    assert options["--pretrained"] == f"{root}/models/model.pt" and options["--resume"] == "True"
    assert options["--output_dir"] == f"{tmp_path}/runs/{name}-finetune" and options["--max_epochs"] == "3"


def test_only_shipped_bundles_are_trusted(started: list[list[str]], bundle_root: Path, tmp_path: Path) -> None:
    """MONAI warns that configs execute code; a copy may have been changed."""
    (tmp_path / "copy").mkdir()
    shutil.copytree(bundle_root / "configs", tmp_path / "copy" / "configs")
    main(["train", "copy", "--data", "data"])
    main(["train", "cardiac", "--data", "data"])
    assert ["-W" in command for command in started] == [False, True]


def test_train_takes_the_folder_of_a_bundle(started: list[list[str]], repository: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(bundle(repository, "cardiac"))
    options = options_of(started, "train", "mine/", "--data", "data")
    assert options["--bundle_root"] == f"{tmp_path}/mine" and options["--output_dir"] == f"{tmp_path}/runs/mine"


def test_train_starts_several_processes(
    started: list[list[str]], repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "cardiac", "--data", "data", "--processes", "2"]) == 2 and not started
    assert "error[DATALIST_MISSING]" in capsys.readouterr().err, "said here, since torchrun says little of it"
    monkeypatch.setattr("convformer_monai.commands.train.read_lists", lambda _: {"train": [], "val": []})
    monkeypatch.setattr("convformer_monai.commands.train.read_cases", lambda *_, **__: [])
    main(["train", "cardiac", "--data", "data", "--processes", "2"])
    words = " ".join(started[0])
    assert "-m torch.distributed.run --standalone --nproc_per_node 2 -m monai.bundle run" in words
    configs = bundle(repository, "cardiac") / "configs"
    assert repr([f"{configs}/train.json", f"{configs}/multi_gpu_train.json"]) in started[0]


@pytest.mark.parametrize("done", [True, False])
def test_train_all_runs_the_plan(
    started: list[list[str]], repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(plan, "run_plan", lambda *given: asked.extend(given) or done)
    words = "--all --networks conv --batch_size 4 --max_minutes 30 --output_dir out".split()
    assert main(["train", "hemorrhage", "--data", "data", *words]) == 0
    root = bundle(repository, "ct")
    assert asked == [root, f"{tmp_path}/data", tmp_path / "out", ["--batch_size", "4"], ["conv"], 30]


def test_experiments_are_those_of_the_package() -> None:
    assert [experiment.value for experiment in Experiment] == [*EXPERIMENTS, "pack"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("evaluate", "Missing argument 'BUNDLE'"),
        ("evaluate brain --data data", "brain is not a bundle"),
        ("evaluate cardiac", "Missing option '--data'"),
        ("evaluate cardiac --data nowhere", "nowhere does not exist"),
        ("evaluate cardiac --data data --sectoin val", "--sectoin"),
        ("evaluate cardiac --data data --section", "--section' requires an argument"),
        ("evaluate cardiac --data a#b", "'#'"),
        ("evaluate cardiac --data data --runs runs", "--runs is for the folds of hemorrhage"),
        ("evaluate hemorrhage --data scans --runs runs --weights w.pt", "--runs is not for --weights"),
        ("evaluate hemorrhage --data scans --folds 0", "--folds is not for an evaluation without --runs"),
        ("evaluate cardiac --data data --folds 0", "--folds is not for an evaluation without --runs"),
        ("evaluate hemorrhage --data scans --runs runs --folds 5", "--folds must be among 0, 1, 2, 3, 4"),
        ("evaluate hemorrhage --data scans --network_def x", "--network-def must be a Python dictionary"),
        ("evaluate hemorrhage --data data --network cnov", "must be one of"),
        ("evaluate hemorrhage --data data --network conv --network_def x", "--network-def is not for --network"),
        ("evaluate hemorrhage --data data --peaks", "--peaks is for hemorrhage, with --runs"),
        ("evaluate cardiac --data data --runs runs --peaks", "--peaks is for hemorrhage"),
        ("evaluate cardiac --data data --doubt --runs runs", "--runs is for the folds of hemorrhage"),
        ("evaluate hemorrhage --data data --doubt", "--doubt of hemorrhage goes by --runs"),
        ("evaluate cardiac --data data --doubt --shifts", "give one of them"),
        ("evaluate cardiac --data data --doubt --section val", "--section is not for --doubt"),
        ("train brain --data data", "brain is not a bundle"),
        ("train cardiac", "Missing option '--data'"),
        ("train cardiac --data nowhere", "nowhere does not exist"),
        ("train cardiac --data data --max_minuts 5", "no id max_minuts; did you mean --max_minutes?"),
        ("train cardiac --data data --fold 1", "no id fold"),
        ("train cardiac --data data --seed", "--seed needs a value"),
        ("train cardiac --data data --seed --restart", "--seed needs a value"),
        ("train cardiac --data data more", "unexpected argument more"),
        ("train hemorrhage --data data --networks conv", "--all"),
        ("train hemorrhage --data data --all --processes 2", "one process"),
        ("train hemorrhage --data data --all --finetune", "leave --finetune out"),
        ("train cardiac --data data --all --restart", "for a new start give another --output-dir"),
        ("train cardiac --data data --all --examples 4", "leave --all out"),
        ("train cardiac --data data --finetune --processes 2", "leave --processes out"),
        ("train hemorrhage --data data --all --networks foo", "no network 'foo'"),
        (
            "experiment table2 --task cardiac --data data",
            "'table2' is not one of 'table1', 'alpha', 'controls'",
        ),
        ("experiment table1 --data data", "Missing option"),
        ("experiment table1 --task cardiac --data data --learning-rates 0.1", "--learning-rates must be two or more"),
        ("experiment table1 --task cardiac --data data --learning-rates 1,x", "--learning-rates must be two or more"),
        (
            "experiment pack --task cardiac --data data --max_epochs 2",
            "pack takes no --max_epochs; give it to",
        ),
        ("experiment table1 --task cardiac --data data --seed 3", "leave --seed out: --seeds sets it"),
        ("experiment fraction --task cardiac --data data --share 0.5", "leave --share out"),
        (
            "experiment controls --task cardiac --data data --learning-rates 1,2 --learning_rate 3",
            "leave --learning_rate out",
        ),
        ("experiment table1 --task knee --data data", "knee is not a bundle"),
        ("experiment table1 --task cardiac", "Missing option '--data'"),
        ("experiment table1 --task cardiac --data nowhere", "nowhere does not exist"),
        (
            "experiment table1 --task cardiac --data data --folds 0",
            "folds of cardiac_mri_convformer_segmentation: none",
        ),
        ("experiment table1 --task hemorrhage --data data --folds 0,5", "_segmentation: 0, 1, 2, 3, 4"),
        ("experiment table1 --task cardiac --data data --max_epoch 8", "has no id max_epoch"),
        ("experiment controls --task cardiac --data data --seeds a", "--seeds must be whole numbers"),
        ("experiment controls --task cardiac --data data --jobs 0", "--jobs"),
        ("experiment controls --task cardiac --data data --max_minutes -1", "--max-minutes"),
        ("experiment controls --task cardiac --data data --nets foo", "nets must be among convformer, conv, basicunet"),
        ("export cardiac", "either --output FILE or --weights FILE"),
        ("export --weights data", "name the bundle"),
        ("export dermoscopy -b cardiac --output x.ts", "two bundles"),
        ("export cardiac --weights nowhere.pt", "nowhere.pt does not exist"),
        ("export cardiac --output x.tflite", "must end in"),
    ],
)
def test_wrong_arguments_end_with_one_line_and_status_2(
    started: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("error[") and message in line and out == ""
    assert not started and {file.name for file in tmp_path.iterdir()} == {"data", "scans"}


def test_export_changes_the_installed_package_only_when_asked_to(
    tmp_path: Path, bundle_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "_bundles" / "hearts"
    shutil.copytree(bundle_root, root)
    command = ["export", str(root), "--weights", str(bundle_root / "models" / "model.pt")]
    (root / "models" / "model.pt").write_bytes(b"old")
    assert main(command) == 2 and (root / "models" / "model.pt").read_bytes() == b"old"
    assert f"error[EXISTS]: {root} belongs to the installed package" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0 and (root / "models" / "model.pt").read_bytes() != b"old"


def test_export_takes_the_mean_of_several_weights(tmp_path: Path, bundle_root: Path) -> None:
    root, original = tmp_path / "hearts", bundle_root / "models" / "model.pt"
    shutil.copytree(bundle_root, root)
    first = torch.load(original, weights_only=True)
    torch.save(
        {key: 3 * value if value.is_floating_point() else value for key, value in first.items()}, tmp_path / "b.pt"
    )
    command = ["export", str(root), "--weights", str(original), "--weights", str(tmp_path / "b.pt")]
    assert main(command) == 0
    mean = torch.load(root / "models" / "model.pt", weights_only=True)
    for key, value in first.items():
        assert (
            torch.allclose(mean[key].float(), 2 * value.float(), rtol=2e-3, atol=1e-6) or not value.is_floating_point()
        )
    assert main([*command, "--weights", str(tmp_path / "none.pt")]) == 2


@pytest.mark.parametrize("fault", ["the disk", "too large for float16"])
def test_export_that_fails_leaves_the_bundle_as_it_was(
    tmp_path: Path, bundle_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    root, weights = tmp_path / "hearts", tmp_path / "best.pt"
    shutil.copytree(bundle_root, root)
    before = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    if fault == "the disk":
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(fault)))
    else:
        next(value for key, value in state.items() if key.endswith("running_var"))[0] = 1e6
    torch.save(state, weights)
    assert main(["export", str(root), "--weights", str(weights)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error[CANNOT_WRITE]" if fault == "the disk" else "error[WEIGHTS_MISFIT]") and fault in line
    assert {file: file.read_bytes() for file in root.rglob("*") if file.is_file()} == before


def test_a_command_that_takes_over_is_the_process_itself(repository: Path) -> None:
    """Its exit status and its one line, from the real MONAI."""
    command = [sys.executable, "-m", "convformer_monai.cli", "evaluate", "cardiac", "--data", str(repository / "docs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error[DATALIST_MISSING]: ")


def test_examples_are_drawn_instead_of_a_training(started: list[list[str]], tmp_path: Path) -> None:
    options = options_of(started, "train", "cardiac", "--data", "data", "--examples", "12", "--output-dir", "out")
    assert options["--run_id"] == "draw" and options["--example_count"] == "12"
    assert options["--output_dir"] == f"{tmp_path}/out"
