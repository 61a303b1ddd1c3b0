"""``convformer-monai demo serve``: a PACS and the DICOM node; a generated heart goes from one to the other and back."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convformer_monai.commands.serve import check
from convformer_monai.errors import EXIT_FAULT, InputRefused, RefusalCode

if TYPE_CHECKING:
    from convformer_monai.serve.config import NodeConfig

__all__ = ["run_serve_demo"]

logger = logging.getLogger(__name__)

INSTALL = "apt-get install orthanc orthanc-dicomweb"
PACS_AE, NODE_AE = "ORTHANC", "CONVFORMER"
HERE = "127.0.0.1"
START_S, ANSWER_S, END_S = 60, 300, 20
LOOK_S = 0.3


@dataclass(frozen=True)
class _Pacs:
    """A running Orthanc."""

    process: subprocess.Popen[bytes]
    http: int
    dicom: int

    @property
    def address(self) -> str:
        """Of its pages."""
        return f"http://{HERE}:{self.http}"

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """What it answers, as JSON types."""
        import requests

        answer = requests.request(method, f"{self.address}/{path}", timeout=ANSWER_S, **more)
        answer.raise_for_status()
        return answer.json()


def run_serve_demo(folder: Path, *, stay: bool = True) -> int:
    """Shows the node at work, and where to look at the result.

    Args:
        folder: for all that is made.
        stay: keep PACS and node until Ctrl-C.

    Returns:
        The exit code.

    Raises:
        InputRefused: ``MISSING_PACKAGE`` without Orthanc, with the command that installs it; ``CANNOT_WRITE``.
    """
    program = shutil.which("Orthanc", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if program is None:
        raise InputRefused(RefusalCode.MISSING_PACKAGE, f"the demo of the node needs a PACS, Orthanc: {INSTALL}")
    from convformer_monai.outputs.atomic import check_writable
    from convformer_monai.phantoms.dicom.kinds import write_kind

    check_writable(folder, "give another folder")
    node_port, pages_port = _free_port(), _free_port()
    with _orthanc(program, folder / "pacs", node_port) as pacs:
        config = check(_configured(folder, pacs, node_port, pages_port))
        logger.info("drawing a heart")
        phantom, _ = write_kind("cardiac", folder / "phantom", num_phases=1)
        study = ""
        for file in sorted(phantom.iterdir()):
            study = pacs.ask("POST", "instances", data=file.read_bytes())["ParentStudy"]
        ended = threading.Event()
        with _until_interrupted(ended), _node(config):
            logger.info("the PACS sends it to the node")
            pacs.ask("POST", "modalities/node/store", json={"Resources": [study], "StorageCommitment": True})
            found = _wait_for_results(pacs, study, ended)
            if not found:
                logger.error("no result came back; see %s", folder)
                return EXIT_FAULT
            _show(pacs, study, found, pages_port, config)
            if stay:
                logger.info("Ctrl-C ends it")
                ended.wait()
    return 0


def _show(pacs: _Pacs, study: str, found: dict[str, str], pages_port: int, config: NodeConfig) -> None:
    """Says where to look."""
    import typer

    token = config.web.token if config.web else ""
    typer.echo(f"the study in the PACS: {pacs.address}/app/explorer.html#study?uuid={study}")
    if "OT" in found:
        typer.echo(f"the preview in it:     {pacs.address}/instances/{found['OT']}/preview")
    typer.echo(f"the node's page:       http://{HERE}:{pages_port}/ (any user, password {token})")


def _configured(folder: Path, pacs: _Pacs, port: int, pages_port: int) -> Path:
    """Writes the node's configuration."""
    token = folder / "token"
    if not token.is_file():
        token.touch(mode=0o600)
        token.write_text(secrets.token_urlsafe(24) + "\n")
    content = {
        "ae_title": NODE_AE,
        "listen": HERE,
        "port": port,
        "folder": "state",
        "quiet_seconds": 5,
        "callers": [{"ae": PACS_AE, "hosts": [HERE], "commitment": {"host": HERE, "port": pacs.dicom}}],
        "rules": [
            {
                "name": "heart",
                "match": {"modality": "MR"},
                "bundle": "cardiac",
                "outputs": ["dicom-seg", "dicom-sr", "dicom-sc"],
                "send_to": ["pacs"],
            }
        ],
        "destinations": [{"name": "pacs", "kind": "dicom", "ae": PACS_AE, "host": HERE, "port": pacs.dicom}],
        "web": {"listen": HERE, "port": pages_port, "token_file": "token"},
        "limits": {"min_free_mb": 200},
    }
    path = folder / "node.yaml"
    path.write_text(json.dumps(content, indent=2) + "\n")  # which is YAML, too
    return path


@contextlib.contextmanager
def _node(config: NodeConfig) -> Iterator[None]:
    """Runs the node in this process."""
    from convformer_monai.serve.node import Node, load_segmenters, owned

    with owned(config.folder):
        node = Node(config, load_segmenters(config))
        node.start()
        try:
            yield
        finally:
            node.stop()


@contextlib.contextmanager
def _until_interrupted(ended: threading.Event) -> Iterator[None]:
    """Takes Ctrl-C and SIGTERM for the wish to end in order."""
    before = {one: signal.signal(one, lambda *_: ended.set()) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextlib.contextmanager
def _orthanc(program: str, folder: Path, node_port: int) -> Iterator[_Pacs]:
    """Runs Orthanc, for this machine only, without users."""
    folder.mkdir(parents=True, exist_ok=True)
    http, dicom = _free_port(), _free_port()
    settings = {
        "Name": "demo",
        "StorageDirectory": str((folder / "storage").resolve()),
        "IndexDirectory": str((folder / "storage").resolve()),
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": PACS_AE,
        "DicomPort": dicom,
        "DicomAlwaysAllowStore": True,
        "DicomModalities": {"node": [NODE_AE, HERE, node_port]},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings, indent=2) + "\n")
    logger.info("starting Orthanc")
    with open(folder / "orthanc.log", "wb") as log:
        process = subprocess.Popen(
            [program, str((folder / "orthanc.json").resolve())],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us: Orthanc ends after the node
        )
    pacs = _Pacs(process, http, dicom)
    try:
        _wait_for_start(pacs, folder / "orthanc.log")
        yield pacs
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_for_start(pacs: _Pacs, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and pacs.process.poll() is None:
        with contextlib.suppress(OSError):
            pacs.ask("GET", "system")
            return
        time.sleep(LOOK_S)
    raise InputRefused(RefusalCode.NODE, f"Orthanc does not start; see {log}")


def _wait_for_results(pacs: _Pacs, study: str, ended: threading.Event) -> dict[str, str]:
    """One instance of each modality of the results, once all three are there; empty if they do not come."""
    end = time.monotonic() + ANSWER_S
    while time.monotonic() < end and not ended.wait(LOOK_S):
        series = pacs.ask("GET", f"studies/{study}/series")
        found = {one["MainDicomTags"].get("Modality", ""): one["Instances"][0] for one in series}
        if {"SEG", "SR", "OT"} <= set(found):
            return found
    return {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])
