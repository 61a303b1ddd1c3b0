"""Fifty studies of three kinds, sent by two at once, while the node and the PACS are killed: each is answered once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from dicom_results import dciodvfy_errors
from hospital import NodeProcess, needs_dcmtk, needs_orthanc, rule, storescu, tiny, wait_until, write_study
from pacs import Pacs, orthanc
from pydicom import dcmread
from pydicom.dataset import Dataset
from servers import free_port

pytestmark = [needs_orthanc, needs_dcmtk]

STUDIES = 50
SENDERS = 2
KINDS = ("cardiac", "hemorrhage", "dermoscopy")


class Archive:
    """Orthanc, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.http, self.dicom = folder, free_port(), free_port()
        self._running = contextlib.ExitStack()
        self.pacs: Pacs | None = None

    def start(self) -> Pacs:
        settings = {"DicomServerEnabled": True, "DicomPort": self.dicom, "DicomAet": "PACS", "HttpPort": self.http}
        # It closes its database after each change, so that what it acknowledged is there after a kill.
        self.pacs = self._running.enter_context(orthanc(self.folder, **settings, DicomAlwaysAllowStore=True))
        return self.pacs

    def kill(self) -> None:
        assert self.pacs is not None
        os.killpg(self.pacs.process.pid, signal.SIGKILL)
        self.pacs.process.wait()

    def instances(self) -> int:
        assert self.pacs is not None
        try:
            return int(requests.get(f"{self.pacs.address}/statistics", timeout=20).json()["CountInstances"])
        except requests.RequestException:  # it is down
            return 0

    def stop(self) -> None:
        self._running.close()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    one = Archive(tmp_path / "pacs")
    try:
        one.start()
        yield one
    finally:
        one.stop()


@pytest.fixture
def node(tmp_path: Path, archive: Archive) -> Iterator[NodeProcess]:
    rules = [rule(kind, tiny(kind, tmp_path / "bundles" / kind), ["pacs", "share"]) for kind in KINDS]
    destinations = [
        {"name": "pacs", "kind": "dicom", "ae": "PACS", "host": "127.0.0.1", "port": archive.dicom},
        {"name": "share", "kind": "folder", "path": "share"},
    ]
    one = NodeProcess(tmp_path / "node", rules, destinations)
    try:
        one.start()
        yield one
    finally:
        one.stop()


def send_all(port: int, studies: list[list[Path]], done: list[int]) -> None:
    """Sends studies one after the other, each again until it is taken, as a modality does."""
    for files in studies:
        while storescu(port, files).returncode != 0:
            time.sleep(0.3)
        done.append(1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_study_is_answered_once_through_kills(node: NodeProcess, archive: Archive, tmp_path: Path) -> None:
    studies = [
        write_study(tmp_path / "in" / str(n), KINDS[n % len(KINDS)], n, SeriesDescription="Planteddescription")
        for n in range(STUDIES)
    ]
    done: list[int] = []
    threads = [
        threading.Thread(target=send_all, args=(node.port, studies[k::SENDERS], done), daemon=True)
        for k in range(SENDERS)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(done) > 8, "the first studies")
    node.kill()  # while instances come
    node.start()
    wait_until(lambda: archive.instances() > 6, "the first results")
    archive.kill()  # while results come
    wait_until(lambda: len(done) > 30, "more studies, while the archive is down")
    node.kill()  # while results wait
    archive.start()
    node.start()
    for thread in threads:
        thread.join(120)
    assert len(done) == STUDIES

    def is_idle() -> bool:
        status = node.get("/status").json()
        waiting = sum(by_state.get("pending", 0) for by_state in status["deliveries"].values())
        return status["jobs"].get("done", 0) == STUDIES and not waiting and not status["studies"]["incoming"]

    wait_until(is_idle, "all results to be stored")
    again = storescu(node.port, [file for files in studies[:6] for file in files])  # what was answered
    assert again.returncode == 0
    wait_until(is_idle, "the repetition")
    time.sleep(1)
    assert is_idle() and node.terminate() == 0
    check_answers(archive, studies, node.folder / "share", tmp_path)
    said = "".join(log.read_text() for log in node.logs())
    assert "Planted" not in said and "PLANTED" not in said and "Traceback" not in said


def positions(segmentation: Dataset) -> set[tuple[float, ...]]:
    """Where its frames lie, in mm; those without any structure are left out of it."""
    frames = segmentation.PerFrameFunctionalGroupsSequence
    found = {tuple(frame.PlanePositionSequence[0].ImagePositionPatient) for frame in frames}
    assert found
    return found


def check_answers(archive: Archive, studies: list[list[Path]], share: Path, folder: Path) -> None:
    """Each study has one SEG with its source, one SR and one picture, of its patient; there is nothing else."""
    assert archive.pacs is not None
    expected, slices = {}, {}
    for files in studies:
        sources = [dcmread(file) for file in files]
        study = str(sources[0].StudyInstanceUID)
        expected[study] = sources[0]
        slices[study] = {tuple(one.ImagePositionPatient) for one in sources if "ImagePositionPatient" in one}
    found: dict[str, Counter[str]] = {uid: Counter() for uid in expected}
    shared = {file.name: file for file in share.rglob("*.dcm")}
    for series in archive.pacs.series():
        for name in series["instances"]:
            result = archive.pacs.fetch(name)
            source = expected[str(result.StudyInstanceUID)]
            found[str(result.StudyInstanceUID)][result.Modality] += 1
            for keyword in ("PatientID", "PatientName", "AccessionNumber"):
                assert result[keyword].value == source[keyword].value
            if result.Modality == "SEG":
                (referenced,) = result.ReferencedSeriesSequence
                assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
                if source.get("FrameOfReferenceUID"):
                    assert result.FrameOfReferenceUID == source.FrameOfReferenceUID
                if slices[str(result.StudyInstanceUID)]:
                    assert positions(result) <= slices[str(result.StudyInstanceUID)]
    assert all(modalities["SR"] == 1 and modalities["OT"] == 1 for modalities in found.values()), found
    assert all(modalities["SEG"] <= 1 for modalities in found.values())
    assert sum(modalities["SEG"] for modalities in found.values()) > STUDIES // 3
    assert len(shared) == sum(modalities.total() for modalities in found.values())
    checked = [file for file in shared.values() if file.name.endswith("_seg.dcm")][:3]
    assert checked and all(dciodvfy_errors(file) == [] for file in checked)
