"""Pipes and devices where a file is needed: reading one would wait for ever, or never come to an end."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from convformer_monai.cli import main
from convformer_monai.phantoms import cardiac_phantom

PATIENCE_S = 60
COMMANDS = {
    "input": "segment -i {file} -o {out}",
    "input of explain": "explain -i {file} -o {out}",
    "mask": "measure -m {file}",
    "bundle": "segment -i {image} -o {out} -b {file}",
    "bundle of a mask": "measure -m {image} -b {file}",
    "bundle to export": "export -o {out}.ts -b {file}",
    "bundle to train": "train {file} --data {folder} -o {out}",
    "bundle of the server": "label --studies {folder} -b {file}",
    "studies": "label --studies {file}",
    "datalist": "evaluate cardiac --data {file} -o {out}",
    "datalist of a training": "train cardiac --data {file} -o {out}",
    "datalist of an experiment": "experiment table1 -b cardiac --data {file} -o {out}",
    "weights": "evaluate cardiac --data {folder} --weights {file} -o {out}",
    "weights to keep": "export cardiac --weights {file}",
    "weights to explain": "explain -i {image} -o {out} --net SETR --weights {file}",
    "folder of the results": "segment -i {image} -o {file}",
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return cardiac_phantom(shape=(32, 32, 2), spacing=(4.0, 4.0, 10.0)).save(tmp_path / "in", "x")[0]


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Runs a command; returns the one line with which it ends. A command that waits is stopped."""

    def stop(*_: object) -> NoReturn:
        raise TimeoutError

    def refusal(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    monkeypatch.setattr(os, "execv", stop)
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE_S)
    yield refusal
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("what", COMMANDS)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_device_is_refused_as_such(
    what: str, kind: str, image: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    file = Path("/dev/zero")
    if kind == "pipe":
        file = tmp_path / {"bundle": "a.zip", "datalist": "a.json"}.get(what.split()[0], "a.nii.gz")
        os.mkfifo(file)
    words = COMMANDS[what].format(file=file, image=image, folder=tmp_path / "in", out=tmp_path / "out")
    said = refusal(*words.split())
    assert said.startswith("error[") and str(file) in said
    if what not in ("studies", "folder of the results"):
        assert f"{file} is a {kind}, not a file; give " in said


@pytest.mark.parametrize("name", ["configs/metadata.json", "configs/inference.json", "models/model.pt"])
def test_a_pipe_in_a_bundle_is_refused(
    name: str, image: Path, tmp_path: Path, bundle_root: Path, refusal: Callable[..., str]
) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(bundle_root, root)
    (root / name).unlink()
    os.mkfifo(root / name)
    assert refusal("segment", "-i", image, "-o", tmp_path / "out", "-b", root).startswith("error[")


@pytest.mark.parametrize("pipe", ["datalist.json", "x.png", "x.nii.gz"])
def test_a_pipe_in_the_folder_of_data_is_refused(pipe: str, tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / "datalist.json").write_text(json.dumps({"val": [{"image": pipe, "label": pipe}]}))
    (tmp_path / pipe).unlink(missing_ok=True)
    os.mkfifo(tmp_path / pipe)
    said = refusal("evaluate", "dermoscopy", "--data", tmp_path, "--flags", "-o", tmp_path / "out")
    assert f"{tmp_path / pipe} is a pipe, not a file" in said
