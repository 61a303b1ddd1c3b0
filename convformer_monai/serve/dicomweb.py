"""DICOMweb (PS3.18), as far as the node is its client: QIDO-RS, WADO-RS of a series, STOW-RS."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests

from convformer_monai.serve.config import Tls
from convformer_monai.serve.multipart import parts
from convformer_monai.serve.statuses import is_for_good, is_stored

__all__ = ["DicomWeb", "WebFault"]

JSON = "application/dicom+json"
PIECE = 2**18
MAX_JSON = 2**26
STUDY_UID, SERIES_UID, SERIES_INSTANCES = "0020000D", "0020000E", "00201209"
MODALITY, FAILED_SEQUENCE, FAILURE_REASON = "00080060", "00081198", "00081197"
CONFLICT = 409  # of a store: nothing was stored; the body says why
ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'


class WebFault(Exception):
    """A server did not do what it was asked.

    Args:
        reason: one line, without any value of a patient and without an address.
        status: of the answer; 0 if there was none.
        for_good: the same question will be answered so again.
    """

    def __init__(self, reason: str, status: int = 0, *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.status, self.for_good = reason, status, for_good


@dataclass(frozen=True)
class WebSeries:
    """A series that a server has."""

    study: str
    uid: str
    modality: str
    instances: int


class DicomWeb:
    """One server.

    Args:
        url: its root.
        token: bearer token.
        tls: certificates.
        timeout_s: wait for a connection, and for each piece of an answer.
    """

    def __init__(self, url: str, token: str | None, tls: Tls | None, timeout_s: float) -> None:
        self.url, self.timeout = url, timeout_s
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy, no .netrc
        self.session.max_redirects = 0
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"
        if tls is not None:
            self.session.verify = str(tls.ca) if tls.ca else True
            self.session.cert = (str(tls.cert), str(tls.key)) if tls.cert else None

    def close(self) -> None:
        """Ends the connections."""
        self.session.close()

    def find(self, path: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """Asks with QIDO-RS.

        Args:
            path: below the root.
            query: matching attributes and options.

        Raises:
            WebFault: if there is no answer that can be used.
        """
        with self._ask("GET", path, params=dict(query), headers={"Accept": JSON}) as answer:
            if answer.status_code == requests.codes.no_content:
                return []
            content = b"".join(_limited(answer, MAX_JSON))
        try:
            found = json.loads(content)
        except ValueError:
            raise WebFault("answers a question with something else than JSON") from None
        if not isinstance(found, list):
            raise WebFault("answers a question with something else than a list")
        return [one for one in found if isinstance(one, dict)]

    def series_of(self, study: str) -> list[WebSeries]:
        """The series of a study."""
        query = {"includefield": f"{MODALITY},{SERIES_INSTANCES}"}
        found = []
        for one in self.find(f"studies/{study}/series", query):
            uid, count = value_of(one, SERIES_UID), value_of(one, SERIES_INSTANCES)
            found.append(WebSeries(study, uid, value_of(one, MODALITY), int(count) if count.isdigit() else 0))
        return found

    def instances(self, study: str, series: str, limit: int) -> Iterator[bytes]:
        """Fetches a series with WADO-RS, one file after the other.

        Args:
            study: UID.
            series: UID.
            limit: bytes of a file, at most.

        Raises:
            WebFault: if the answer cannot be used, or a file is larger.
        """
        with self._ask("GET", f"studies/{study}/series/{series}", headers={"Accept": ACCEPT}) as answer:
            try:
                pieces = answer.iter_content(PIECE)
                yield from parts(pieces, answer.headers.get("Content-Type", ""), limit)
            except ValueError as error:
                raise WebFault(str(error), for_good=True) from None
            except EOFError as error:
                raise WebFault(str(error)) from None
            except requests.RequestException as error:
                raise WebFault(f"ended early ({type(error).__name__})") from None

    def store(self, content: bytes) -> None:
        """Stores a file with STOW-RS.

        Raises:
            WebFault: if it is not stored.
        """
        boundary = secrets.token_hex(16)
        body = b"".join(
            (
                f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode(),
                content,
                f"\r\n--{boundary}--\r\n".encode(),
            )
        )
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        headers = {"Content-Type": kind, "Accept": JSON}
        with self._ask("POST", "studies", (CONFLICT,), data=body, headers=headers) as answer:
            told, status = b"".join(_limited(answer, MAX_JSON)), answer.status_code
        try:
            failed = json.loads(told).get(FAILED_SEQUENCE, {}).get("Value") or []
        except (ValueError, AttributeError):
            failed = []  # without a word: stored, as the status says
        if not failed:
            if status == CONFLICT:
                raise WebFault(f"answers {CONFLICT}", CONFLICT)
            return
        reason = value_of(failed[0], FAILURE_REASON) if isinstance(failed[0], dict) else ""
        if not reason.isdigit():
            raise WebFault("did not store it (unknown reason)", CONFLICT)
        if not is_stored(int(reason)):
            raise WebFault(f"did not store it (reason {int(reason):04X})", CONFLICT, for_good=is_for_good(int(reason)))

    def _ask(self, method: str, path: str, taken: Sequence[int] = (), **more: Any) -> requests.Response:
        """Asks, and gives back an answer that is good, or has one of the statuses that are taken, too."""
        try:
            answer = self.session.request(
                method, f"{self.url}/{path}", timeout=self.timeout, stream=True, allow_redirects=False, **more
            )
        except requests.RequestException as error:
            raise WebFault(f"cannot be reached ({type(error).__name__})") from None
        if not 200 <= answer.status_code < 300 and answer.status_code not in taken:
            answer.close()
            raise WebFault(f"answers {answer.status_code}", answer.status_code)
        return answer


def value_of(dataset: Mapping[str, Any], tag: str) -> str:
    """The first value of an attribute of DICOM JSON (PS3.18 annex F), as text; empty without one."""
    element = dataset.get(tag)
    values = element.get("Value") if isinstance(element, Mapping) else None
    return str(values[0]).strip() if isinstance(values, list) and values and values[0] is not None else ""


def _limited(answer: requests.Response, limit: int) -> Iterator[bytes]:
    """The body of an answer, up to a limit."""
    left = limit
    try:
        for piece in answer.iter_content(PIECE):
            left -= len(piece)
            if left < 0:
                raise WebFault("answers more than is allowed")
            yield piece
    except requests.RequestException as error:
        raise WebFault(f"ended early ({type(error).__name__})") from None
