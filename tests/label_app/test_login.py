"""Names and passwords: what a password file may hold, and what guessing costs whom."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from convformer_monai.errors import InputRefused
from convformer_monai.label_app import login as login_module
from convformer_monai.label_app.login import Login, read_users

DIGEST = "$2y$10$" + "abcdefghij./ABCDEFGHIO" + "k" * 31


class Passwords:
    """Stands in for bcrypt, which only MONAI Label brings: the end of a hash is the password."""

    def __init__(self) -> None:
        self.compared: list[bytes] = []

    def checkpw(self, given: bytes, digest: bytes) -> bool:
        self.compared.append(digest)
        return digest.endswith(b"$" + given)


@pytest.fixture
def bcrypt(monkeypatch: pytest.MonkeyPatch) -> Passwords:
    passwords = Passwords()
    monkeypatch.setitem(sys.modules, "bcrypt", SimpleNamespace(checkpw=passwords.checkpw))
    return passwords


class Clock:
    """Stands in for time: nobody waits, and what they would have waited is written down."""

    def __init__(self) -> None:
        self.now, self.waits = 1000.0, []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(login_module, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(login_module.asyncio, "sleep", clock.sleep)
    return clock


USERS = {"ann": b"$2y$05$secret", "bob": b"$2y$12$other"}


def answers(login: Login, *guesses: tuple[str, str, str]) -> list[bool]:
    async def ask() -> list[bool]:
        return [await login.is_password(*guess) for guess in guesses]

    return asyncio.run(ask())


def test_unknown_names_take_the_longest_comparison(bcrypt: Passwords, clock: Clock) -> None:
    assert answers(Login(USERS), ("eve", "other", "a"), ("ann", "secret", "a")) == [False, True]
    assert bcrypt.compared == [USERS["bob"], USERS["ann"]]


def test_wrong_passwords_wait_longer_and_longer_but_not_for_ever(bcrypt: Passwords, clock: Clock) -> None:
    login = Login(USERS)
    assert not any(answers(login, *[("ann", "x", "a")] * 20))
    assert clock.waits[:5] == [0.5, 1, 2, 4, 8] and set(clock.waits[5:]) == {8}


def test_an_answer_does_not_tell_how_long_the_comparison_took(
    bcrypt: Passwords, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(given: bytes, digest: bytes) -> bool:
        clock.now += 0.25 if digest == USERS["bob"] else 0.125
        return False

    monkeypatch.setattr(sys.modules["bcrypt"], "checkpw", slow)
    answers(Login(USERS), ("eve", "x", "a"), ("ann", "x", "a"))
    assert clock.waits == [0.25, 0.375]  # half a second from the question on, in both cases


def test_nobody_else_pays_and_a_right_password_or_time_forgives(bcrypt: Passwords, clock: Clock) -> None:
    login = Login(USERS)
    answers(login, *[("ann", "x", "evil")] * 9)
    clock.waits.clear()
    assert answers(login, ("ann", "secret", "evil"), ("ann", "secret", "home")) == [True, True]
    answers(login, ("ann", "x", "home"), ("bob", "x", "evil"), ("ann", "x", "evil"))
    assert clock.waits == [0.5] * 3
    answers(login, *[("bob", "x", "evil")] * 3)
    clock.now += 901
    clock.waits.clear()
    answers(login, ("bob", "x", "evil"))
    assert clock.waits == [0.5]


def test_guesses_at_one_name_from_one_address_come_one_after_the_other(
    bcrypt: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[asyncio.Event] = []

    async def run() -> tuple[int, int]:
        login = Login(USERS)

        async def sleep(_seconds: float) -> None:
            waiting.append(asyncio.Event())
            await waiting[-1].wait()

        real_sleep = asyncio.sleep
        monkeypatch.setattr(login_module.asyncio, "sleep", sleep)
        guesses = [asyncio.ensure_future(login.is_password("ann", str(n), "a")) for n in range(5)]
        other = asyncio.ensure_future(login.is_password("ann", "secret", "b"))
        assert await other
        while not waiting:
            await real_sleep(0)
        before = len(bcrypt.compared)
        for _ in range(100):
            await real_sleep(0)
        compared = len(bcrypt.compared) - 1
        for _ in guesses:
            while not waiting:
                await real_sleep(0)
            waiting.pop().set()
        assert not any(await asyncio.gather(*guesses))
        return compared, before

    compared, _ = asyncio.run(run())
    assert compared == 1 and len(bcrypt.compared) == 6


def test_failures_are_logged_in_one_line(bcrypt: Passwords, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        answers(Login(USERS), ("ann\nERROR all is lost\x1b[2J" + "n" * 1000, "x", "10.0.0.7"), ("ann", "secret", "b"))
    (record,) = caplog.records
    said = record.getMessage()
    assert record.levelno == logging.WARNING and "10.0.0.7" in said and r"'ann\nERROR" in said
    assert said.isprintable() and len(said) < 200 and "secret" not in said


def test_memory_of_failures_is_bounded(bcrypt: Passwords, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_module, "MOST_GUESSERS", 10)
    login = Login(USERS)
    answers(login, *[(f"name{n}", "x", "a") for n in range(100)])
    assert len(login._guessers) == 10


@pytest.mark.parametrize(
    "digest",
    [
        "geheim",
        DIGEST[:-1],
        DIGEST + "k",
        DIGEST[:-1] + "-",
        DIGEST.replace("HIO", "HIP"),  # the last letter of a salt holds two bits
        DIGEST.replace("$10$", "$03$"),
        DIGEST.replace("$10$", "$99$"),
        DIGEST.replace("$2y$", "$2x$"),
    ],
)
def test_hashes_that_bcrypt_could_not_compare_are_refused(digest: str, tmp_path: Path) -> None:
    (tmp_path / "users").write_text(f"a:{DIGEST}\nb:{digest}\n")
    with pytest.raises(InputRefused, match="line 2: give NAME:HASH as `htpasswd -B -C 10"):
        read_users(tmp_path / "users")


def test_hashes_of_all_kinds_are_read(tmp_path: Path) -> None:
    kinds = {kind: DIGEST.replace("$2y$", kind) for kind in ("$2a$", "$2b$", "$2y$")}
    (tmp_path / "users").write_text("".join(f"{kind}:{digest}\n" for kind, digest in kinds.items()))
    assert read_users(tmp_path / "users") == {kind: digest.encode() for kind, digest in kinds.items()}
