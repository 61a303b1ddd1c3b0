"""What a run says while it waits."""

from __future__ import annotations

import pytest

from convformer_monai.cohort import progress
from convformer_monai.cohort.progress import Waiting


def test_waiting_is_said_at_once_and_then_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    waiting = Waiting()
    for _ in range(40):  # looked at every two seconds
        waiting.say(3)
        clock[0] += 2
    assert caplog.messages == ["another run is doing 3 of the cases: waiting for it"] * 3
