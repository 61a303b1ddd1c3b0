"""A login for the label server: users of an Apache password file, by HTTP Basic or by MONAI Label's tokens.

Browsers, and with them OHIF, ask for name and password by themselves (RFC 7617). 3D Slicer's module asks ``/auth/``
whether there is a login, and gets a token from ``/auth/token`` (RFC 6749, section 4.3), as with Keycloak.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["USERS", "Login", "read_users"]

USERS = "CONVFORMER_LABEL_USERS"  # environment variable: the password file
BCRYPT = ("$2a$", "$2b$", "$2y$")
LONGEST = 72  # bytes of a password that bcrypt takes
TOKEN_HOURS = 12
REMEMBERED_S = 600.0
PENALTY_S = 0.5  # before a wrong password is answered


def read_users(path: Path) -> dict[str, bytes]:
    """Reads a password file as ``htpasswd -B`` writes it: a line ``name:hash`` for each user.

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
        if not name or not digest.startswith(BCRYPT):
            raise InputRefused(
                RefusalCode.LOGIN,
                f"--users {path}, line {number}: give NAME:HASH as `htpasswd -B {path} NAME` writes it",
            )
        users[name] = digest.encode()
    if not users:
        raise InputRefused(RefusalCode.LOGIN, f"--users {path} has no user; `htpasswd -B {path} NAME` adds one")
    return users


class Login:
    """Who may use the server.

    Args:
        users: the bcrypt hash of each.
    """

    def __init__(self, users: Mapping[str, bytes]) -> None:
        import bcrypt

        self._users = dict(users)
        self._nobody = bcrypt.hashpw(secrets.token_bytes(16), bcrypt.gensalt(10))  # so that unknown names take as long
        self._secret = secrets.token_bytes(32)
        self._tokens: dict[str, tuple[str, float]] = {}  # name and end, by the token's digest
        self._known: dict[str, tuple[str, float]] = {}  # the same, by the digest of a Basic header

    async def user_of(self, authorization: str) -> str | None:
        """The user that a header ``Authorization`` tells; ``None`` if it tells none.

        Args:
            authorization: ``Basic ...`` or ``Bearer ...``.
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
        if not await self.is_password(name, password):
            return None
        self._known[digest] = (name, time.monotonic() + REMEMBERED_S)
        return name

    async def is_password(self, name: str, password: str) -> bool:
        """Tells whether a password is right; a wrong one is answered later.

        Args:
            name: of the user.
            password: that was given.
        """
        import bcrypt  # MONAI Label brings it

        given = password.encode()[:LONGEST]
        right = await asyncio.to_thread(bcrypt.checkpw, given, self._users.get(name, self._nobody))
        if right and name in self._users:
            return True
        await asyncio.sleep(PENALTY_S)
        return False

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
