"""The DICOM port: who may call, what is taken, and what attackers get."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dicom_port import QUICK, Port, ask_commitment
from hospital import CALLER, NODE_AE, datasets, needs_dcmtk, storescu, wait_until, write_study
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, AllStoragePresentationContexts
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from convformer_monai.phantoms.dicom import save_dataset
from convformer_monai.serve.config import Caller, Tls
from convformer_monai.serve.listener import transfer_syntaxes

pytestmark = needs_dcmtk
ELSEWHERE = "127.0.0.2"  # an attacker's address


def echoscu(port: int, *options: str, caller: str = CALLER, called: str = NODE_AE) -> subprocess.CompletedProcess:
    command = ["echoscu", "-aet", caller, "-aec", called, "-to", "10", *options, "127.0.0.1", str(port)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_only_who_is_listed_may_call(open_port: Callable[..., Port], caplog: pytest.LogCaptureFixture) -> None:
    port = open_port(callers=(Caller(CALLER), Caller("FAR", ("192.0.2.0/24",))))
    assert echoscu(port.number).returncode == 0
    assert echoscu(port.number, caller="EVIL").returncode != 0
    assert echoscu(port.number, called="ANY-SCP").returncode != 0
    assert echoscu(port.number, caller="FAR").returncode != 0  # from here
    assert port.count("echoes") == 1 and port.count("associations_refused") == 3
    assert [line.removeprefix("refused an association of ") for line in caplog.messages] == [
        f"'EVIL' with {NODE_AE!r} from 127.0.0.1 (title or address)",
        f"{CALLER!r} with 'ANY-SCP' from 127.0.0.1 (title or number)",
        f"'FAR' with {NODE_AE!r} from 127.0.0.1 (title or address)",
    ]


def test_nobody_may_call_where_no_caller_is_listed(
    open_port: Callable[..., Port], caplog: pytest.LogCaptureFixture
) -> None:
    assert echoscu(open_port(callers=()).number).returncode != 0
    far = open_port(callers=(Caller(CALLER, ("192.0.2.1",)),))
    assert echoscu(far.number).returncode != 0 and far.counts.get("connections_refused", "address") == 1
    assert caplog.messages == ["refused a connection from 127.0.0.1, which is among no caller's hosts"] * 2


@pytest.mark.parametrize(
    ("syntax", "option"),
    [
        (ImplicitVRLittleEndian, "-xi"),
        (ExplicitVRBigEndian, "-xb"),
        (JPEGLosslessSV1, "-xs"),
        (JPEG2000Lossless, "-xv"),
        (JPEGLSLossless, "-xt"),
        (RLELossless, "-xr"),
    ],
)
def test_transfer_syntaxes(syntax: Any, option: str, open_port: Callable[..., Port], tmp_path: Path) -> None:
    port = open_port()
    path = save_dataset(datasets("cardiac", 1)[0], tmp_path / "one.dcm", transfer_syntax=syntax)
    done = subprocess.run(
        ["storescu", "-aet", CALLER, "-aec", NODE_AE, option, "127.0.0.1", str(port.number), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (row,) = port.state.rows("SELECT file FROM instances")
    assert (port.config.folder / row["file"]).read_bytes().count(f"{syntax}".encode()) == 1


def test_what_is_stored_and_what_is_refused(open_port: Callable[..., Port], tmp_path: Path) -> None:
    port = open_port()
    for number, kind in enumerate(("cardiac", "hemorrhage", "dermoscopy")):
        done = storescu(port.number, write_study(tmp_path / kind, kind, 1, series=number))
        assert done.returncode == 0, done.stderr
    assert port.instances() == 5
    large = datasets("cardiac", 2)[0]
    large.add_new(0x00091010, "OB", bytes(2**21))
    refused = storescu(port.number, [save_dataset(large, tmp_path / "large.dcm")])
    assert refused.returncode != 0 and port.instances() == 5
    assert port.counts.get("connections_cut", "message size") == 1
    assert storescu(port.number, write_study(tmp_path / "after", "cardiac", 3)).returncode == 0


@pytest.mark.parametrize(("other_classes", "status"), [("discard", 0), ("refuse", 1)])
def test_other_objects_of_a_study(
    other_classes: str, status: int, open_port: Callable[..., Port], tmp_path: Path
) -> None:
    port = open_port(other_classes=other_classes)
    report = datasets("cardiac", 1, series=4)[0]
    report.SOPClassUID, report.Modality = "1.2.840.10008.5.1.4.1.1.88.67", "SR"  # of the dose
    files = [save_dataset(report, tmp_path / "sr.dcm"), *write_study(tmp_path / "in", "cardiac", 1)]
    assert bool(storescu(port.number, files).returncode) == bool(status)
    assert port.count("instances_discarded") == 1 - status
    storescu(port.number, files[1:])
    assert port.instances() == 2
    ((kind, answer),) = ask_commitment(port, [report, *datasets("cardiac", 1)], None)
    assert kind == 2 and answer.FailedSOPSequence[0].FailureReason == 0x0122
    assert len(port.state.complete_studies(3600)) == 1


def test_a_request_may_be_larger_than_the_data_after_it(open_port: Callable[..., Port]) -> None:
    port = open_port(limits=replace(QUICK, pdu_bytes=4096))
    entity = AE(CALLER)
    for context in AllStoragePresentationContexts[:126]:
        entity.add_requested_context(str(context.abstract_syntax), transfer_syntaxes())
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", port.number, ae_title=NODE_AE)
    assert association.is_established and association.acceptor.maximum_length < 4096
    assert association.send_c_echo().Status == 0
    association.release()


def connect(port: int, source: str = ELSEWHERE) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0))


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side ends the connection, after whatever it says."""
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def test_a_hundred_idle_connections_hold_nobody_up(open_port: Callable[..., Port]) -> None:
    port = open_port()
    idle = [connect(port.number) for _ in range(100)]
    assert echoscu(port.number).returncode == 0
    assert all(map(is_closed, idle))
    assert port.counts.get("connections_refused", "per host") >= 90
    wait_until(lambda: port.listener.associations == 0, "the end of all associations")
    assert echoscu(port.number).returncode == 0


def associate_request(called: str = NODE_AE, calling: str = CALLER) -> bytes:
    """An A-ASSOCIATE-RQ for MR images (PS3.8 section 9.3.2)."""

    def item(kind: int, content: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(content)) + content

    syntaxes = item(0x30, b"1.2.840.10008.5.1.4.1.1.4") + item(0x40, b"1.2.840.10008.1.2")
    items = item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, b"\1\0\0\0" + syntaxes)
    items += item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3"))
    fixed = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16).encode(), calling.ljust(16).encode())
    return struct.pack(">BBL", 1, 0, len(fixed + items)) + fixed + items


def attacks() -> dict[str, list[bytes]]:
    """What attackers send, each part after the other."""
    request = associate_request()
    noise = os.urandom(5000)
    data = struct.pack(">BBL", 4, 0, 3000)
    return {
        "noise": [noise],
        "HTTP": [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"],
        "half a header": [b"\1\0\0"],
        "half a request": [request[:40]],
        "a PDU of 4 GiB": [struct.pack(">BBL", 1, 0, 2**32 - 1) + noise],
        "data before a request": [data + noise[:3000]],
        "a request and noise": [request, noise],
        "a request and half a PDU": [request, data + noise[:20]],
        "a request and a wrong item": [request, struct.pack(">BBLLB", 4, 0, 5, 2**32 - 1, 1)],
        "a wrong command": [request, struct.pack(">BBLLBB", 4, 0, 2006, 2002, 1, 3) + noise[:2000]],
        "two requests": [request, request],
        "a request of a wrong length": [request[:2] + struct.pack(">L", 30) + request[6:]],
        "a request without items": [struct.pack(">BBL", 1, 0, 68) + request[6:74]],
        "an unknown PDU": [request, struct.pack(">BBL", 99, 0, 4) + b"abcd"],
    }


def test_attacks_end_and_leave_nothing(open_port: Callable[..., Port], tmp_path: Path) -> None:
    port = open_port()
    assert storescu(port.number, write_study(tmp_path / "first", "cardiac", 1)).returncode == 0
    wait_until(lambda: port.listener.associations == 0, "the end of the association")
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for parts in [*attacks().values()] * 2:
        with connect(port.number) as connection, contextlib.suppress(OSError):
            for part in parts:
                connection.sendall(part)
                time.sleep(0.02)
            connection.shutdown(socket.SHUT_WR)
            assert is_closed(connection), parts
    wait_until(lambda: port.listener.associations == 0, "the end of all associations")
    assert storescu(port.number, write_study(tmp_path / "second", "cardiac", 2)).returncode == 0
    wait_until(lambda: threading.active_count() <= threads, "the end of all threads")
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2
    assert port.instances() == 4 and port.listener.is_alive


def test_half_sent_pdus_are_cut_by_the_timeout(open_port: Callable[..., Port]) -> None:
    port = open_port()
    with connect(port.number) as half, connect(port.number) as silent:
        half.sendall(associate_request()[:40])
        silent.sendall(associate_request())
        assert is_closed(half) and is_closed(silent)


def test_to_stop_does_not_wait_for_peers(open_port: Callable[..., Port]) -> None:
    port = open_port(limits=replace(QUICK, network_s=3600.0))
    entity = AE(CALLER)
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", port.number, ae_title=NODE_AE)
    with connect(port.number) as half:
        half.sendall(associate_request())
        assert half.recv(4096)
        half.sendall(struct.pack(">BBL", 4, 0, 3000))  # whose data do not come
        stopping = threading.Thread(target=port.listener.stop, args=(0.0,), daemon=True)
        stopping.start()
        stopping.join(20)
        assert not stopping.is_alive() and is_closed(half)
    wait_until(lambda: association.is_aborted or not association.is_established, "the abort", 20)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")  # an old one is what is refused
def test_tls_with_client_certificates(open_port: Callable[..., Port], certificates: Path, tmp_path: Path) -> None:
    tls = Tls(certificates / "node.pem", certificates / "node.key", certificates / "ca.pem")
    port = open_port(tls=tls)
    files = write_study(tmp_path / "in", "cardiac", 1)

    def options(name: str) -> list[str]:
        return [
            "+tls",
            str(certificates / f"{name}.key"),
            str(certificates / f"{name}.pem"),
            "+cf",
            str(certificates / "ca.pem"),
        ]

    with connect(port.number), connect(port.number):  # who shakes no hands
        assert storescu(port.number, files, *options("client")).returncode == 0
    assert storescu(port.number, files, *options("other")).returncode != 0
    assert echoscu(port.number).returncode != 0  # without TLS
    with contextlib.suppress(OSError), connect(port.number) as plain:
        plain.sendall(os.urandom(600))
    with pytest.raises(ssl.SSLError):
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with connect(port.number) as plain:
            context.wrap_socket(plain, server_hostname="localhost")
    assert port.instances() == 2 and port.listener.is_alive
