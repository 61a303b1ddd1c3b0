import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from convformer_monai.errors import InputRefused
from convformer_monai.label_app import launch as launching
from convformer_monai.label_app.options import read_options


def label(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convformer_monai.cli", "label", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(find_spec("monailabel") is not None, reason="MONAI Label is installed here")
def test_without_monai_label_the_command_that_installs_it_is_printed(tmp_path: Path) -> None:
    result = label("--studies", tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error[MISSING_PACKAGE]: MONAI Label is not installed")
    assert "pip install monailabel==" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_folder_or_bundle_is_refused(tmp_path: Path) -> None:
    for arguments, text in (
        (("--studies", tmp_path / "nowhere"), "is neither a folder nor an address"),
        (("--studies", tmp_path, "--bundle", "liver"), "liver is not a bundle"),
        (("--studies", tmp_path, "--device", "abacus"), "is not a device"),
        (("--studies", tmp_path, "--version", "3", "--versions"), "there is no version 3"),
        (("--studies", tmp_path, "--work", tmp_path / "a#b"), "cannot take a path"),
    ):
        result = label(*arguments)
        assert result.returncode == 2 and text in result.stderr, result.stderr
        assert "Traceback" not in result.stderr


def test_series_in_which_nothing_can_be_written_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touch(self: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(InputRefused, match="nothing can be written in") as refusal:
        launching.prepare(str(tmp_path), "cardiac", serve=False)
    assert refusal.value.code == "CANNOT_WRITE"


def test_the_work_lies_beside_the_images_by_default(tmp_path: Path) -> None:
    options = read_options({"bundle": "cardiac"}, str(tmp_path))
    assert options.work == tmp_path / "convformer_label" / "cardiac_mri_convformer_segmentation"
    assert read_options({"bundle": "cardiac"}, "http://pacs/dicom-web").work.is_relative_to(Path.cwd())


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputRefused, match=f"port {port} of 127.0.0.1 cannot be had"):
            launching._check_port("127.0.0.1", port)


def test_versions_are_listed(tmp_path: Path) -> None:
    result = label("--studies", tmp_path, "--versions")
    assert result.returncode == 0
    assert result.stdout == "version 0: the shipped weights (in use)\n" and result.stderr == ""


def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **options: object) -> dict[str, str]:
    """The environment in which MONAI Label would run."""
    seen: dict[str, str] = {}
    main = SimpleNamespace(run=lambda: seen.update(os.environ))
    monkeypatch.setitem(sys.modules, "monailabel", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "monailabel.main", SimpleNamespace(Main=lambda: main))
    monkeypatch.setattr(launching.importlib.metadata, "version", lambda _: launching.MONAI_LABEL)
    monkeypatch.setattr(launching, "serve_moved_uids", lambda: None)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    label_options = read_options({"bundle": "cardiac", "work": str(tmp_path / "work")}, str(tmp_path))
    label_options.work.mkdir(parents=True)
    assert launching.launch(str(tmp_path), label_options, port=port, **options) == 0
    return seen


def test_names_that_a_proxy_passes_on_are_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = launching.check_names("label.example.org, label2")
    seen = started(monkeypatch, tmp_path, names=names)
    assert seen["CONVFORMER_LABEL_HOSTS"].split(",")[-2:] == ["label.example.org", "label2"]
    assert {"127.0.0.1", "localhost"} < set(seen["CONVFORMER_LABEL_HOSTS"].split(","))


def test_without_names_this_machine_alone_is_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = started(monkeypatch, tmp_path, names=launching.check_names(""))
    assert set(seen["CONVFORMER_LABEL_HOSTS"].split(",")) == {"127.0.0.1", "localhost"}


@pytest.mark.parametrize("name", ["*", "https://label.example.org", "label.example.org:443", "a b", ".example.org"])
def test_what_is_not_the_name_of_a_host_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputRefused, match="is not the name of a host"):
        launching.check_names(name)
