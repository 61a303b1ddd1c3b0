"""The server as its page uses it, and as attackers would."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from results_folder import write_mask, write_result

from convformer_monai.errors import InputRefused
from convformer_monai.review.server import ReviewServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReviewServer]:
    folder = tmp_path / "out"
    write_result(folder, "a", flags=("MANY_PARTS",), doubt=0.1)
    (folder / "a_report.html").write_text("<p>the page of a</p>")
    write_result(folder, "<b>")
    (tmp_path / "secret.txt").write_text("secret")
    with ReviewServer(folder) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(
    server: ReviewServer, path: str, body: bytes | str | None = None, *, token: bool = True, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Asks as a program does that has the token; returns status, content and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    sent = {"Authorization": f"token {server.access.token}"} if token else {}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if body is None else "POST", path, body, sent)
    answer = connection.getresponse()
    content = answer.read()
    kind = answer.getheader("Content-Type") or ""
    connection.close()
    return answer.status, json.loads(content) if "json" in kind else content.decode(), dict(answer.getheaders())


def case_of(server: ReviewServer, name: str) -> dict[str, Any]:
    return next(case for case in ask(server, "/cases.json")[1] if case["name"] == name)


def test_images_that_are_not_there_are_refused_at_the_start(tmp_path: Path) -> None:
    write_result(tmp_path / "out", "a")
    with pytest.raises(InputRefused, match="--images") as caught:
        ReviewServer(tmp_path / "out", tmp_path / "nothere")
    assert caught.value.code == "FOLDER_NOT_FOUND"


def test_token_becomes_a_cookie_and_leaves_the_address(server: ReviewServer) -> None:
    status, _, headers = ask(server, f"/?token={server.access.token}", token=False)
    assert status == 303 and headers["Location"] == "/"
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    status, page, _ = ask(server, "/", token=False, Cookie=cookie.split(";")[0])
    assert status == 200 and "review.js" in page and server.access.token not in page
    assert f"http://127.0.0.1:{server.server_port}/?token={server.access.token}" == server.address


@pytest.mark.parametrize("path", ["/", "/cases.json", "/decisions.csv", "/review.js", "/?token=wrong", "/case/x/page"])
def test_without_the_token_there_is_nothing(server: ReviewServer, path: str) -> None:
    status, content, headers = ask(server, path, token=False)
    assert status == 403 and content["error"].startswith("error[FORBIDDEN]") and "Set-Cookie" not in headers
    assert ask(server, path, token=False, Cookie="convformer-view=x; =;")[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:80", ""])
def test_other_host_names_are_not_served(server: ReviewServer, host: str) -> None:
    assert ask(server, "/cases.json", Host=host)[0] == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", ""])
def test_other_pages_change_nothing(server: ReviewServer, origin: str) -> None:
    path = f"/case/{case_of(server, 'a')['id']}/decision"
    body = json.dumps({"decision": "accepted"})
    assert ask(server, path, body, Origin=origin)[0] == 403
    assert case_of(server, "a")["decision"] == "open"
    assert ask(server, path, body, Origin=f"http://127.0.0.1:{server.server_port}")[0] == 200
    assert case_of(server, "a")["decision"] == "accepted"


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/case/../../secret.txt/page",
        "/case/%2e%2e%2fsecret.txt/page",
        "/case/..%2f..%2fsecret.txt/page",
        "//etc/passwd",
        "/review.js/../server.py",
        "/server.py",
        "/case//page",
        "/case/a/page",
        "/case/{id}/decision",
        "/case/{id}/page/x",
        "/\x00",
    ],
)
def test_no_path_leads_anywhere_else(server: ReviewServer, path: str) -> None:
    path = path.replace("{id}", case_of(server, "a")["id"])
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as raw:  # as it is, unlike a client
        raw.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
            f"Authorization: token {server.access.token}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.split()[1] in (b"404", b"400") and b"secret" not in answer.split(b"\r\n\r\n", 1)[1]


def test_pages_are_shown_in_a_sandbox(server: ReviewServer) -> None:
    status, page, headers = ask(server, f"/case/{case_of(server, 'a')['id']}/page")
    assert status == 200 and page == "<p>the page of a</p>"
    assert headers["Content-Security-Policy"].startswith("sandbox allow-scripts;")
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    _, page, _ = ask(server, f"/case/{case_of(server, '<b>')['id']}/page")
    assert "<h1>&lt;b&gt;</h1>" in page and "--report" in page


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"decision": "rejected"}', 400),
        ('{"decision": 3}', 400),
        ("[1]", 400),
        ("nonsense", 400),
        (b"\xff" * 10, 400),
        ("{" * 70_000, 413),
    ],
)
def test_bad_decisions_get_one_line(server: ReviewServer, body: str | bytes, status: int) -> None:
    found, content, _ = ask(server, f"/case/{case_of(server, 'a')['id']}/decision", body)
    assert found == status and content["error"].startswith("error[") and "\n" not in content["error"]
    assert case_of(server, "a")["decision"] == "open"


def test_corrected_masks(server: ReviewServer, tmp_path: Path) -> None:
    path = f"/case/{case_of(server, 'a')['id']}/mask"
    good = write_mask(tmp_path / "good.nii.gz").read_bytes()
    status, content, _ = ask(server, path, b"nonsense", X_Filename="..%2F..%2Fx.nii.gz")
    assert status == 400 and content["error"].startswith("error[NOT_NIFTI]: x.nii.gz does not begin")
    status, content, _ = ask(server, path, good, X_Filename="..%2F..%2Fwith%20space.nii.gz")
    assert status == 200 and content["decision"] == "corrected"
    assert (server.folder / "a_corrected_label.nii.gz").is_file() and not (tmp_path / "with space.nii.gz").exists()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["good.nii.gz", "out", "secret.txt"]


def test_a_correction_is_not_thrown_away(server: ReviewServer, tmp_path: Path) -> None:
    case = f"/case/{case_of(server, 'a')['id']}"
    assert ask(server, f"{case}/decision", '{"decision": "corrected"}')[0] == 400, "there is no mask"
    mask = write_mask(tmp_path / "good.nii.gz").read_bytes()
    assert ask(server, f"{case}/mask", mask, X_Filename="good.nii.gz")[0] == 200
    status, content, _ = ask(server, f"{case}/decision", '{"decision": "accepted"}')
    assert status == 409 and "reopen it" in content["error"]
    assert case_of(server, "a")["decision"] == "corrected"
    for decision in ("open", "accepted"):
        assert ask(server, f"{case}/decision", json.dumps({"decision": decision}))[0] == 200


def test_a_page_that_shows_an_old_decision_changes_nothing(server: ReviewServer, tmp_path: Path) -> None:
    seen = case_of(server, "a")
    case = f"/case/{seen['id']}"
    assert ask(server, f"{case}/decision", json.dumps({"decision": "accepted", "seen": seen["time"]}))[0] == 200
    late = json.dumps({"decision": "rejected", "reason": "late", "seen": seen["time"]})
    status, content, _ = ask(server, f"{case}/decision", late)
    assert status == 409 and "decided elsewhere" in content["error"]
    mask = write_mask(tmp_path / "good.nii.gz").read_bytes()
    assert ask(server, f"{case}/mask", mask, X_Filename="good.nii.gz", X_Seen="2026")[0] == 409
    assert case_of(server, "a")["decision"] == "accepted"
    assert not (server.folder / "a_corrected_label.nii.gz").exists()


def test_a_mask_that_nobody_saw_is_open(server: ReviewServer) -> None:
    case = case_of(server, "a")
    ask(server, f"/case/{case['id']}/decision", '{"decision": "accepted"}')
    write_mask(server.folder / "a_seg.nii.gz")
    assert case_of(server, "a")["decision"] == "open"
    assert "was accepted for another mask" in ask(server, "/decisions.csv")[1]


def test_a_ticket_opens_the_page_once(server: ReviewServer) -> None:
    ticket = server.access.ticket()
    assert ask(server, f"/cases.json?token={ticket}", token=False)[0] == 403, "only the first page"
    status, _, headers = ask(server, f"/?token={ticket}", token=False)
    assert status == 303 and server.access.token in headers["Set-Cookie"]
    assert ask(server, f"/?token={ticket}", token=False)[0] == 403


def test_headers_in_small_letters(server: ReviewServer) -> None:
    path = f"/case/{case_of(server, 'a')['id']}/decision"
    assert ask(server, path, '{"decision": "accepted"}', origin="http://evil.example")[0] == 403


def test_sizes_are_limited_before_anything_is_read(server: ReviewServer) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as raw:
        raw.sendall(
            f"POST /case/{case_of(server, 'a')['id']}/mask HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
            f"Authorization: token {server.access.token}\r\nContent-Length: 99999999999\r\n\r\n".encode()
        )
        assert raw.recv(100).split()[1] == b"413"


def test_export_needs_the_images(server: ReviewServer) -> None:
    status, content, _ = ask(server, "/export", "{}")
    assert status == 400 and "--images" in content["error"]


def test_cases_that_come_later_are_listed(server: ReviewServer) -> None:
    write_result(server.folder, "later")
    ask(server, "/")
    assert case_of(server, "later")["decision"] == "open"


def test_a_port_that_is_taken(server: ReviewServer) -> None:
    with pytest.raises(InputRefused) as caught:
        ReviewServer(server.folder, port=server.server_port)
    assert caught.value.code == "PORT"
