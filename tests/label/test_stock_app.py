"""The bundles, as they are, in MONAI Label's own sample app for bundles: real server, real weights, phantoms."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import requests
import torch
from bundle_kinds import KINDS, Kind
from label_server import LabelServer
from PIL import Image
from servers import free_port, monailabel_command, running

from convformer_monai.bundle import component, load_weights
from convformer_monai.phantoms import cardiac_phantom, dermoscopy_phantom, head_ct_phantom
from convformer_monai.readers import read_series
from convformer_monai.segmenter import Segmenter

GOOD = {"cardiac": 0.88, "dermoscopy": 0.85, "hemorrhage": 0.7}  # Dice, on these phantoms
DIMENSION = 2  # of what the networks take, which MONAI's own commands read in the metadata too: slices and photographs


@dataclass(frozen=True)
class Stock:
    """A bundle in the stock app.

    Attributes:
        kind: the bundle.
        server: the running server, whose images are ``one`` and ``twin``, the same image twice.
        bundle: folder of the bundle in the app.
        image: a file that is ``one``.
        truth: its mask.
    """

    kind: Kind
    server: LabelServer
    bundle: Path
    image: Path
    truth: Path

    def infer(self, image: str = "", **more: object) -> tuple[str, bytes]:
        """Asks for a mask, as clients do that want nothing special; returns its ending and its bytes."""
        answer = self.server.infer(image, **more)
        assert answer.status_code == 200, answer.text
        name = answer.headers["content-disposition"].split('"')[1]
        return name[name.index(".") :], answer.content


@pytest.fixture(scope="module", params=list(KINDS))
def stock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    """Copies the stock app, puts the bundle into it, and starts it."""
    kind = KINDS[request.param]
    folder = tmp_path_factory.mktemp(kind.name)
    app, studies, home = folder / "app", folder / "studies", folder / "home"
    shutil.copytree(Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle", app)
    shutil.copytree(kind.root, app / "model" / kind.folder)
    home.mkdir()
    studies.mkdir()
    image, truth = phantom(kind, folder)
    for name in ("one", "twin"):
        shutil.copy(image, studies / image.name.replace("phantom", name))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    options = {"models": kind.folder, "epistemic_model": kind.folder, "zoo_source": "local", "sam2": "false"}
    environment = {"HOME": str(home), "MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}
    log = folder / "server.log"
    command = monailabel_command(app, studies, port, **options)
    with running(command, f"{url}/info/", log, environment, cwd=folder) as process:
        server = LabelServer(url=url, model=kind.folder, work=folder, log=log, process=process)
        yield Stock(kind, server, app / "model" / kind.folder, image, truth)


def phantom(kind: Kind, folder: Path) -> tuple[Path, Path]:
    """Writes a small image and its truth: slices along the first axis, a large photograph, a head."""
    if kind.name == "cardiac":
        made = cardiac_phantom(shape=(5, 160, 180), spacing=(12.0, 1.8, 1.8), axcodes="SRA", seed=1)
    elif kind.name == "hemorrhage":
        made = head_ct_phantom(shape=(128, 128, 8), spacing=(1.8, 1.8, 14.0), seed=1)
    else:
        made = dermoscopy_phantom(size=(1000, 760), seed=1)
    image, truth = made.save(folder, "phantom")
    return image, truth


def pixels(path: Path) -> np.ndarray:
    """Labels of a file; of a picture (X, Y)."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path)).T
    return read_series(path).image.numpy()[0]


def dice(mask: np.ndarray, truth: np.ndarray, label: int) -> float:
    return 2 * float(np.sum((mask == label) & (truth == label))) / float(np.sum(mask == label) + np.sum(truth == label))


def logged(log: Path, text: str) -> bool:
    """Whether a server says something within a few seconds: it answers before it writes its traceback."""
    for _ in range(50):
        if text in log.read_text():
            return True
        time.sleep(0.2)
    return False


def only(*names: str) -> pytest.MarkDecorator:
    """Runs a test for some of the bundles."""
    return pytest.mark.parametrize("stock", names, indirect=True, scope="module")


def test_model_is_listed_with_its_labels(stock: Stock) -> None:
    info = stock.server.get("/info/").json()
    model = info["models"][stock.kind.folder]
    metadata = json.loads((stock.kind.root / "configs" / "metadata.json").read_text())
    names = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert model["labels"] == {name.lower(): int(index) for index, name in names.items() if index != "0"}
    assert model["type"] == "segmentation"
    assert model["dimension"] == DIMENSION
    assert model["version"] == metadata["version"]
    assert set(info["scoring"]) == {stock.kind.folder}


def test_mask_is_right_and_lies_where_the_image_lies(stock: Stock, tmp_path: Path) -> None:
    """And it is what the bundle gives without MONAI Label."""
    ending, content = stock.infer("one")
    assert ending == (".png" if stock.kind.is_photo else ".nii.gz")
    file = tmp_path / f"mask{ending}"
    file.write_bytes(content)
    mask, truth = pixels(file), pixels(stock.truth)
    assert mask.shape == truth.shape
    if stock.kind.is_photo:
        assert Image.open(file).size == Image.open(stock.image).size
        truth = truth // 255
    else:
        image, written = nib.load(stock.image), nib.load(file)
        assert written.shape == image.shape
        assert written.get_data_dtype() == np.uint8
        np.testing.assert_allclose(written.affine, image.affine, atol=1e-4)
    labels = range(1, stock.kind.classes)
    assert set(np.unique(mask)) == {0, *labels}
    assert all(dice(mask, truth, label) > GOOD[stock.kind.name] for label in labels)
    ours = Segmenter(stock.kind.root).segment(stock.image).labels.numpy()[0]
    assert np.mean(mask != ours) < 1e-4, "another number of threads may round another way"
    assert not (stock.bundle / "eval").exists(), "nothing is saved beside the answer"


@only("cardiac", "dermoscopy")
def test_client_chooses_another_format(stock: Stock) -> None:
    assert stock.infer("one", result_extension=".nrrd")[0] == ".nrrd"


@only("hemorrhage")
def test_mask_of_a_tilted_gantry_keeps_the_sheared_grid(stock: Stock, tmp_path: Path) -> None:
    """The app cannot write such a grid as NIfTI."""
    tilted = head_ct_phantom(shape=(128, 128, 8), spacing=(1.8, 1.8, 14.0), tilt_degrees=15, seed=1)
    image, _ = tilted.save(tmp_path, "tilted")
    ending, content = stock.infer(upload=image)
    (tmp_path / f"mask{ending}").write_bytes(content)
    mask = read_series(tmp_path / f"mask{ending}").image
    np.testing.assert_allclose(mask.affine, tilted.affine, atol=1e-4)
    assert dice(mask.numpy()[0], tilted.label, 1) > GOOD[stock.kind.name]


def test_what_a_bundle_does_not_take_is_an_error_and_no_mask(stock: Stock, tmp_path: Path) -> None:
    if stock.kind.name == "cardiac":
        code, size = "SEVERAL_PHASES", {"shape": (64, 64, 2), "spacing": (4.0, 4.0, 20.0)}
        wrong, _ = cardiac_phantom(**size, num_phases=2).save(tmp_path, "cine")
    else:
        code = "WRONG_KIND"
        wrong = KINDS["hemorrhage" if stock.kind.is_photo else "dermoscopy"].write(tmp_path, "wrong")
    answer = stock.server.infer(upload=wrong)
    assert answer.status_code == 500
    assert logged(stock.server.log, f"error[{code}]")


def test_epistemic_scores_are_entropies_that_dropout_changes(stock: Stock) -> None:
    url = f"{stock.server.url}/scoring/{stock.kind.folder}"
    answer = requests.post(url, params={"run_sync": True}, json={"simulation_size": 3}, timeout=240)
    assert answer.status_code == 200, stock.server.log.read_text()[-2000:]
    assert answer.json()["executed"] == 2
    images = stock.server.get("/datastore/", output="all").json()["objects"]
    scores = [images[name]["image"]["info"]["epistemic_entropy"] for name in ("one", "twin")]
    least = 0.002  # masks taken for probabilities give 0.0005, and less where there are several labels
    if stock.kind.name == "hemorrhage":
        least = 0.0003  # most of the picture lies outside of the head, where the network is not asked
    assert all(least < score < math.log(stock.kind.classes) for score in scores)
    assert scores[0] != scores[1], "one image scores differently each time, since whole channels are dropped at random"


@only("cardiac", "dermoscopy")
def test_an_epoch_of_training_starts_from_the_bundles_weights(stock: Stock) -> None:
    """It leaves its weights in `runs`: those of the bundle are pinned by their hash."""
    for name in ("one", "twin"):
        assert stock.server.save_label(name, stock.truth, tag="final").status_code == 200
    url = f"{stock.server.url}/train/{stock.kind.folder}"
    answer = requests.post(url, params={"run_sync": True}, json={"max_epochs": 1, "val_split": 0.5}, timeout=240)
    assert answer.status_code == 200, stock.server.log.read_text()[-3000:]
    best = json.loads((stock.bundle / "runs" / "best.json").read_text())
    assert best["value"] > 0.7, "one step from weights that know the structures"
    network = component(stock.bundle, "inference", "network_def")
    load_weights(network, stock.bundle / "runs" / "best.pt")
    shipped = torch.load(stock.bundle / "models" / "model.pt", weights_only=True)
    assert any(not torch.equal(shipped[key].float(), value) for key, value in network.state_dict().items())
