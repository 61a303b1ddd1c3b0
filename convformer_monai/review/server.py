"""The review's server, on this machine only: the standard library's, with a token.

Addresses name cases by their identifiers, never files: what is not in the list of cases cannot be asked for.
"""

from __future__ import annotations

import json
import logging
import tempfile
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from convformer_monai.errors import InputRefused, RefusalCode, find_refusal
from convformer_monai.review.access import HOST, Access
from convformer_monai.review.cases import ReviewCase, find_results
from convformer_monai.review.corrections import keep_correction
from convformer_monai.review.export import export_datalist
from convformer_monai.review.pages import index_page, plain_page
from convformer_monai.review.standing import fingerprint, standing
from convformer_monai.review.store import ACCEPTED, CORRECTED, OPEN, Decision, Store, to_csv
from convformer_monai.view.assets import asset
from convformer_monai.view.page import POLICY

__all__ = ["EXPORT", "ReviewServer"]

logger = logging.getLogger(__name__)

EXPORT = "review_dataset"  # in the folder of results
MOST_JSON = 2**16
MOST_MASK = 2**29
PIECE = 2**20
PATIENCE_S = 30  # for a browser that says nothing
OWN_PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CASE_PAGE = f"sandbox allow-scripts; frame-ancestors 'self'; {POLICY}"
TYPES = {".css": "text/css", ".js": "text/javascript", ".html": "text/html", ".json": "application/json"}


class ReviewServer(ThreadingHTTPServer):
    """Serves a folder of results.

    Args:
        folder: of the results.
        images: folder that was segmented; ``None`` if no data set is to be made.
        port: 0 for any that is free.

    Raises:
        InputRefused: ``FOLDER_NOT_FOUND``, ``NO_IMAGES``, ``CANNOT_WRITE``, or ``PORT`` if the port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: Path, images: Path | None = None, port: int = 0) -> None:
        self.folder, self.images = folder, images
        if images is not None and not images.is_dir():
            raise InputRefused(
                RefusalCode.FOLDER_NOT_FOUND,
                f"the folder {images} does not exist; give the one that was segmented as --images",
            )
        self.cases = {case.id: case for case in find_results(folder)}
        self.store = Store(folder)
        self.writing = threading.Lock()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise InputRefused(
                RefusalCode.PORT, f"port {port} cannot be used ({error.strerror}); give --port"
            ) from error
        self.access = Access(self.server_port)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return self.address_with(self.access.token)

    def address_with(self, token: str) -> str:
        """The same with another token."""
        return f"http://{HOST}:{self.server_port}/?token={token}"

    def listed(self) -> list[dict[str, Any]]:
        """All cases with their decisions, as JSON types."""
        decisions = standing(self.cases.values(), self.store)
        return [_with(case, decisions.get(case.name)) for case in self.cases.values()]

    def decide(self, case: ReviewCase, decision: str, reason: str = "") -> Decision:
        """Notes a decision, with the mask that it is about."""
        return self.store.decide(case, decision, reason, fingerprint(case, decision))


def _with(case: ReviewCase, decision: Decision | None) -> dict[str, Any]:
    made = decision or Decision(OPEN)
    return {**case.to_json(), "decision": made.decision, "reason": made.reason, "time": made.time}


class _Refused(Exception):
    """A request that is answered with a status and one line."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """Answers requests."""

    server: ReviewServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "convformer_monai", ""
    timeout = PATIENCE_S
    assets: ClassVar[Sequence[str]] = ("report.css", "review.css", "review.js")

    def do_GET(self) -> None:  # noqa: N802 (the library's name)
        """Pages, lists and files."""
        self._answer(self._get)

    def do_POST(self) -> None:  # noqa: N802
        """Decisions, masks and the data set."""
        self._answer(self._post)

    def _answer(self, work: Callable[[], None]) -> None:
        """Checks who asks, does the work, and says in one line what is wrong."""
        try:
            self._check()
            work()
        except _Refused as refused:
            self._send_error(refused.status, str(refused))
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True
        except Exception as error:
            refusal = find_refusal(error)
            if refusal is None:
                logger.exception("a request failed")
            fault = "error[FAULT]: a fault of ours; the terminal has more"
            status = HTTPStatus.BAD_REQUEST if refusal else HTTPStatus.INTERNAL_SERVER_ERROR
            self._send_error(status, str(refusal or fault))

    def _check(self) -> None:
        access, headers = self.server.access, {name.title(): value for name, value in self.headers.items()}
        if not access.is_our_host(headers):
            raise _Refused(HTTPStatus.FORBIDDEN, "error[FORBIDDEN]: this host name is not served")
        if self.command == "POST" and not access.is_our_origin(headers):
            raise _Refused(HTTPStatus.FORBIDDEN, "error[FORBIDDEN]: this comes from another page")
        path, query = urlsplit(self.path)[2:4]
        if not access.has_token(headers, query) and not (path == "/" and access.takes_ticket(query)):
            raise _Refused(
                HTTPStatus.FORBIDDEN,
                "error[FORBIDDEN]: open the address with the token that convformer-monai view printed",
            )

    def _get(self) -> None:
        server, (path, query) = self.server, urlsplit(self.path)[2:4]
        if path == "/" and "token=" in query:  # it leaves the address bar, and the history
            self._send(b"", "text/plain", HTTPStatus.SEE_OTHER, Location="/", cookie=True)
        elif path == "/":
            server.cases = {case.id: case for case in find_results(server.folder)}  # there may be more by now
            page = index_page(list(server.cases.values()), can_export=server.images is not None)
            self._send(page.encode(), "text/html", policy=OWN_PAGE)
        elif path == "/cases.json":
            self._send_json(server.listed())
        elif path == "/decisions.csv":
            table = to_csv(list(server.cases.values()), standing(server.cases.values(), server.store))
            self._send(table.encode(), "text/csv", Content_Disposition='attachment; filename="decisions.csv"')
        elif path[1:] in self.assets:
            self._send(asset(path[1:]).encode(), TYPES[Path(path).suffix])
        else:
            self._send_page(self._case(path, "page"))

    def _send_page(self, case: ReviewCase) -> None:
        page = case.page
        plain = plain_page(case, asset("report.css")).encode("utf-8", "backslashreplace") if page is None else b""
        content = plain if page is None else page.read_bytes()
        self._send(content, "text/html", policy=CASE_PAGE)

    def _post(self) -> None:
        path = urlsplit(self.path).path
        if path == "/export":
            self._read_body(MOST_JSON)
            self._send_json(self._export())
        elif path.endswith("/decision"):
            case = self._case(path, "decision")
            given = self._read_json()
            decision, reason = given.get("decision"), given.get("reason", "")
            if not isinstance(decision, str) or not isinstance(reason, str):
                raise _Refused(HTTPStatus.BAD_REQUEST, "error[OPTION]: decision and reason must be texts")
            if decision == CORRECTED:
                raise _Refused(HTTPStatus.BAD_REQUEST, "error[OPTION]: send the corrected mask")
            with self.server.writing:
                before = self._before(case, given.get("seen"))
                if decision == ACCEPTED and before.decision == CORRECTED:
                    what = f"error[EXISTS]: {case.shown} has a corrected mask; reopen it to take the bundle's"
                    raise _Refused(HTTPStatus.CONFLICT, what)
                made = self.server.decide(case, decision, reason)
            self._send_json(_with(case, made))
        else:
            self._keep_mask(self._case(path, "mask"))

    def _before(self, case: ReviewCase, seen: object) -> Decision:
        """The decision that stands, if it is the one that the page showed: ``seen`` is its time."""
        before = standing([case], self.server.store).get(case.name, Decision(OPEN))
        if isinstance(seen, str) and seen != before.time:
            what = f"error[EXISTS]: {case.shown} was decided elsewhere meanwhile ({before.decision}); look again"
            raise _Refused(HTTPStatus.CONFLICT, what)
        return before

    def _export(self) -> dict[str, Any]:
        server = self.server
        if server.images is None:
            raise InputRefused(
                RefusalCode.OPTION, "the images are not known; start convformer-monai view with --images"
            )
        with server.writing:
            folder = server.folder / EXPORT
            cases = list(server.cases.values())
            counts = export_datalist(cases, standing(cases, server.store), server.images, folder)
        return {"folder": str(folder), **counts}

    def _keep_mask(self, case: ReviewCase) -> None:
        name = Path(unquote(self.headers.get("X-Filename", ""))).name
        endings = "".join(Path(name).suffixes[-2:] if name.lower().endswith(".nii.gz") else Path(name).suffixes[-1:])
        with tempfile.TemporaryDirectory() as folder:
            upload = Path(folder) / f"upload{endings if endings.replace('.', '').isalnum() else ''}"
            with upload.open("wb") as file:
                self._read_body(MOST_MASK, file.write)
            try:
                with self.server.writing:
                    self._before(case, self.headers.get("X-Seen"))
                    keep_correction(case, upload)
                    made = self.server.decide(case, CORRECTED)
            except InputRefused as refusal:
                said = refusal.message.replace(str(upload), name).replace(upload.name, name)
                raise InputRefused(refusal.code, said) from refusal
        self._send_json(_with(case, made))

    def _case(self, path: str, last: str) -> ReviewCase:
        """The case that ``/case/ID/last`` names."""
        parts = path.split("/")
        case = self.server.cases.get(parts[2]) if len(parts) == 4 and parts[1] == "case" and parts[3] == last else None
        if case is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "error[FILE_NOT_FOUND]: there is no such page")
        return case

    def _read_json(self) -> dict[str, Any]:
        parts: list[bytes] = []
        self._read_body(MOST_JSON, parts.append)
        try:
            content = json.loads(b"".join(parts))
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "error[OPTION]: the request must be a JSON object")
        return content

    def _read_body(self, most: int, keep: Callable[[bytes], object] = lambda _: None) -> None:
        """Reads what was sent, a piece at a time."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "error[OPTION]: the request has no Content-Length")
        left = int(length)
        if left > most:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"error[TOO_LARGE]: more than {most} bytes were sent")
        while left:
            piece = self.rfile.read(min(left, PIECE))
            if not piece:
                raise ConnectionResetError
            left -= len(piece)
            keep(piece)

    def _send_json(self, content: Any) -> None:
        self._send(json.dumps(content, allow_nan=False).encode(), "application/json")

    def _send_error(self, status: HTTPStatus, message: str) -> None:
        """Answers with one line; what was sent and not read would be taken for the next request."""
        self.close_connection = True
        self._send(json.dumps({"error": message}).encode(), "application/json", status, Connection="close")

    def _send(
        self,
        content: bytes,
        kind: str,
        status: HTTPStatus = HTTPStatus.OK,
        *,
        policy: str = "default-src 'none'; frame-ancestors 'none'",
        cookie: bool = False,
        **headers: str,
    ) -> None:
        access = self.server.access
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", policy)
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        if cookie:
            self.send_header("Set-Cookie", f"{access.cookie}={access.token}; HttpOnly; SameSite=Strict; Path=/")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: addresses hold the token once."""
