"""A label server with a login: by browser, by 3D Slicer's client library, and a whole round of annotation with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import nibabel as nib
import numpy as np
import pytest
import requests
import SimpleITK
from label_server import LabelServer, dice, label_server
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

from convformer_monai.cli import main
from convformer_monai.errors import InputRefused
from convformer_monai.label_app.login import read_users
from convformer_monai.phantoms import cardiac_phantom

NAME, PASSWORD = "Zo\u00eb", "k\u00e4se: und brot"


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "users"
    digest = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    path.write_text(f"# annotators\n{NAME}:{digest}\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a folder") / "hearts"
    folder.mkdir()
    for seed in range(2):
        _, truth = cardiac_phantom(seed=seed, shape=(128, 128, 4)).save(folder, f"heart{seed}")
        truth.rename(folder.parent / truth.name)
    return folder


@pytest.fixture(scope="module")
def server(hearts: Path, users: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    folder = tmp_path_factory.mktemp("server")
    with label_server("cardiac", hearts, folder, "--users", str(users), login=(NAME, PASSWORD)) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/info/"),
        ("GET", "/ohif/"),
        ("GET", "/datastore/image?image=heart0"),
        ("POST", "/infer/cardiac?image=heart0"),
        ("PUT", "/datastore/label?image=heart0"),
        ("GET", "/auth/token/valid"),
        ("GET", "/docs"),
    ],
)
def test_nothing_without_a_login(server: LabelServer, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Basic !"}, {"Authorization": "Bearer x"}, {"Authorization": "Digest a=b"}):
        answer = requests.request(method, server.url + path, headers=headers, timeout=60)
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Basic realm=")
        assert answer.json() == {"detail": "error[LOGIN]: name and password, or a token of /auth/token, are needed"}


@pytest.mark.parametrize("wrong", [("eve", PASSWORD), (NAME, "kase"), (NAME, ""), ("", PASSWORD)])
def test_wrong_names_and_passwords(server: LabelServer, wrong: tuple[str, str]) -> None:
    coded = tuple(text.encode() for text in wrong)
    assert requests.get(f"{server.url}/info/", auth=coded, timeout=60).status_code == 401
    with pytest.raises(MONAILabelClientException):
        MONAILabelClient(server.url).auth_token(*wrong)


def test_a_browser_gets_in(server: LabelServer) -> None:
    auth = (NAME.encode(), PASSWORD.encode())
    assert "OHIF" in requests.get(f"{server.url}/ohif/", auth=auth, timeout=60).text
    foreign = {"Origin": "http://evil.example"}
    assert requests.get(f"{server.url}/info/", auth=auth, headers=foreign, timeout=60).status_code == 403


def test_slicers_client_does_a_whole_round(server: LabelServer, hearts: Path, tmp_path: Path) -> None:
    """Info, next sample, mask, corrected label, training, and a mask of the new weights."""
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path), client_id="slicer")
    assert client.auth_enabled() and not client.auth_valid_token()
    client.update_auth(client.auth_token(NAME, PASSWORD))
    assert client.auth_valid_token()
    info = client.info()
    (model,) = info["models"]

    sample = client.next_sample("random", {})
    assert sample["id"] in ("heart0", "heart1")
    other = {"heart0": "heart1", "heart1": "heart0"}[sample["id"]]
    for name in (sample["id"], other):
        mask, said = client.infer(model, name, {})
        truth = hearts.parent / f"{name}_truth.nii.gz"
        found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(mask)).T
        assert dice(found > 0, np.asarray(nib.load(truth).dataobj) > 0) > 0.8
        assert said["label_names"] == {"RV": 1, "MYO": 2, "LV": 3}
        corrected = tmp_path / f"{name}.nii.gz"
        shutil.copy(truth, corrected)
        client.save_label(name, str(corrected), params={"label_info": info["models"][model].get("label_info", [])})
        assert (hearts / "labels" / "final" / f"{name}.nii.gz").exists()
    with pytest.raises(MONAILabelClientException, match="GRID|STRUCTURE|error"):
        client.save_label(sample["id"], _shifted(corrected, tmp_path))

    client.train_start(model, {"max_epochs": 1})
    assert server.wait("train")["status"] == "DONE"
    mask, _ = client.infer(model, sample["id"], {})
    found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(mask)).T
    truth = nib.load(hearts.parent / f"{sample['id']}_truth.nii.gz")
    assert dice(found > 0, np.asarray(truth.dataobj) > 0) > 0.8


def _shifted(label: Path, folder: Path) -> str:
    """The label, moved off its image's voxels."""
    image = nib.load(label)
    matrix = image.affine.copy()
    matrix[:3, 3] += 3
    path = folder / "shifted.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), matrix), path)
    return str(path)


class TestStart:
    def test_others_get_in_with_a_login_only(self, hearts: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["label", "--studies", str(hearts), "--host", "0.0.0.0"]) == 2
        said = capsys.readouterr().err
        assert "error[LOGIN]: others could reach 0.0.0.0:8000 without a password; give --users" in said

    def test_certificate_and_key_go_together(self, hearts: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["label", "--studies", str(hearts), "--tls-key", "key.pem"]) == 2
        assert "--tls-certificate and --tls-key go together" in capsys.readouterr().err
        command = ["label", "--studies", str(hearts), "--tls-key", "key.pem", "--tls-certificate", "cert.pem"]
        assert main(command) == 2
        assert "cert.pem does not exist" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            (None, "cannot be read"),
            ("", "has no user"),
            ("zoe:geheim\n", "line 1: give NAME:HASH as"),
            ("a:$2y$10$x\n", "line 1: give NAME:HASH as"),
            (f":$2y$10${'O' * 53}\n", "line 1: give NAME:HASH as"),
        ],
    )
    def test_unusable_password_files(self, tmp_path: Path, content: str | None, what: str) -> None:
        if content is not None:
            (tmp_path / "users").write_text(content)
        with pytest.raises(InputRefused, match=what):
            read_users(tmp_path / "users")
