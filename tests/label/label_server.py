"""Our label server for the tests, and what tests ask of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
from servers import free_port, running

TRAINING_S = 400


@dataclass(frozen=True)
class LabelServer:
    """A running server.

    Attributes:
        url: its address.
        model: name of its model.
        work: its working folder.
        log: what it prints.
        process: the server's own.
        login: name and password, of a server that has a login.
    """

    url: str
    model: str
    work: Path
    log: Path
    process: subprocess.Popen
    login: tuple[bytes, bytes] | None = None

    def get(self, path: str, **query: Any) -> requests.Response:
        """Sends a GET request."""
        return requests.get(f"{self.url}{path}", params=query, auth=self.login, timeout=120)

    def infer(self, image: str = "", model: str | None = None, output: str = "image", **more: Any) -> requests.Response:
        """Asks for a mask."""
        files = {"file": more.pop("upload").open("rb")} if "upload" in more else None
        query = {"output": output, **({"image": image} if image else {})}
        form = {"params": more.pop("raw", json.dumps(more))}
        url = f"{self.url}/infer/{model or self.model}"
        return requests.post(url, params=query, data=form, files=files, timeout=240)

    def save_label(self, image: str, label: Path, tag: str = "", **params: Any) -> requests.Response:
        """Sends a label."""
        query = {"image": image, **({"tag": tag} if tag else {})}
        with label.open("rb") as file:
            return requests.put(
                f"{self.url}/datastore/label",
                params=query,
                data={"params": json.dumps(params)},
                files={"label": (label.name, file)},
                timeout=120,
            )

    def train(self, **params: Any) -> dict[str, Any]:
        """Trains, and waits for the end; returns the task's record."""
        answer = requests.post(f"{self.url}/train/{self.model}", json=params, timeout=120)
        assert answer.status_code == 200, answer.text
        return self.wait("train")

    def wait(self, method: str) -> dict[str, Any]:
        """Waits until the background task of a kind that began last has ended; returns its record."""
        deadline = time.monotonic() + TRAINING_S
        while time.monotonic() < deadline:
            record: dict[str, Any] = self.get(f"/{method}/").json()
            if record["status"] not in ("SUBMITTED", "RUNNING"):
                return record
            time.sleep(0.5)
        raise AssertionError(f"{method} did not end within {TRAINING_S} s")


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Overlap of two masks."""
    return 2 * float((first & second).sum()) / max(1, int(first.sum() + second.sum()))


@contextlib.contextmanager
def label_server(
    bundle: str, studies: str | Path, folder: Path, *options: str, login: tuple[str, str] | None = None
) -> Iterator[LabelServer]:
    """Runs `convformer-monai label` until the block ends.

    Args:
        bundle: short name.
        studies: folder or DICOMweb address.
        folder: for its home, its working folder and its log.
        options: further arguments.
        login: name and password, if the options ask for a login.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    home, work, log = folder / "home", folder / "work", folder / "server.log"
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "convformer_monai.cli", "label", "--studies", str(studies), "--bundle", bundle]
    command += ["--work", str(work), "--port", str(port), *options]
    auth = None if login is None else (login[0].encode(), login[1].encode())
    ready = f"{url}/info/" if auth is None else f"{url}/auth/"
    with running(command, ready, log, {"HOME": str(home)}) as process:
        (model,) = requests.get(f"{url}/info/", auth=auth, timeout=60).json()["models"]
        yield LabelServer(url, model, work, log, process, auth)
