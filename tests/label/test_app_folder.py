"""Our label app on a folder of images: the real server, the real bundles, phantoms with exact truth."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import requests
import SimpleITK
from label_server import LabelServer, dice, label_server
from PIL import Image
from servers import WAIT_S

from convformer_monai.phantoms import cardiac_phantom, dermoscopy_phantom, head_ct_phantom
from convformer_monai.phantoms.dicom.kinds import write_kind

GOOD = 0.8
SHAPE = (128, 128, 4)


def bundle_file(repository: Path, bundle: str, name: str) -> Path:
    (root,) = (repository / "bundles").glob(f"*{bundle}*")
    return root / name


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two volumes and a DICOM folder, of hearts; their truth beside it."""
    folder = tmp_path_factory.mktemp("a folder") / "hearts"
    folder.mkdir()
    for seed in range(2):
        phantom = cardiac_phantom(seed=seed, shape=(160, 160, 6))
        _, truth = phantom.save(folder, f"heart{seed}")
        truth.rename(folder.parent / truth.name)
    series, truth = write_kind("cardiac", folder.parent, seed=2, num_phases=1)
    series.rename(folder / "series")
    truth.rename(folder.parent / "series_truth.nii.gz")
    return folder


@pytest.fixture(scope="module")
def server(hearts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    with label_server("cardiac", hearts, tmp_path_factory.mktemp("server")) as running:
        yield running


def answer_of(response, folder: Path, name: str) -> Path:
    assert response.status_code == 200, response.text
    path = folder / name
    path.write_bytes(response.content)
    return path


def refused(response, status: int, text: str) -> None:
    assert response.status_code == status, response.text
    assert text in response.json()["detail"]
    assert "Traceback" not in response.text


def test_info_names_model_labels_colours_strategies(server: LabelServer) -> None:
    info = server.get("/info/").json()
    model = info["models"][server.model]
    assert model["labels"] == {"RV": 1, "MYO": 2, "LV": 3} and model["dimension"] == 3
    assert set(model["label_colors"]) == set(info["labels"]) == {"RV", "MYO", "LV"}
    assert {"epistemic", "random"} <= set(info["strategies"])
    assert server.model in info["trainers"] and info["datastore"]["total"] == 3


@pytest.mark.parametrize("image", ["heart0", "series"])
def test_infer_gives_the_truth_on_the_images_grid(
    server: LabelServer, hearts: Path, tmp_path: Path, image: str
) -> None:
    truth = nib.load(hearts.parent / f"{image}_truth.nii.gz")
    mask = nib.load(answer_of(server.infer(image), tmp_path, "mask.nii.gz"))
    assert mask.shape == truth.shape
    assert np.allclose(mask.affine, truth.affine, atol=1e-3)
    found, wanted = np.asarray(mask.dataobj), np.asarray(truth.dataobj)
    for index in (1, 2, 3):
        assert dice(found == index, wanted == index) > GOOD


def test_infer_as_nrrd_lies_where_the_nifti_does(server: LabelServer, tmp_path: Path) -> None:
    nifti = SimpleITK.ReadImage(str(answer_of(server.infer("heart0"), tmp_path, "mask.nii.gz")))
    nrrd = SimpleITK.ReadImage(str(answer_of(server.infer("heart0", result_extension=".nrrd"), tmp_path, "mask.nrrd")))
    assert np.array_equal(SimpleITK.GetArrayFromImage(nifti), SimpleITK.GetArrayFromImage(nrrd))
    for of in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert np.allclose(getattr(nifti, of)(), getattr(nrrd, of)(), atol=1e-4)


def test_an_upload_is_segmented_and_not_kept(server: LabelServer, hearts: Path, tmp_path: Path) -> None:
    stored = nib.load(answer_of(server.infer("heart1"), tmp_path, "stored.nii.gz"))
    sent = nib.load(answer_of(server.infer(upload=hearts / "heart1.nii.gz"), tmp_path, "sent.nii.gz"))
    assert np.array_equal(np.asarray(stored.dataobj), np.asarray(sent.dataobj))
    assert server.get("/info/").json()["datastore"]["total"] == 3


def test_an_image_of_a_viewers_session_is_segmented(server: LabelServer, hearts: Path, tmp_path: Path) -> None:
    with (hearts / "heart1.nii.gz").open("rb") as file:
        answer = requests.put(f"{server.url}/session/", files={"files": ("heart1.nii.gz", file)}, timeout=60)
    session = answer.json()["session_id"]
    url = f"{server.url}/infer/{server.model}"
    query = {"session_id": session, "output": "json"}
    assert requests.post(url, params=query, timeout=240).json()["label_names"] == {"RV": 1, "MYO": 2, "LV": 3}
    refused(requests.post(url, params={"session_id": "nope"}, timeout=60), 404, "no image is named")


def test_viewers_can_load_a_dicom_folder_as_nifti(server: LabelServer, hearts: Path, tmp_path: Path) -> None:
    image = nib.load(answer_of(server.get("/datastore/image", image="series"), tmp_path, "image.nii.gz"))
    truth = nib.load(hearts.parent / "series_truth.nii.gz")
    assert image.shape == truth.shape and np.allclose(image.affine, truth.affine, atol=1e-3)


def test_bad_requests_get_4xx_and_a_clear_text(server: LabelServer, hearts: Path, tmp_path: Path) -> None:
    refused(server.infer("heart0", model="nope"), 404, "there is no model 'nope'")
    refused(server.infer("nope"), 404, "there is no image 'nope'")
    refused(server.infer("/etc/passwd"), 403, "not by a path")
    refused(server.infer("../heart0"), 404, "there is no image")
    refused(server.infer("heart0", image_="", raw=json.dumps({"image": "/etc/passwd"})), 403, "not by a path")
    refused(server.infer("heart0", raw="{bad"), 400, "JSON")
    refused(server.infer("heart0", result_extension=".exe"), 400, "masks are written as")
    refused(server.infer("heart0", phase="first"), 400, "phase must be a number")
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    refused(server.infer(upload=broken), 400, "error[")
    refused(server.get("/datastore/label", label="heart0", tag="../../x"), 400, "tag of a label")


def test_pages_of_other_sites_and_other_host_names_are_refused(server: LabelServer) -> None:
    foreign = requests.get(f"{server.url}/info/", headers={"Origin": "http://elsewhere.example"}, timeout=60)
    assert foreign.status_code == 403
    assert "access-control-allow-origin" not in {name.lower() for name in foreign.headers}
    assert requests.get(f"{server.url}/info/", headers={"Host": "rebound.example"}, timeout=60).status_code == 400


def test_weights_are_not_replaced_by_request(server: LabelServer, repository: Path) -> None:
    weights = bundle_file(repository, "cardiac", "models/model.pt")
    before = weights.read_bytes()
    url = f"{server.url}/model/{server.model}"
    refused(requests.put(url, files={"file": ("model.pt", b"other")}, timeout=60), 403, "weights change by training")
    refused(requests.delete(url, timeout=60), 403, "weights change by training")
    assert weights.read_bytes() == before
    assert requests.get(url, timeout=60).content == before


def test_next_sample_by_each_strategy(server: LabelServer) -> None:
    assert server.wait("scoring")["status"] == "DONE"
    scores = {
        name: server.get("/datastore/image/info", image=name).json()["epistemic_entropy"]
        for name in ("heart0", "heart1", "series")
    }
    assert all(0 < score < np.log(4) for score in scores.values()), scores
    chosen = requests.post(f"{server.url}/activelearning/epistemic", timeout=120).json()
    assert chosen["id"] == max(scores, key=scores.__getitem__)
    assert Path(chosen["path"]).is_file()
    assert requests.post(f"{server.url}/activelearning/random", timeout=120).json()["id"] in scores
    refused(requests.post(f"{server.url}/activelearning/nope", timeout=60), 404, "there is no strategy 'nope'")


def relabelled(truth: Path, path: Path, numbers: dict[int, int], shift: float = 0.0) -> Path:
    """Writes a truth as a viewer would: with its own numbers, maybe elsewhere."""
    image = nib.load(truth)
    values = np.asarray(image.dataobj)
    labels = np.zeros_like(values, dtype=np.uint8)
    for index, number in numbers.items():
        labels[values == index] = number
    affine = image.affine.copy()
    affine[0, 3] += shift
    nib.save(nib.Nifti1Image(labels, affine), path)
    return path


NUMBERS = {3: 1, 1: 2, 2: 3}
INFO = [{"name": "LV", "idx": 1}, {"name": "rv", "idx": 2}, {"name": "left ventricular myocardium", "idx": 3}]


def test_labels_are_kept_by_name_and_misfits_refused(server: LabelServer, hearts: Path, tmp_path: Path) -> None:
    truth = hearts.parent / "heart0_truth.nii.gz"
    refused(server.save_label("nope", truth), 404, "there is no image")
    moved = relabelled(truth, tmp_path / "moved.nii.gz", {1: 1}, shift=5)
    refused(server.save_label("heart0", moved), 400, "does not lie on the grid")
    strange = relabelled(truth, tmp_path / "strange.nii.gz", {1: 9})
    refused(server.save_label("heart0", strange), 400, "the values 9")
    refused(
        server.save_label("heart0", truth, label_info=[{"name": "Segment_1", "idx": 1}]), 400, "rename it to one of"
    )
    assert server.get("/info/").json()["datastore"]["completed"] == 0

    sent = relabelled(truth, tmp_path / "sent.nii.gz", NUMBERS)
    assert server.save_label("heart0", sent, label_info=INFO).status_code == 200
    kept = nib.load(hearts / "labels" / "final" / "heart0.nii.gz")
    assert np.array_equal(np.asarray(kept.dataobj), np.asarray(nib.load(truth).dataobj))
    assert server.get("/info/").json()["datastore"]["completed"] == 1


def test_training_makes_a_version_that_is_used_and_the_shipped_weights_stay(
    server: LabelServer, hearts: Path, tmp_path: Path, repository: Path
) -> None:
    weights = bundle_file(repository, "cardiac", "models/model.pt")
    shipped = weights.read_bytes()
    assert server.save_label("series", hearts.parent / "series_truth.nii.gz").status_code == 200
    if not server.get("/datastore/label/info", label="heart0", tag="final").json():
        assert server.save_label("heart0", hearts.parent / "heart0_truth.nii.gz").status_code == 200
    refused(requests.post(f"{server.url}/train/nope", json={}, timeout=60), 404, "there is no model")

    before = server.infer("heart1", output="json").json()
    record = server.train(max_epochs=1, use_if_worse=True)
    assert record["status"] == "DONE", record
    versions = json.loads((server.work / "versions" / "versions.json").read_text())
    (version,) = versions["versions"]
    assert version["parent"] == 0 and version["cases"] and 0 < version["dice"] <= 1
    after = server.infer("heart1", output="json").json()
    assert versions["current"] == after["weights_version"] == 1
    assert after["weights_sha256"] == version["sha256"] != before["weights_sha256"]
    assert weights.read_bytes() == shipped


def test_all_unlabelled_images_at_once(server: LabelServer, hearts: Path) -> None:
    answer = requests.post(f"{server.url}/batch/infer/{server.model}", params={"images": "unlabeled"}, timeout=120)
    assert answer.status_code == 200, answer.text
    record = server.wait("batch/infer")
    assert record["status"] == "DONE", "\n".join(record["details"])
    masks = {file.name for file in (hearts / "labels" / "original").iterdir()}
    assert masks and masks.isdisjoint(file.name for file in (hearts / "labels" / "final").iterdir())


def test_a_stopped_server_leaves_no_process(server: LabelServer, hearts: Path, tmp_path: Path) -> None:
    """While it trains, too, and however it is stopped."""
    with label_server("cardiac", hearts, tmp_path) as other:
        assert (
            requests.post(f"{other.url}/train/{other.model}", json={"max_epochs": 500}, timeout=120).status_code == 200
        )
        process = psutil.Process(other.process.pid)
        deadline = time.monotonic() + WAIT_S
        while not any("monai.bundle" in part for child in process.children(True) for part in child.cmdline()):
            assert time.monotonic() < deadline, "the training does not begin"
            time.sleep(0.2)
        family = process.children(recursive=True)
        other.process.terminate()
        other.process.wait(60)
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_images_are_added_under_new_names_only(server: LabelServer, hearts: Path, tmp_path: Path) -> None:
    def add(name: str, path: Path) -> requests.Response:
        with path.open("rb") as file:
            url = f"{server.url}/datastore/image"
            return requests.put(url, params={"image": name}, files={"file": (path.name, file)}, timeout=60)

    refused(add("heart0", hearts / "heart1.nii.gz"), 409, "there is an image 'heart0' already")
    refused(add("../heart9", hearts / "heart1.nii.gz"), 400, "is not a valid name of an image")
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    refused(add("heart9", broken), 400, "error[")
    assert not (hearts / "heart9.nii.gz").exists()
    assert add("heart9", hearts / "heart1.nii.gz").status_code == 200
    assert (hearts / "heart9.nii.gz").read_bytes() == (hearts / "heart1.nii.gz").read_bytes()


def test_a_version_can_be_chosen_and_taken_back(server: LabelServer, hearts: Path, tmp_path: Path) -> None:
    """On a copy of what the training left, with the command that a user gives."""
    work = tmp_path / "work"
    shutil.copytree(server.work, work, ignore=shutil.ignore_patterns("app", "trainings"))
    command = [sys.executable, "-m", "convformer_monai.cli", "label", "--studies", str(hearts), "--work", str(work)]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, "--versions", *more], capture_output=True, text=True, check=False)

    assert run("--version", "1").stdout.splitlines()[1].endswith("(in use)")
    assert run("--version", "0").stdout.splitlines()[0] == "version 0: the shipped weights (in use)"
    nothing = run("--version", "7")
    assert nothing.returncode == 2 and nothing.stderr.startswith("error[VERSIONS]: there is no version 7")


def test_a_photograph_is_answered_with_a_picture(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    phantom = dermoscopy_phantom(seed=1, size=(640, 480))
    _, truth = phantom.save(folder, "lesion", ".jpg")
    truth = truth.rename(tmp_path / "truth.png")
    with label_server("dermoscopy", folder, tmp_path) as server:
        model = server.get("/info/").json()["models"][server.model]
        assert model["labels"] == {"lesion": 1} and model["dimension"] == 2
        mask = np.asarray(Image.open(answer_of(server.infer("lesion"), tmp_path, "mask.png")))
        wanted = np.asarray(Image.open(truth)) > 0
        assert mask.shape == wanted.shape == (480, 640)
        assert set(np.unique(mask)) == {0, 1}
        assert dice(mask == 1, wanted) > GOOD
        nrrd = answer_of(server.infer("lesion", result_extension=".nrrd"), tmp_path, "mask.nrrd")
        assert np.array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(nrrd))).squeeze(), mask)
        assert server.save_label("lesion", nrrd, label_info=[{"name": "lesion", "idx": 1}]).status_code == 200
        kept = np.asarray(Image.open(folder / "labels" / "final" / "lesion.png"))
        assert np.array_equal(kept > 0, mask > 0)
        assert server.train(max_epochs=1)["status"] == "DONE"
        assert len(json.loads((server.work / "versions" / "versions.json").read_text())["versions"]) == 1


def test_a_head_ct_is_fine_tuned_from_a_volume(tmp_path: Path) -> None:
    folder = tmp_path / "heads"
    folder.mkdir()
    phantom = head_ct_phantom(seed=0, shape=(160, 192, 6), spacing=(1.2, 1.2, 10.0))
    _, truth = phantom.save(folder, "head")
    truth = truth.rename(tmp_path / "truth.nii.gz")
    with label_server("hemorrhage", folder, tmp_path) as server:
        assert server.save_label("head", truth).status_code == 200
        record = server.train(max_epochs=1)
        assert record["status"] == "DONE", "\n".join(record["details"])
        (version,) = json.loads((server.work / "versions" / "versions.json").read_text())["versions"]
        assert version["cases"] == ["head"]
