"""A login for the label server: users of an Apache password file, by HTTP Basic or by MONAI Label's tokens.

Browsers, and with them OHIF, ask for name and password by themselves (RFC 7617). 3D Slicer's module asks ``/auth/``
whether there is a login, and gets a token from ``/auth/token`` (RFC 6749, section 4.3), as with Keycloak.

Passwords for one name from one address are checked one after the other, and each wrong one is answered later than the
one before. Nobody else waits for them: an attacker elsewhere cannot lock a user out.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["HTPASSWD", "USERS", "Login", "read_users"]

logger = logging.getLogger(__name__)

USERS = "CONVFORMER_LABEL_USERS"  # environment variable: the password file
BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
LONGEST = 72  # bytes of a password that bcrypt takes
TOKEN_HOURS = 12
REMEMBERED_S = 600.0
PENALTY_S = 0.5  # from a wrong password to its answer, at the first time; doubled at each further one
LONGEST_PENALTY_S = 8.0
FORGIVEN_S = 900.0  # after the last wrong password
MOST_GUESSERS = 10_000  # names and addresses of which wrong passwords are remembered
LOGGED = 64  # characters of a name
HTPASSWD = "htpasswd -B -C 10"


def read_users(path: Path) -> dict[str, bytes]:
    """Reads a password file as ``htpasswd -B -C 10`` writes it: a line ``name:hash`` for each user.

    Args:
        path: the file.

    Returns:
        The bcrypt hash of each user.

    Raises:
        InputRefused: ``LOGIN`` if it cannot be read, is empty, or has a line of another kind.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused(RefusalCode.LOGIN, f"--users {path} cannot be read: {error}") from error
    users: dict[str, bytes] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, digest = line.strip().partition(":")
        if not name or not BCRYPT.fullmatch(digest):
            raise InputRefused(
                RefusalCode.LOGIN,
                f"--users {path}, line {number}: give NAME:HASH as `{HTPASSWD} {path} NAME` writes it",
            )
        users[name] = digest.encode()
    if not users:
        raise InputRefused(RefusalCode.LOGIN, f"--users {path} has no user; `{HTPASSWD} {path} NAME` adds one")
    return users


@dataclass
class _Guesser:
    """Who gives passwords for one name from one address.

    Attributes:
        turn: held from a password to its answer.
        failures: wrong passwords since the last right one.
        last: when the last one came, of ``time.monotonic``.
    """

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    failures: int = 0
    last: float = field(default_factory=time.monotonic)


class Login:
    """Who may use the server.

    Args:
        users: the bcrypt hash of each.
    """

    def __init__(self, users: Mapping[str, bytes]) -> None:
        self._users = dict(users)
        # Unknown names are compared with the hash that takes longest.
        self._nobody = max(self._users.values(), key=lambda digest: digest[4:6], default=b"")
        self._guessers: dict[tuple[str, str], _Guesser] = {}
        self._secret = secrets.token_bytes(32)
        self._tokens: dict[str, tuple[str, float]] = {}  # name and end, by the token's digest
        self._known: dict[str, tuple[str, float]] = {}  # the same, by the digest of a Basic header

    async def user_of(self, authorization: str, address: str = "") -> str | None:
        """The user that a header ``Authorization`` tells; ``None`` if it tells none.

        Args:
            authorization: ``Basic ...`` or ``Bearer ...``.
            address: of the client.
        """
        scheme, _, value = authorization.partition(" ")
        digest = self._digest(value.strip())
        if scheme.lower() == "bearer":
            return _living(self._tokens, digest)
        if scheme.lower() != "basic":
            return None
        known = _living(self._known, digest)
        if known is not None:
            return known
        try:
            name, _, password = base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        if not await self.is_password(name, password, address):
            return None
        self._known[digest] = (name, time.monotonic() + REMEMBERED_S)
        return name

    async def is_password(self, name: str, password: str, address: str = "") -> bool:
        """Tells whether a password is right; a wrong one is logged, and answered later.

        Args:
            name: of the user.
            password: that was given.
            address: of the client.
        """
        import bcrypt  # MONAI Label brings it

        guesser = self._guesser(name, address)
        async with guesser.turn:
            start = time.monotonic()
            given = password.encode()[:LONGEST]
            right = await asyncio.to_thread(bcrypt.checkpw, given, self._users.get(name, self._nobody))
            if right and name in self._users:
                guesser.failures = 0
                return True
            guesser.failures, guesser.last = guesser.failures + 1, time.monotonic()
            logger.warning("login of %r from %s failed", name[:LOGGED], address or "an unknown address")
            penalty = min(LONGEST_PENALTY_S, PENALTY_S * 2 ** min(guesser.failures - 1, 10))
            await asyncio.sleep(max(0.0, start + penalty - time.monotonic()))  # however long the comparison took
            return False

    def _guesser(self, name: str, address: str) -> _Guesser:
        """Who gives passwords for a name from an address; those who gave up are forgotten."""
        now = time.monotonic()
        idle = [key for key, one in self._guessers.items() if not one.turn.locked()]
        over = [key for key in idle if now - self._guessers[key].last > FORGIVEN_S]
        for key in over or idle[: max(0, len(self._guessers) + 1 - MOST_GUESSERS)]:
            del self._guessers[key]
        return self._guessers.setdefault((name, address), _Guesser())

    def new_token(self, name: str) -> str:
        """A token for a user, for twelve hours.

        Args:
            name: of the user.
        """
        token = secrets.token_urlsafe(32)
        self._tokens[self._digest(token)] = (name, time.monotonic() + 3600 * TOKEN_HOURS)
        return token

    def _digest(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()


def _living(kept: dict[str, tuple[str, float]], digest: str) -> str | None:
    """The name that is kept under a digest; what is over is forgotten."""
    for one in [one for one, (_, end) in kept.items() if end < time.monotonic()]:
        del kept[one]
    return kept[digest][0] if digest in kept else None
