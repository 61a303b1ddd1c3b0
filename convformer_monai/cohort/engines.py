"""Where the cases are done: worker processes of this machine, or those of a Dask cluster; both through one client.

Never more than a few tasks for each worker are with the scheduler, however long the list is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from convformer_monai.errors import InputRefused, RefusalCode

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["ENGINES", "Engine", "Stop", "check_packages", "local_workers", "opened", "stream"]

logger = logging.getLogger(__name__)

ENGINES = ("local", "dask")
PACKAGES = ("distributed", "pandas", "pyarrow", "fsspec", "matplotlib")
MODEL_BYTES = 1_500_000_000  # resident memory of a worker that has loaded a bundle and segments a case
TASKS_A_THREAD = 2  # one that runs and one that is ready
REFRESH_SECONDS = 5.0
CONNECT_SECONDS = 20
WAIT_SECONDS = 0.05
RESTART_SECONDS = 1800  # for a worker that died to come back; after it Dask has one less, or none, and waits for ever
LOSSES = 10  # deaths of its worker after which Dask gives up a task; the status gives it up earlier

T = TypeVar("T")


@dataclass(frozen=True)
class Engine:
    """Where the cases are done.

    Attributes:
        name: ``local`` or ``dask``.
        scheduler: address of Dask's scheduler, for ``dask``.
        workers: processes, for ``local``.
        threads: of computation in each of them.
        tasks: cases at a time in each of them: two on a GPU, where one is read while the network runs the other.
    """

    name: str = "local"
    scheduler: str | None = None
    workers: int = 1
    threads: int = 1
    tasks: int = 1


def check_packages() -> None:
    """Refuses to go on where a package is missing; imports nothing.

    Raises:
        InputRefused: ``MISSING_PACKAGE``.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputRefused(
            RefusalCode.MISSING_PACKAGE,
            f"a cohort needs {', '.join(missing)}: pip install 'convformer_monai[cluster]'",
        )


def local_workers(workers: int | None, device: str) -> Engine:
    """As many worker processes as this machine bears, one loaded model each.

    Args:
        workers: how many; ``None`` takes one a GPU, or as many as the cores and the memory bear.
        device: of the run.

    Returns:
        The engine; cores that no worker has are shared among the workers.
    """
    _silence()
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    cores = int(CPU_COUNT)
    gpus = _gpus() if device in ("auto", "cuda") else int(device.startswith("cuda"))
    if workers is None:
        workers = gpus or max(1, min(cores, int(MEMORY_LIMIT) // MODEL_BYTES))
    return Engine("local", None, workers, max(1, cores // workers), 2 if gpus else 1)


def _gpus() -> int:
    """GPUs that torch sees; torch is only imported where there may be one."""
    if shutil.which("nvidia-smi") is None:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@contextlib.contextmanager
def opened(engine: Engine) -> Iterator[Client]:
    """Starts or joins a cluster, for as long as the block lasts.

    Args:
        engine: which.

    Yields:
        Its client.

    Raises:
        InputRefused: ``CLUSTER`` if no scheduler answers.
    """
    _silence()
    import dask
    from distributed import Client, LocalCluster

    with dask.config.set(_settings(engine)), _scheduler_lives():
        if engine.name == "dask":
            try:
                client = Client(engine.scheduler, timeout=CONNECT_SECONDS, name="convformer-monai")
            except (OSError, ValueError) as error:
                raise InputRefused(
                    RefusalCode.CLUSTER,
                    f"no Dask scheduler answers at {engine.scheduler}; start one (dask scheduler) or correct it",
                ) from error
            with client:
                yield client
            return
        dashboard = find_spec("bokeh") is not None
        with (
            LocalCluster(
                n_workers=engine.workers,
                threads_per_worker=engine.tasks,
                processes=True,
                dashboard_address="127.0.0.1:8787" if dashboard else "127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster, name="convformer-monai") as client,
        ):
            if dashboard:
                logger.info("dashboard: %s", client.dashboard_link)
            yield client


@contextlib.contextmanager
def _scheduler_lives() -> Iterator[None]:
    """Turns what Dask raises when its scheduler is gone into a refusal."""
    from distributed.comm.core import CommClosedError

    try:
        yield
    except CommClosedError as error:
        raise _gone() from error


def _gone() -> InputRefused:
    return InputRefused(RefusalCode.CLUSTER, "Dask's scheduler went away; the same command goes on")


def _silence() -> None:
    """Keeps Dask's own messages from ours: how its workers come and go is seen on its dashboard."""
    import dask

    quiet = dict.fromkeys(("distributed", "distributed.client", "bokeh", "tornado", "tornado.application"), "critical")
    dask.config.set({"logging": quiet})  # its levels are set when it is imported
    import distributed

    for name in (distributed.__name__, *(name for name in logging.root.manager.loggerDict if "distributed." in name)):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _settings(engine: Engine) -> dict[str, Any]:
    """Settings of Dask: a worker that has too much memory ends; nothing of ours can be spilled to the disk."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": LOSSES,
        "distributed.scheduler.work-stealing": True,
        "distributed.deploy.lost-worker-timeout": RESTART_SECONDS,  # its own, 15 s, is too short on a busy machine
        "distributed.worker.preload": ["convformer_monai.cohort.preload"],
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
        "distributed.nanny.pre-spawn-environ": {
            **dict.fromkeys(names, engine.threads),
            "MALLOC_TRIM_THRESHOLD_": 65536,
        },
        "distributed.comm.timeouts.connect": CONNECT_SECONDS,
    }


class Stop:
    """SIGINT and SIGTERM end a run in good order: cases that have begun are done, no other begins.

    A second signal ends it at once. Use as a context; elsewhere than in the main thread it does nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        import signal

        with contextlib.suppress(ValueError):  # not the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        import signal

        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        os.write(2, b"\nstopping: the cases that have begun are done; stop again to leave them\n")


def stream(
    client: Client, call: Callable[[T], Any], pending: deque[T], stop: Stop | None = None
) -> Iterator[tuple[T, Future[Any]]]:
    """Runs a function on many items, a bounded number at a time.

    Args:
        client: of the cluster.
        call: takes an item; it and its result are pickled.
        pending: the items; those that are added while this runs are run, too.
        stop: when it is asked for, no further item begins.

    Yields:
        Each item with its ended future, in the order in which they end. A future that is cancelled has not been run.

    Raises:
        InputRefused: ``CLUSTER`` if the scheduler went away.
    """
    from distributed import as_completed

    flying: dict[Any, T] = {}
    ended = as_completed(loop=client.loop)
    window = _Window(client)
    stopping = False
    while pending or flying:
        if stop is not None and stop.asked and not stopping:
            stopping = True
            _cancel_waiting(client, list(ended.futures))
        while pending and not stopping and len(flying) < window.size():
            item = pending.popleft()
            future = client.submit(call, item, key=f"case-{uuid.uuid4().hex}", pure=False)
            flying[future.key] = item
            ended.add(future)
        if not flying:
            return
        done = _next(client, ended, stop, stopping)
        if done is not None:
            yield flying.pop(done.key), done


def _next(client: Client, ended: Any, stop: Stop | None, stopping: bool) -> Future[Any] | None:
    """The next future that has ended; ``None`` when a stop is asked for meanwhile."""
    while True:
        if client.status not in ("running", "connecting") or client.scheduler is None:
            raise _gone()
        if stop is not None and stop.asked and not stopping:
            return None
        if not ended.queue.empty():
            future: Future[Any] = next(ended)
            return future
        with ended.thread_condition:
            ended.thread_condition.wait(timeout=WAIT_SECONDS)


def _cancel_waiting(client: Client, futures: list[Future[Any]]) -> None:
    """Cancels what no worker has begun."""
    running = {key for keys in client.processing().values() for key in keys}
    client.cancel([future for future in futures if future.key not in running], force=True)


class _Window:
    """How many tasks may be with the scheduler: a few for each thread of its workers, which come and go."""

    def __init__(self, client: Client) -> None:
        self._client, self._size, self._until = client, 0, 0.0

    def size(self) -> int:
        if time.monotonic() >= self._until:
            self._until = time.monotonic() + REFRESH_SECONDS
            threads = sum(self._client.nthreads().values())
            self._size = max(self._size if not threads else 0, TASKS_A_THREAD * threads, 1)
        return self._size
