"""Peers trained as long: a network by our recipe, for real; nnU-Net by a stand-in that answers as its worker does."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_kinds import KINDS, training_data
from monai.networks.nets import UNet

from convformer_monai.benchmarks import peers
from convformer_monai.benchmarks.files import file_name
from convformer_monai.benchmarks.reference_nets import PaddedUNet
from convformer_monai.cli import main

STAND_IN = """
import json, os, sys
from pathlib import Path
if sys.argv[1] == "-c":
    sys.exit({missing})
words = sys.argv[2:]
with open(Path(os.environ["nnUNet_raw"]).parent / "asked.txt", "a") as asked:
    print(*words[:4], file=asked)
print("nnU-Net talks")
if words[0] == "train":
    if {broken}:
        sys.exit("out of luck")
    size = {{"steps": 30, "batch_size": 14, "parameters": 2_000_000}}
    print(json.dumps({{"seconds_a_step": 0.02, **size}}))
elif words[0] == "predict":
    import nibabel as nib, numpy as np
    Path(words[3]).mkdir()
    for image in sorted(Path(words[2]).glob("*_0000.nii.gz")):
        file = nib.load(image)
        mask = np.zeros(file.shape, np.uint8)
        nib.save(nib.Nifti1Image(mask, file.affine), Path(words[3], image.name.replace("_0000", "")))
    print(json.dumps({{"seconds": {{"a": 1.5, "b": 2.5, "c": 2.0}}}}))
else:
    print("{{}}")
"""


def stand_in(folder: Path, missing: bool = False, broken: bool = False) -> Path:
    script, path = folder / "stand_in.py", folder / "python"
    script.write_text(STAND_IN.format(missing=int(missing), broken=broken))
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')  # paths may hold spaces
    path.chmod(0o755)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    training_data(KINDS["cardiac"], folder)
    return folder


@pytest.mark.slow
def test_trains_segments_and_compares(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "TIMED", 2)
    out, python = tmp_path / "out", stand_in(tmp_path)
    arguments = ["benchmark", "peers", "--data", str(data), "--minutes", "0.1", "--memory-target", "2"]
    arguments += ["--nnunet-python", str(python), "--output-dir", str(out), "--peers", "shipped,zoo,nnunet"]
    assert main(arguments) == 0
    shipped, zoo, nnunet = csv.DictReader(open(out / "peers.csv"))
    assert float(shipped["dice"]) >= float(nnunet["dice"]) and shipped["steps"] == ""
    assert int(zoo["steps"]) >= 1 and zoo["batch_size"] == "24"
    assert zoo["parameters"] == "1625849" and float(zoo["weights_megabytes"]) == pytest.approx(6.503396)
    assert (nnunet["steps"], nnunet["batch_size"], nnunet["seconds_a_volume"]) == ("30", "14", "2.0")
    assert float(nnunet["dice"]) < 0.01, "empty masks"

    asked = (out / "nnunet" / "asked.txt").read_text().splitlines()
    assert asked[:2] == ["plan nnUNetPlans 2.0", "train nnUNetPlans 1 10"]
    assert asked[2] == "train nnUNetPlans 29 10", "6 seconds, 10.33 steps of 0.02 an epoch"
    raw = out / "nnunet" / "raw" / "Dataset001_peer"
    description = json.loads((raw / "dataset.json").read_text())
    case = json.loads((data / "datalist.json").read_text())["train"][0]
    name = Path(case["image"]).name.split(".")[0]
    image, label = nib.load(raw / "imagesTr" / f"{name}_0000.nii.gz"), nib.load(raw / "labelsTr" / f"{name}.nii.gz")
    source = nib.load(data / case["image"])
    assert image.shape == label.shape == source.shape[:3]
    assert image.header.get_zooms() == pytest.approx(source.header.get_zooms()[:3])
    assert set(np.unique(label.dataobj)) <= set(description["labels"].values())

    assert main(arguments) == 0, "nothing is done again"
    assert (out / "nnunet" / "asked.txt").read_text().splitlines() == asked


class Brightness:
    """Stands for ``Segmenter``: what is bright is structure 1."""

    network = torch.nn.Identity()

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def segment(self, image: str) -> SimpleNamespace:
        file = nib.load(image)
        labels = torch.from_numpy(np.asarray(file.dataobj) > 130)[None]
        return SimpleNamespace(labels=labels, series=SimpleNamespace(affine=file.affine))


def test_cases_whose_files_have_one_name_get_masks_of_their_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``p1/image.nii.gz`` and ``p2/image.nii.gz``, as many data sets have them."""
    content: dict[str, list[dict[str, str]]] = {"train": [], "val": []}
    for section, names in (("train", ("train0", "train1")), ("val", ("val0", "train0"))):
        for number, name in enumerate(names):
            (folder := data / f"{section}{number}").mkdir()
            for key, ending in (("image", ""), ("label", "_truth")):
                shutil.copy(data / f"{name}{ending}.nii.gz", folder / f"{key}.nii.gz")
            files = {key: f"{folder.name}/{key}.nii.gz" for key in ("image", "label")}
            content[section].append({"id": f"site/{name}", "patient": name, **files})
    (data / "datalist.json").write_text(json.dumps(content))
    monkeypatch.setattr(peers, "in_own_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr("convformer_monai.segmenter.Segmenter", Brightness)
    peers.run(data, tmp_path / "out", stand_in(tmp_path), 1, ["shipped", "nnunet"])
    for name in ("shipped", "nnunet"):
        masks = tmp_path / "out" / name / "masks"
        assert {file.name for file in masks.iterdir()} == {"site%2Fval0.nii.gz", "site%2Ftrain0.nii.gz"}
    for number, name in enumerate(("val0", "train0")):
        mask = np.asarray(nib.load(tmp_path / "out" / "shipped" / "masks" / f"site%2F{name}.nii.gz").dataobj)
        image = np.asarray(nib.load(data / f"val{number}" / "image.nii.gz").dataobj)
        assert np.array_equal(mask, image > 130)
    took = json.loads((tmp_path / "out" / "nnunet" / "done.json").read_text())["megabytes"]
    assert 10 < took < 200, "its own memory, not that of this process, which holds torch and MONAI"
    raw = tmp_path / "out" / "nnunet" / "raw" / "Dataset001_peer"
    assert len(list((raw / "imagesTr").iterdir())) == len(list((raw / "labelsTr").iterdir())) == 2


def test_names_of_cases_are_single_file_names_that_differ() -> None:
    cases = ["a", "A/b", "A%2Fb", "../a", "ä" * 100, "ä" * 101, "x" * 150, "x" * 151, "\udc80", "a b"]
    names = [file_name(case) for case in cases]
    assert len(set(names)) == len(cases) and names[0] == "a" and names[6] == cases[6]
    assert all("/" not in name and len(name) <= 150 for name in names)


@pytest.mark.parametrize("size", [(128, 128), (100, 81), (17, 33)])
def test_zoo_network_takes_images_of_any_size(size: tuple[int, int]) -> None:
    network = PaddedUNet(2, 1, 4, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2).eval()
    image = torch.randn(1, 1, *size)
    scores = network(image)
    assert scores.shape == (1, 4, *size)
    if size == (128, 128):
        plain = UNet(2, 1, 4, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2).eval()
        plain.load_state_dict(network.state_dict())
        assert torch.equal(plain(image), scores)


def test_goes_on_with_the_same_arguments_alone(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a training is not done: its number of steps came from the minutes."""
    given = {"bundle": "cardiac", "datalist": hashlib.sha256((data / "datalist.json").read_bytes()).hexdigest()}
    for name, more in (("zoo", {"minutes": 5.0}), ("nnunet", {"minutes": 5.0, "memory_target": 2.0})):
        (folder := tmp_path / "out" / name).mkdir(parents=True)
        (folder / "options.json").write_text(json.dumps(given | more))
        (folder / "epochs.json").write_text('{"epochs": 1, "steps": 1}')
    (tmp_path / "out" / "convformer").mkdir()
    (tmp_path / "out" / "convformer" / "done.json").write_text("{}")  # of a version that noted nothing
    python = ["--nnunet-python", str(stand_in(tmp_path, broken=True))]
    words = ["benchmark", "peers", "--data", str(data), "--output-dir", str(tmp_path / "out"), *python]
    for line, what in (
        ("--peers zoo --minutes 6", "zoo holds results of another minutes; give the same"),
        ("--peers nnunet --minutes 5 --memory-target 3", "nnunet holds results of another memory_target;"),
        ("--peers convformer --minutes 5", "convformer holds results of another bundle, datalist, minutes;"),
    ):
        assert main([*words, *line.split()]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error[OTHER_OPTIONS]: ") and what in error
    assert main([*words, *"--peers nnunet --minutes 5 --memory-target 2".split()]) == 2
    assert "error[TRAINING]" in capsys.readouterr().err, "begins"
    content = json.loads((data / "datalist.json").read_text())
    (data / "datalist.json").write_text(json.dumps({**content, "train": content["train"][:1]}))
    assert main([*words, *"--peers nnunet --minutes 5 --memory-target 2".split()]) == 2
    assert "nnunet holds results of another datalist;" in capsys.readouterr().err


def test_refuses(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["benchmark", "peers", "--data", str(data), "--output-dir", str(tmp_path / "out")]
    for more, line in (
        (["--peers", "nnunet,nobody"], "error[OPTION]: --peers must be among shipped, convformer, zoo, nnunet"),
        (["--peers", ""], "error[OPTION]: --peers must be among shipped, convformer, zoo, nnunet, got ''"),
        (["--nnunet-python", str(stand_in(tmp_path, missing=True))], "error[MISSING_PACKAGE]:"),
        (["--nnunet-python", str(tmp_path / "nothing")], "error[MISSING_PACKAGE]:"),
    ):
        assert main([*arguments, *more]) != 0
        assert capsys.readouterr().err.startswith(line)
    assert not (tmp_path / "out").exists()


def test_a_failed_training_names_its_log(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, python = tmp_path / "out", stand_in(tmp_path, broken=True)
    arguments = ["benchmark", "peers", "--data", str(data), "--output-dir", str(out), "--peers", "nnunet"]
    assert main([*arguments, "--nnunet-python", str(python)]) != 0
    assert f"failed; see {out / 'nnunet' / 'log.txt'}" in capsys.readouterr().err
    log = (out / "nnunet" / "log.txt").read_text()
    assert "out of luck" in log and log.count("nnU-Net talks") == 2
    assert not (out / "nnunet" / "done.json").exists()
