"""The stream of tasks: a bounded number with the scheduler, an end in good order."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator

import dask
import pytest
from distributed import Client, LocalCluster
from tiny_cohort import Gate, note, note_and_wait

from convformer_monai.cohort.engines import Engine, Stop, local_workers, opened, stream
from convformer_monai.errors import InputRefused


@pytest.fixture
def client() -> Iterator[Client]:
    """Of one worker with two threads, in this process."""
    Gate.begun.clear()
    Gate.opened.clear()
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_few_tasks_are_with_the_scheduler_at_a_time(client: Client) -> None:
    pending = deque(range(40))
    results, ahead = {}, []
    for item, future in stream(client, note, pending):
        results[item] = future.result()
        ahead.append(40 - len(pending) - len(results))
    assert results == {item: 2 * item for item in range(40)} and sorted(Gate.begun) == list(range(40))
    assert max(ahead) <= 4, "two a thread"


def test_what_is_added_meanwhile_is_done_too(client: Client) -> None:
    pending, seen = deque([1, 2]), []
    for item, _ in stream(client, lambda item: item, pending):
        seen.append(item)
        if item == 1:
            pending.append(3)
    assert sorted(seen) == [1, 2, 3]


def test_an_error_of_a_task_is_that_of_its_future(client: Client) -> None:
    ended = {item: future.status for item, future in stream(client, lambda item: 1 / item, deque([0, 1]))}
    assert ended == {0: "error", 1: "finished"}


@pytest.mark.slow
def test_a_worker_that_is_slow_to_come_back_is_waited_for() -> None:
    """Dask gives it up after 15 s, for ever; on a busy machine that is soon. Here a millisecond stands for them."""
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1 ms"}), opened(Engine("local")) as client:
        ((address, worker),) = client.run(os.getpid).items()
        os.kill(worker, signal.SIGKILL)
        while address in client.nthreads():
            time.sleep(0.05)
        assert client.submit(abs, -1, pure=False).result(timeout=60) == 1


def test_a_stop_lets_what_has_begun_end(client: Client) -> None:
    stop = Stop()

    def ask() -> None:
        deadline = time.monotonic() + 30
        while len(Gate.begun) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        stop.asked = True
        time.sleep(0.3)  # the stop is seen while both are at work
        Gate.opened.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    ended = [(item, future.status) for item, future in stream(client, note_and_wait, deque(range(20)), stop)]
    thread.join()
    finished = sorted(item for item, status in ended if status == "finished")
    assert finished == sorted(Gate.begun) and 2 <= len(finished) < 5


def test_workers_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask.system.CPU_COUNT", 16)
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 6_500_000_000)
    assert local_workers(None, "cpu") == Engine("local", None, workers=4, threads=4, tasks=1)
    assert local_workers(2, "cpu").threads == 8
    monkeypatch.setattr("convformer_monai.cohort.engines._gpus", lambda: 2)
    assert local_workers(None, "auto") == Engine("local", None, workers=2, threads=8, tasks=2)


def test_a_scheduler_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convformer_monai.cohort.engines.CONNECT_SECONDS", 1)
    with pytest.raises(InputRefused) as refusal, opened(Engine("dask", "tcp://127.0.0.1:9")):
        pass
    assert refusal.value.code == "CLUSTER"
