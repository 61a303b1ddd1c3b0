"""A PACS that is asked: what is new and complete is fetched, once; other answers are refused."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hospital import datasets, needs_orthanc, write_study
from pacs import Pacs, orthanc
from pydicom import dcmread

from convformer_monai.phantoms.dicom import save_dataset
from convformer_monai.serve.config import Limits, Source
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.intake import Intake
from convformer_monai.serve.listener import CLASSES
from convformer_monai.serve.multipart import parts
from convformer_monai.serve.polling import Poller
from convformer_monai.serve.state import State

KIND = 'multipart/related; type="application/dicom"; boundary=b'


def in_pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_parts_come_out_as_they_went_in(size: int) -> None:
    contents = [b"DICM\r\n--x\0\r\n", b"", b"\r\n\r\n" * 9, bytes(range(256))]
    body = b"preamble\r\n" + b"".join(
        b"--b\r\n" + (b"Content-Type: application/dicom\r\n" if number % 2 else b"") + b"\r\n" + one + b"\r\n"
        for number, one in enumerate(contents)
    )
    assert list(parts(in_pieces(body + b"--b--\r\nepilogue", size), KIND, 1000)) == contents


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"--b\r\n\r\nx\r\n--b--", "application/json", "something else"),
        (b"--b\r\n\r\nx\r\n--b--", "multipart/related", "something else"),
        (b"no part at all", KIND, "without parts"),
        (b"--b\r\n\r\n" + b"x" * 99 + b"\r\n--b--", KIND, "larger than allowed"),
        (b"--bxx", KIND, "told apart"),
    ],
)
def test_answers_that_are_no_parts(body: bytes, kind: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        list(parts(in_pieces(body, 5), kind, 50))


@pytest.mark.parametrize("body", [b"--b", b"--b\r\nContent", b"--b\r\n\r\nx", b"--b\r\n\r\nx\r\n--b\r"])
def test_answers_that_end_early(body: bytes) -> None:
    with pytest.raises(EOFError, match="ends early"):
        list(parts(in_pieces(body, 5), KIND, 50))


class _Archive(BaseHTTPRequestHandler):
    """A study with one series, whose connection is cut once."""

    files: list[bytes]
    cuts = 1

    def do_GET(self) -> None:  # noqa: N802
        path = self.path.partition("?")[0]
        kind = "application/dicom+json"
        first = dcmread(io.BytesIO(self.files[0]))
        study, series = first.StudyInstanceUID, first.SeriesInstanceUID
        if path.endswith(series):
            kind, body = KIND, b"".join(b"--b\r\n\r\n" + one + b"\r\n" for one in self.files) + b"--b--"
            if _Archive.cuts:
                _Archive.cuts -= 1
                body = body[:-1000]
        else:
            values = {"0020000D": study, "0020000E": series, "00080060": "MR", "00201209": len(self.files)}
            body = json.dumps([{tag: {"Value": [value]} for tag, value in values.items()}]).encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_what_was_fetched_in_part_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [path.read_bytes() for path in write_study(tmp_path / "in", "cardiac", 1)]
    study = str(datasets("cardiac", 1)[0].StudyInstanceUID)
    monkeypatch.setattr(_Archive, "files", files, raising=False)
    server = HTTPServer(("127.0.0.1", 0), _Archive)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    state, counts = State(tmp_path / "state.sqlite"), Counts()
    intake = Intake(tmp_path, state, Limits(min_free_mb=1), CLASSES, counts)
    source = Source("archive", f"http://127.0.0.1:{server.server_address[1]}", modalities=("MR",), days=0)
    poller = Poller(source, state, intake, Limits(), counts)
    assert [poller.ask(), poller.ask()] == [0, 0] and not poller.reachable
    assert counts.get("instances_taken") == 1 and state.complete_studies(0) == []
    assert poller.ask() == 1 and counts.get("instances_taken") == 2
    assert [uid for uid, _ in state.complete_studies(3600)] == [study]
    server.shutdown()
    server.server_close()


def test_series_with_an_image_that_cannot_be_taken_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first image is taken, the second is too large: a part of a volume would be taken for all of it."""
    large = datasets("cardiac", 1)[-1]
    large.add_new(0x00091010, "OB", bytes(2**21))
    small, study = write_study(tmp_path / "in", "cardiac", 1)[0], str(large.StudyInstanceUID)
    files = [path.read_bytes() for path in (small, save_dataset(large, tmp_path / "large.dcm"))]
    monkeypatch.setattr(_Archive, "files", files, raising=False)
    monkeypatch.setattr(_Archive, "cuts", 0)
    server = HTTPServer(("127.0.0.1", 0), _Archive)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    state, counts = State(tmp_path / "state.sqlite"), Counts()
    source = Source("archive", f"http://127.0.0.1:{server.server_address[1]}", modalities=("MR",), days=0)
    for limits, folder in ((Limits(instance_mb=1, min_free_mb=1), "web"), (Limits(min_free_mb=1), "intake")):
        intake = Intake(tmp_path / folder, state, Limits(instance_mb=1, min_free_mb=1), CLASSES, counts)
        poller = Poller(replace(source, name=folder), state, intake, limits, counts)
        poller.ask(), poller.ask()
        assert state.instances_of(study) == [] and not list((tmp_path / folder).rglob("*.dcm"))
    assert counts.get("instances_taken") == counts.get("series_incomplete") == 2
    assert poller.ask() == 0 and counts.get("series_incomplete") == 2, "it is not asked for again"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    with orthanc(tmp_path_factory.mktemp("pacs")) as one:
        yield one


@needs_orthanc
def test_a_pacs_is_asked_for_what_is_new(pacs: Pacs, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    state, counts = State(folder / "state.sqlite"), Counts()
    intake = Intake(folder, state, Limits(min_free_mb=1), CLASSES, counts)
    source = Source("archive", pacs.dicomweb, modalities=("MR",), days=0)
    poller = Poller(source, state, intake, Limits(), counts)
    first = write_study(tmp_path / "in", "cardiac", 1, slices=3)
    pacs.upload(first[:2])
    pacs.upload(write_study(tmp_path / "ct", "hemorrhage", 2))
    assert poller.ask() == 0  # it may still grow
    assert poller.ask() == 1
    assert [row["source"] for row in state.rows("SELECT source FROM instances")] == ["archive"] * 2
    assert len(state.complete_studies(3600)) == 1  # without waiting
    assert poller.ask() == 0
    pacs.upload(first[2:])
    assert [poller.ask(), poller.ask(), poller.ask()] == [0, 1, 0]
    assert counts.get("instances_taken") == 3 and counts.get("polls", "answered") == 6
    kept = {(folder / row["file"]).read_bytes() for row in state.rows("SELECT file FROM instances")}
    assert {path.read_bytes()[-2000:] for path in first} == {content[-2000:] for content in kept}

    wanted = Poller(
        Source("other", pacs.dicomweb, {"PatientID": "nobody"}, ("MR",), days=0), state, intake, Limits(), counts
    )
    assert [wanted.ask(), wanted.ask()] == [0, 0]


@needs_orthanc
def test_a_series_that_is_too_large_does_not_keep_others_back(pacs: Pacs, tmp_path: Path) -> None:
    state, counts = State(tmp_path / "state.sqlite"), Counts()
    intake = Intake(tmp_path, state, Limits(min_free_mb=1), CLASSES, counts)
    large = datasets("cardiac", 11, Modality="PT")[0]
    large.add_new(0x00091010, "OB", bytes(2**21))
    pacs.upload(save_dataset(large, tmp_path / "large.dcm"))
    pacs.upload(write_study(tmp_path / "in", "cardiac", 12, Modality="PT"))
    source = Source("archive", pacs.dicomweb, modalities=("PT",), days=0)
    poller = Poller(source, state, intake, Limits(instance_mb=1), counts)
    assert [poller.ask(), poller.ask(), poller.ask()] == [0, 2, 0]
    assert counts.get("instances_taken") == 2


def test_a_source_that_is_down_is_asked_again(tmp_path: Path) -> None:
    state, counts = State(tmp_path / "state.sqlite"), Counts()
    intake = Intake(tmp_path, state, Limits(min_free_mb=1), CLASSES, counts)
    poller = Poller(Source("archive", "http://127.0.0.1:1", modalities=("MR",)), state, intake, Limits(), counts)
    assert poller.ask() == 0 and not poller.reachable and counts.get("polls", "failed") == 1
