"""The scripts check what they are asked for, and pass it on, before anything is installed or run."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BUNDLE = "bundles/cardiac_mri_convformer_segmentation"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def call(repository: Path, tmp_path: Path) -> Run:
    """Runs a script in a stub of the repository, with a Python that only shows what modules it was to run."""
    root = tmp_path / "repo"
    shutil.copytree(repository / "scripts", root / "scripts")
    for configs in (repository / "bundles").glob("*/configs"):
        shutil.copytree(configs, root / configs.relative_to(repository))
    show = tmp_path / "bin" / "show"
    show.parent.mkdir()
    show.write_text(f'#!/bin/sh\n[ "$1" = -m ] || exec \'{sys.executable}\' "$@"\nprintf \'<%s>\\n\' "$@"\n')
    show.chmod(0o755)
    (root / "scripts" / "_environment").write_text(f"root='{root}' python='{show}'\n")
    (tmp_path / "data").mkdir()

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        script = root / "scripts" / name
        return subprocess.run([script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def options_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    given = [line[1:-1] for line in done.stdout.splitlines()]
    start = given.index("run") + 1
    assert given[start - 2] == "monai.bundle"
    return dict(zip(given[start::2], given[start + 1 :: 2], strict=True))


def configs(bundle: str, overlay: str) -> str:
    return str([f"bundles/{bundle}/configs/{name}.json" for name in ("inference", overlay)])


def test_evaluate_passes_on_absolute_paths(call: Run, tmp_path: Path) -> None:
    done = call(
        "evaluate", "cardiac", "--data", "data", "--output_dir", "my out", "--overlays", "3", "--weights", "w.pt"
    )
    assert options_of(done) == {
        "--config_file": configs("cardiac_mri_convformer_segmentation", "evaluate"),
        "--bundle_root": "bundles/cardiac_mri_convformer_segmentation",
        "--dataset_dir": f"{tmp_path}/data",
        "--output_dir": f"{tmp_path}/my out",
        "--overlays": "3",
        "--weights": f"{tmp_path}/w.pt",
        "--weights_sha256": "",
    }


def test_evaluate_takes_a_network_of_ones_own(call: Run) -> None:
    definition = "{'_target_': 'MyNet', 'in_channels': 1}"
    done = call("evaluate", "cardiac", "--data", "data", "--weights", "w.pt", "--network_def", definition)
    assert options_of(done)["--network_def"] == definition


def test_evaluate_peaks(call: Run, tmp_path: Path) -> None:
    done = call("evaluate", "hemorrhage", "--data", "data", "--runs", "my runs", "--peaks")
    given = [line[1:-1] for line in done.stdout.splitlines()]
    assert given[:2] == ["-m", "convformer_monai.evaluation.confidence"]
    assert given[-2:] == ["--runs", f"{tmp_path}/my runs/convformer"]
    for refused in (["hemorrhage", "--data", "data"], ["cardiac", "--data", "data", "--runs", "my runs"]):
        done = call("evaluate", *refused, "--peaks")
        assert done.returncode == 2 and "--peaks needs --runs" in done.stderr


def test_train_passes_on_ids_of_the_config(call: Run, tmp_path: Path) -> None:
    done = call("train", "cardiac", "--data", "data", "--max_minutes", "5", "--crop#0", "96", "--restart")
    assert options_of(done) == {
        "--config_file": f"{BUNDLE}/configs/train.json",
        "--bundle_root": BUNDLE,
        "--output_dir": "runs/cardiac",
        "--max_minutes": "5",
        "--crop#0": "96",
        "--resume": "False",
        "--dataset_dir": f"{tmp_path}/data",
    }


def test_experiment_passes_on_what_is_its_own_and_ids_of_the_config(call: Run, tmp_path: Path) -> None:
    done = call("experiment", "table1", "--task", "cardiac", "--data", "data", "--nets", "SETR", "--max_epochs", "8")
    assert done.returncode == 0, done.stderr
    given = [line[1:-1] for line in done.stdout.splitlines()]
    assert given[:3] == ["-m", "convformer_monai.experiments", "table1"]
    assert dict(zip(given[3::2], given[4::2], strict=True)) == {
        "--bundle_root": BUNDLE,
        "--dataset_dir": f"{tmp_path}/data",
        "--output_dir": "runs/table1/cardiac",
        "--nets": "SETR",
        "--max_epochs": "8",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table2"], "the first argument names the experiment"),
        (["table1", "--data", "data"], "--task is missing"),
        (["table1", "--task", "knee", "--data", "data"], "the first argument names the bundle"),
        (["table1", "--task", "cardiac"], "--data is missing"),
        (["table1", "--task", "cardiac", "--data", "nowhere"], "there is no"),
        (["table1", "--task", "cardiac", "--data", "data", "--max_epoch", "8"], "has no id max_epoch"),
    ],
)
def test_experiment_refuses(call: Run, arguments: list[str], message: str) -> None:
    done = call("experiment", *arguments)
    assert done.returncode == 2 and message in done.stderr and not done.stdout.startswith("<")


def test_train_starts_several_processes(call: Run) -> None:
    done = call("train", "cardiac", "--data", "data", "--processes", "2")
    assert "<torch.distributed.run>" in done.stdout
    assert f"['{BUNDLE}/configs/train.json','{BUNDLE}/configs/multi_gpu_train.json']" in done.stdout


def test_train_all_runs_the_plan(call: Run, tmp_path: Path) -> None:
    done = call("train", "hemorrhage", "--data", "data", "--all", "--networks", "conv", "--batch_size", "4")
    root = "bundles/ct_hemorrhage_convformer_segmentation"
    assert done.stdout.splitlines()[:2] == ["<-m>", "<convformer_monai.training.plan>"]
    given = [line[1:-1] for line in done.stdout.splitlines()][2:]
    assert dict(zip(given[::2], given[1::2], strict=True)) == {
        "--bundle_root": root,
        "--dataset_dir": f"{tmp_path}/data",
        "--output_dir": "runs/hemorrhage",
        "--networks": "conv",
        "--batch_size": "4",
    }


def test_evaluate_cross_validates_the_runs_of_a_control(call: Run, tmp_path: Path) -> None:
    done = call("evaluate", "hemorrhage", "--data", "data", "--runs", "my runs", "--network", "conv")
    root = "bundles/ct_hemorrhage_convformer_segmentation"
    assert options_of(done) == {
        "--config_file": configs("ct_hemorrhage_convformer_segmentation", "crossvalidate"),
        "--bundle_root": root,
        "--dataset_dir": f"{tmp_path}/data",
        "--weights": f"{tmp_path}/my runs/conv/fold{{fold}}/best.pt",
        "--network_def#block": "conv",
    }


def test_export_passes_the_file_on(call: Run, tmp_path: Path) -> None:
    done = call("export", "cardiac", "--output", "my net#1.onnx")
    assert done.stdout.splitlines()[:2] == ["<-m>", "<convformer_monai.cli>"]
    assert f"<{tmp_path}/my net#1.onnx>" in done.stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("evaluate", "names the bundle"),
        ("evaluate brain --data data", "names the bundle"),
        ("evaluate cardiac", "--data is missing"),
        ("evaluate cardiac --data nowhere", "there is no"),
        ("evaluate cardiac --data data --sectoin val", "unknown option --sectoin"),
        ("evaluate cardiac --data data --section", "--section needs a value"),
        ("evaluate cardiac --data a#b", "'#'"),
        ("train brain --data data", "names the bundle"),
        ("train cardiac", "--data is missing"),
        ("train cardiac --data nowhere", "there is no"),
        ("train cardiac --data data --max_minuts 5", "no id max_minuts"),
        ("train cardiac --data data --seed", "--seed needs a value"),
        ("train hemorrhage --data data --networks conv", "--all"),
        ("train hemorrhage --data data --all --processes 2", "one process"),
        ("evaluate cardiac --data data --runs runs", "has no folds"),
        ("evaluate hemorrhage --data data --network cnov", "must be one of"),
        ("export cardiac --weights nowhere.pt", "no such file"),
        ("export cardiac --output x.tflite", "must end in"),
        ("demo nowhere.nii.gz", "no such file"),
        ("demo data", "is a folder"),
    ],
)
def test_wrong_arguments_end_with_one_line_and_status_2(call: Run, command: str, message: str) -> None:
    name, *arguments = command.split()
    done = call(name, *arguments)
    assert (done.returncode, done.stdout.startswith("<")) == (2, False)
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["demo", "evaluate", "export", "test", "train"])
def test_help(call: Run, name: str) -> None:
    assert call(name, "--help").stdout.startswith(f"usage: scripts/{name}")


def test_label_passes_on_what_it_is_given_and_explains_itself(call: Run) -> None:
    done = call("label", "--studies", "a folder", "--bundle", "hemorrhage")
    assert done.returncode == 0, done.stderr
    expected = ["-m", "convformer_monai.cli", "label", "--studies", "a folder", "--bundle", "hemorrhage"]
    assert [line[1:-1] for line in done.stdout.splitlines()] == expected
    assert call("label").stdout.startswith("usage: scripts/label --studies")
