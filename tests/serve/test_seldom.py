"""What a peer causes again and again is logged once in a while."""

from __future__ import annotations

import logging

import pytest

from convformer_monai.serve import seldom
from convformer_monai.serve.seldom import Seldom


def test_repeated_messages_are_left_out_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [0.0]
    monkeypatch.setattr(seldom.time, "monotonic", lambda: clock[0])
    quiet = Seldom(logging.getLogger("test"))
    for _ in range(100):
        quiet.warn("damaged")
    quiet.warn("mismatch")
    assert caplog.messages == ["damaged", "mismatch"]
    clock[0] = 61.0
    quiet.warn("damaged")
    assert caplog.messages[2:] == ["damaged (99 more since the last time)"]
    for number in range(5000):
        quiet.warn(f"message {number}")
    assert len(caplog.messages) <= 1001
