"""What the tests of the DICOM node share: tiny bundles, small studies, configurations, and nodes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
import yaml
from bundle_kinds import KINDS
from pacs import DICOMWEB_PLUGIN, ORTHANC
from pydicom.dataset import Dataset
from servers import free_port, running

from convformer_monai.phantoms.dicom import Identity, SliceStack, classic_series, save_dataset
from convformer_monai.phantoms.dicom_photo import photograph_dataset
from convformer_monai.segmenter import Segmenter
from convformer_monai.serve.config import NodeConfig
from convformer_monai.serve.config_file import read_config
from convformer_monai.serve.node import Node, load_segmenters, owned

NODE_AE, CALLER = "CONVFORMER", "SCANNER"
TOKEN = "a token of the tests"
WAIT_S = 120
MODALITY = {"cardiac": "MR", "hemorrhage": "CT", "dermoscopy": "DMS"}
needs_orthanc = pytest.mark.skipif(
    not (ORTHANC and DICOMWEB_PLUGIN.exists()), reason="needs Debian's packages orthanc and orthanc-dicomweb"
)
needs_dcmtk = pytest.mark.skipif(shutil.which("storescu") is None, reason="needs Debian's package dcmtk")


def tiny(kind: str, root: Path) -> Path:
    """A bundle of the kind with a network of one convolution, and the whole of its task; returns its folder."""
    like = KINDS[kind]
    shutil.copytree(like.root / "configs", root / "configs")
    inference = json.loads((root / "configs" / "inference.json").read_text())
    convolution = {"in_channels": like.channels, "out_channels": like.classes, "kernel_size": 3, "padding": 1}
    inference["network_def"] = {"_target_": "torch.nn.Conv2d", **convolution}
    (root / "configs" / "inference.json").write_text(json.dumps(inference))
    metadata = json.loads((root / "configs" / "metadata.json").read_text()) | {"weights_sha256": ""}
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (root / "models").mkdir()
    torch.manual_seed(1)
    torch.save(torch.nn.Conv2d(**convolution).state_dict(), root / "models" / "model.pt")  # type: ignore[arg-type]
    return root


def datasets(kind: str, number: int, *, slices: int = 2, series: int = 1, **changes: str) -> list[Dataset]:
    """A small study that a bundle takes, of a patient of that number."""
    who = Identity(patient=number, study=1, series=series)
    if kind == "dermoscopy":
        made = [photograph_dataset(dermoscopic=True, identity=who)]
    else:
        stack = SliceStack.regular(shape=(40, 36, slices), spacing=(1.5, 1.5, 8.0))
        low, high = KINDS[kind].grey
        rng = np.random.default_rng(number)
        volume = low + (high - low) * rng.random((40, 36, slices))
        if kind == "hemorrhage":
            volume[0] = -1000
        made = classic_series(np.rint(volume), stack, modality=MODALITY[kind], identity=who)
    for dataset in made:
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
    return made


def write_study(folder: Path, kind: str, number: int, **options: Any) -> list[Path]:
    """Writes :func:`datasets`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    made = datasets(kind, number, **options)
    return [save_dataset(one, folder / f"{kind}{number}_{k}.dcm") for k, one in enumerate(made)]


def rule(kind: str, bundle: Path | str, send_to: Sequence[str], **more: Any) -> dict[str, Any]:
    """A rule for a kind."""
    match = {"modality": MODALITY[kind]}
    outputs = ["dicom-seg", "dicom-sr", "dicom-sc"]
    return {"name": kind, "match": match, "bundle": str(bundle), "outputs": outputs, "send_to": list(send_to), **more}


def configure(
    folder: Path, rules: Sequence[dict[str, Any]], destinations: Sequence[dict[str, Any]], **more: Any
) -> tuple[Path, NodeConfig]:
    """Writes and reads a configuration with a short quiet time; returns its file, too."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "token").write_text(TOKEN + "\n")
    content = {
        "ae_title": NODE_AE,
        "port": 0,
        "folder": "state",
        "quiet_seconds": 0.5,
        "device": "cpu",
        "threads": 1,
        "callers": [CALLER],
        "rules": list(rules),
        "destinations": [
            {"first_wait_seconds": 0.1, "longest_wait_seconds": 0.5, **destination} for destination in destinations
        ],
        "web": {"port": 0, "token_file": "token"},
        "limits": {"min_free_mb": 1, "network_seconds": 10, "association_seconds": 2},
        **more,
    }
    path = folder / "node.yaml"
    path.write_text(yaml.safe_dump(content))
    return path, read_config(path)


@contextlib.contextmanager
def node_here(config: NodeConfig, segmenters: dict[str, Segmenter] | None = None) -> Iterator[Node]:
    """A node in this process."""
    with owned(config.folder):
        node = Node(config, load_segmenters(config) if segmenters is None else segmenters)
        node.start()
        try:
            yield node
        finally:
            node.stop()
            node.state.close()


class NodeProcess:
    """The command ``serve`` in a process of its own, which can be killed and started again.

    Args:
        folder: of its configuration.
        rules: see :func:`configure`.
        destinations: see there.
        more: see there.
    """

    def __init__(self, folder: Path, rules: Sequence[dict[str, Any]], destinations: Any, **more: Any) -> None:
        self.folder, self.port, self.web_port = folder, free_port(), free_port()
        web = {"port": self.web_port, "token_file": "token"}
        self.config, _ = configure(folder, rules, destinations, port=self.port, web=web, **more)
        self._running = contextlib.ExitStack()
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        command = [sys.executable, "-m", "convformer_monai.cli", "serve", "--config", str(self.config)]
        log = self.folder / f"node{len(self.logs())}.log"
        environment = {"OMP_NUM_THREADS": "1"}
        health = f"http://127.0.0.1:{self.web_port}/health"
        self.process = self._running.enter_context(running(command, health, log, environment))

    def kill(self) -> None:
        """Ends it without a warning."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def terminate(self) -> int:
        """Stops it as a service manager does; returns its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def stop(self) -> None:
        """Ends what is left."""
        self._running.close()

    def logs(self) -> list[Path]:
        """What it said, one a start."""
        return sorted(self.folder.glob("node*.log"))

    def get(self, path: str) -> requests.Response:
        """A page."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return requests.get(f"http://127.0.0.1:{self.web_port}{path}", headers=headers, timeout=20)


def storescu(port: int, files: Sequence[Path], *options: str, caller: str = CALLER) -> subprocess.CompletedProcess:
    """Sends files with DCMTK."""
    command = ["storescu", "-aet", caller, "-aec", NODE_AE, "-to", "20", "-R", *options, "127.0.0.1", str(port)]
    return subprocess.run([*command, *map(str, files)], capture_output=True, text=True, check=False, timeout=120)


def wait_until(condition: Callable[[], object], what: str, seconds: float = WAIT_S) -> None:
    """Waits; fails if it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.1)
