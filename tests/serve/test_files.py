"""The files for a hospital: the configuration is good, and unit, container and page name what there is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from pydicom.uid import UID

import convformer_monai
from convformer_monai.serve.config_file import read_config
from convformer_monai.serve.listener import CLASSES, transfer_syntaxes


@pytest.fixture
def folder(repository: Path) -> Path:
    return repository / "docs" / "hospital"


def test_the_configuration_is_good(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "node.yaml", tmp_path)
    (tmp_path / "token").write_text("0123456789abcdef\n")
    config = read_config(tmp_path / "node.yaml")
    assert [rule.bundle for rule in config.rules] == ["cardiac", "hemorrhage", "dermoscopy"]
    assert config.callers and config.web is not None


def test_the_pages_example_of_a_source_is_good(folder: Path, tmp_path: Path, repository: Path) -> None:
    page = (repository / "docs" / "hospital.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "node.yaml").write_text((folder / "node.yaml").read_text() + example)
    for name in ("token", "pacs_token"):
        (tmp_path / name).write_text("0123456789abcdef\n")
    (source,) = read_config(tmp_path / "node.yaml").sources
    assert source.modalities == ("MR",) and source.query == {"ModalitiesInStudy": "MR"}


def test_container_and_unit_name_what_there_is(folder: Path, repository: Path) -> None:
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    node = services["node"]
    wheel = f"convformer_monai-{convformer_monai.__version__}-py3-none-any.whl"
    assert node["build"] == {"context": ".", "dockerfile": "Containerfile", "args": {"WHEEL": wheel}}
    assert "./node.yaml:/etc/convformer/node.yaml:ro" in node["volumes"]
    ports = {int(line.rpartition(":")[2]) for line in node["ports"]}
    content = yaml.safe_load((folder / "node.yaml").read_text())
    assert ports == {content["port"], content["web"]["port"]}
    assert services["orthanc"]["environment"]["ORTHANC__DICOM_AET"] == content["destinations"][0]["ae"]
    unit = (folder / "convformer-node.service").read_text()
    assert "serve --config /etc/convformer/node.yaml" in unit and "Restart=always" in unit
    assert "ReadWritePaths=" in unit and "DeviceAllow=/dev/nvidia0" in unit
    assert f"EXPOSE {content['port']} {content['web']['port']}" in (folder / "Containerfile").read_text()
    page = (repository / "docs" / "hospital.md").read_text()
    assert all(f"(hospital/{file.name})" in page for file in folder.iterdir())


def test_all_that_the_readers_take_is_taken() -> None:
    names = {UID(one).name for one in transfer_syntaxes()}
    for name in ("JPEG 2000 Image Compression (Lossless Only)", "RLE Lossless", "Explicit VR Big Endian"):
        assert name in names
    assert "1.2.840.10008.5.1.4.1.1.4.1" in CLASSES and len(set(CLASSES)) == len(CLASSES)
