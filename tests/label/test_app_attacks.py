"""What a label server must not do, whatever it is asked: serve other files, answer 500, leave images behind."""

from __future__ import annotations

import getpass
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from label_server import LabelServer, label_server

from convformer_monai.phantoms import cardiac_phantom
from convformer_monai.phantoms.dicom.kinds import write_kind

SHAPE = (96, 96, 3)
TORCHS_OWN = f"torchinductor_{getpass.getuser()}"  # an empty folder
LINKED = ("file", "folder", "series", "deep")


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image, and links of all kinds to images outside of it."""
    folder = tmp_path_factory.mktemp("attacks") / "hearts"
    outside = folder.parent / "outside"
    outside.mkdir(parents=True)
    image, truth = cardiac_phantom(shape=SHAPE).save(folder, "heart")
    truth.rename(outside / truth.name)
    shutil.copy(image, outside / "secret.nii.gz")
    (folder / "file.nii.gz").symlink_to(outside / "secret.nii.gz")
    (folder / "passwd.nii").symlink_to("/etc/passwd")
    series, _ = write_kind("cardiac", folder.parent, seed=2, num_phases=1)
    series.rename(outside / "dicom")
    (folder / "folder").symlink_to(outside / "dicom")
    for name, where in (("series", "."), ("deep", "below")):  # all but one slice are real
        shutil.copytree(outside / "dicom", folder / name)
        slice_ = sorted((folder / name).iterdir())[-1]
        slice_.unlink()
        (folder / name / where).mkdir(exist_ok=True)
        (folder / name / where / slice_.name).symlink_to(outside / "dicom" / slice_.name)
    return folder


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def server(hearts: Path, temporary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        with label_server("cardiac", hearts, tmp_path_factory.mktemp("server")) as running:
            yield running


def refused(answer: requests.Response, text: str = "") -> None:
    assert 400 <= answer.status_code < 500, f"{answer.status_code}: {answer.text}"
    if answer.request.method != "HEAD":
        assert text in answer.json()["detail"] and "\n" not in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("POST", "/infer/{model}", {"image": ""}),
        ("POST", "/infer/{model}", {}),
        ("GET", "/datastore/image", {"image": ""}),
        ("HEAD", "/datastore/image", {"image": ""}),
        ("GET", "/datastore/image/info", {"image": ""}),
        ("PUT", "/datastore/image/info", {"image": ""}),
        ("DELETE", "/datastore/", {"id": ""}),
        ("DELETE", "/datastore/image", {"id": ""}),
        ("PUT", "/datastore/label", {"image": ""}),
        ("GET", "/datastore/label", {"label": "", "tag": "final"}),
        ("HEAD", "/datastore/label", {"image": "", "tag": "final"}),
        ("GET", "/datastore/label/info", {"label": "", "tag": "final"}),
        ("PUT", "/datastore/label/info", {"label": "", "tag": "final"}),
        ("DELETE", "/datastore/label", {"id": "", "tag": "final"}),
    ],
)
def test_an_empty_id_is_refused(
    server: LabelServer, hearts: Path, method: str, path: str, query: dict[str, str]
) -> None:
    url = server.url + path.format(model=server.model)
    files = {"label": ("x.nii.gz", b"x")} if (method, path) == ("PUT", "/datastore/label") else None
    refused(requests.request(method, url, params=query, files=files, timeout=60))
    assert (hearts / "heart.nii.gz").is_file()


def test_each_strategy_and_model_has_a_name(server: LabelServer) -> None:
    for path in ("/activelearning/", "/infer/", "/train/%20", "/activelearning/%20", "/infer/%20?image=heart"):
        refused(requests.post(server.url + path, json={}, timeout=60))


@pytest.mark.parametrize("image", [*LINKED, "passwd"])
def test_links_that_lead_out_are_not_served(server: LabelServer, image: str) -> None:
    refused(server.get("/datastore/image", image=image))
    refused(server.infer(image), "there is no image")
    assert server.get("/datastore/image/info", image=image).json() == {}
    assert list(server.get("/datastore/", output="all").json()["objects"]) == ["heart"]


def test_labels_behind_links_are_neither_served_nor_overwritten(server: LabelServer, hearts: Path) -> None:
    outside = hearts.parent / "outside" / "secret.nii.gz"
    before = outside.read_bytes()
    label = hearts / "labels" / "final" / "heart.nii.gz"
    label.symlink_to(outside)
    refused(server.save_label("heart", outside), "leads out of the folder")
    requests.get(server.url + "/datastore/", timeout=60)
    refused(server.get("/datastore/label", label="heart", tag="final"))
    label.unlink()
    (hearts / "labels" / "mine").symlink_to(outside.parent)
    refused(server.save_label("heart", outside, tag="mine"), "leads out of the folder")
    assert outside.read_bytes() == before
    (hearts / "new.nii.gz").symlink_to(outside.parent / "new.nii.gz")
    with outside.open("rb") as file:
        url = f"{server.url}/datastore/image"
        refused(requests.put(url, params={"image": "new"}, files={"file": ("new.nii.gz", file)}, timeout=60))
    assert not (outside.parent / "new.nii.gz").exists()


def test_nothing_is_left_of_a_server_that_is_stopped(
    server: LabelServer, hearts: Path, tmp_path: Path, temporary: Path
) -> None:
    """The last test: it stops the server."""
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    assert server.infer(upload=hearts / "heart.nii.gz").status_code == 200
    refused(server.infer(upload=broken), "error[")
    assert list(temporary.rglob("*.nii.gz")), "MONAI Label no longer leaves refused uploads"
    server.process.terminate()
    server.process.wait(60)
    assert [path.name for path in temporary.iterdir() if path.name != TORCHS_OWN] == []
