"""Bundles that are damaged or hostile end in one line and status 2."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from convformer_monai.bundle import Bundle, file_sha256
from convformer_monai.cli import main
from convformer_monai.phantoms import cardiac_phantom


class Exploit:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def metadata(text: str) -> Callable[[Path], object]:
    return lambda root: (root / "configs" / "metadata.json").write_text(text)


def changed(**values: Any) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        file = root / "configs" / "metadata.json"
        content = json.loads(file.read_text()) | values
        file.write_text(json.dumps({key: value for key, value in content.items() if value != "left out"}))

    return change


def weights(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        make(root / "models" / "model.pt")
        changed(weights_sha256=file_sha256(root / "models" / "model.pt"))(root)

    return change


def not_finite(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    next(iter(state.values())).view(-1)[0] = float("nan")
    torch.save(state, path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "metadata is no JSON": metadata("{"),
    "metadata is a list": metadata("[]"),
    "metadata is empty": metadata(""),
    "metadata is an empty object": metadata("{}"),
    "no hash": changed(weights_sha256="left out"),
    "hash is null": changed(weights_sha256=None),
    "hash of other weights": changed(weights_sha256="0" * 64),
    "no data format": changed(network_data_format="left out"),
    "data format of another kind": changed(network_data_format=[1]),
    "weights are not finite": weights(not_finite),
    "weights hold code": weights(lambda path: path.write_bytes(pickle.dumps(Exploit()))),
    "weights are a text": weights(lambda path: path.write_bytes(b"x")),
    "weights are cut off": weights(lambda path: path.write_bytes(path.read_bytes()[:1000])),
    "weights are another network's": weights(lambda path: torch.save({"a": torch.zeros(1)}, path)),
    "weights are a list": weights(lambda path: torch.save([torch.zeros(1)], path)),
    "no weights": lambda root: (root / "models" / "model.pt").unlink(),
    "inference is no JSON": lambda root: (root / "configs" / "inference.json").write_text("{"),
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return cardiac_phantom(shape=(32, 32, 2), spacing=(4.0, 4.0, 10.0)).save(tmp_path, "x")[0]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_refused(
    damage: str, image: Path, tmp_path: Path, bundle_root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(bundle_root, root)
    DAMAGES[damage](root)
    assert main(["segment", "-i", str(image), "-o", str(tmp_path / "out"), "-b", str(root), "-q"]) == 2
    printed = capfd.readouterr()
    assert printed.err.startswith("error[") and printed.err.count("\n") == 1, printed.err
    assert "weights_only" not in printed.err and "executed" not in printed.out
    assert list((tmp_path / "out").glob("*")) == []


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"text"])
def test_a_broken_zip_is_refused(
    content: bytes, image: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bundle.zip").write_bytes(content)
    arguments = ["segment", "-i", str(image), "-o", str(tmp_path / "out"), "-b", str(tmp_path / "bundle.zip"), "-q"]
    assert main(arguments) == 2
    assert capfd.readouterr().err.startswith("error[BUNDLE_UNUSABLE]")


def test_the_shipped_bundles_are_sound() -> None:
    for name in ("cardiac", "dermoscopy", "hemorrhage"):
        assert Bundle(name).metadata["weights_sha256"] == file_sha256(Bundle(name).weights)
