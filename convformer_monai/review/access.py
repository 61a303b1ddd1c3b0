"""Who may use the server: those who have its token, from pages of its own, under the name of this machine."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

__all__ = ["HOST", "Access"]

HOST = "127.0.0.1"
TOKEN_BYTES = 24


@dataclass(frozen=True)
class Access:
    """The rules of one server.

    Another page in the same browser can neither read the token nor send its cookie (``SameSite=Strict``), what it posts
    bears its own origin, and a name that is made to point to this machine is not among the hosts.

    Attributes:
        port: of the server.
        token: as it stands in the address that the command prints; Jupyter does it in the same way.
        tickets: further tokens, each for one use.
    """

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(TOKEN_BYTES))
    tickets: set[str] = field(default_factory=set)

    def ticket(self) -> str:
        """Returns a token that opens the first page once, for where others can read it: the list of processes."""
        made = secrets.token_urlsafe(TOKEN_BYTES)
        self.tickets.add(made)
        return made

    def takes_ticket(self, query: str) -> bool:
        """Whether the query holds such a token, which is void from now on."""
        given = parse_qs(query).get("token", ())
        used = {one for one in self.tickets if any(secrets.compare_digest(one.encode(), it.encode()) for it in given)}
        self.tickets.difference_update(used)
        return bool(used)

    @property
    def cookie(self) -> str:
        """Name of the cookie: browsers share cookies between the ports of a machine."""
        return f"convformer-view-{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What the header Host may say."""
        return f"{HOST}:{self.port}", f"localhost:{self.port}"

    def is_our_host(self, headers: Mapping[str, str]) -> bool:
        """Whether the request was sent to this machine by its name."""
        return headers.get("Host", "") in self.hosts

    def is_our_origin(self, headers: Mapping[str, str]) -> bool:
        """Whether a request that changes something comes from a page of this server, or from no page at all."""
        origin = headers.get("Origin")
        return origin is None or origin in {f"http://{host}" for host in self.hosts}

    def has_token(self, headers: Mapping[str, str], query: str = "") -> bool:
        """Whether the token is in the query, the header Authorization (``token X``) or the cookie."""
        given = [*parse_qs(query).get("token", ()), headers.get("Authorization", "").removeprefix("token ")]
        try:
            cookies = SimpleCookie(headers.get("Cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        if self.cookie in cookies:
            given.append(cookies[self.cookie].value)
        return any(secrets.compare_digest(one.encode(), self.token.encode()) for one in given)
