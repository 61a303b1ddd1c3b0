"""The node: its parts, each in a thread of its own, from the start to an orderly end."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.locks import try_lock
from convformer_monai.outputs.atomic import check_writable
from convformer_monai.serve.commitment import Commitment
from convformer_monai.serve.config import NodeConfig
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.dead import DeadLetters
from convformer_monai.serve.intake import Intake
from convformer_monai.serve.janitor import clean_up, remove_orphans
from convformer_monai.serve.listener import CLASSES, Listener
from convformer_monai.serve.pages import pages_of
from convformer_monai.serve.polling import Poller
from convformer_monai.serve.router import Router
from convformer_monai.serve.senders import Sender, deliver_to
from convformer_monai.serve.state import ENDED_EACH_TIME, State
from convformer_monai.serve.web import Web
from convformer_monai.serve.worker import Worker

if TYPE_CHECKING:
    from convformer_monai.segmenter import Segmenter

__all__ = ["Node", "load_segmenters", "owned"]

logger = logging.getLogger(__name__)

STATE, LOCK = "state.sqlite", "node.lock"
LOOK_S = 0.2  # between two looks into a queue that was empty
CLEAN_S = 60.0
PAUSE_S = 5.0  # after a fault of a thread, as of a full disk


def load_segmenters(config: NodeConfig) -> dict[str, Segmenter]:
    """Loads each bundle of the rules, once.

    Args:
        config: rules, device and threads.

    Raises:
        InputRefused: if a bundle, its weights or the device cannot be used.
    """
    from convformer_monai.segmenter import Segmenter

    if config.threads:
        import torch

        torch.set_num_threads(config.threads)
    loaded: dict[str, Segmenter] = {}
    for rule in config.rules:
        if rule.bundle not in loaded:
            logger.info("loading %s", rule.bundle)
            loaded[rule.bundle] = Segmenter(rule.bundle, config.device)
    return loaded


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Holds a node's folder for as long as the block lasts.

    Raises:
        InputRefused: ``NODE`` if another node has it, ``CANNOT_WRITE`` if nothing can be written there.
    """
    check_writable(folder, "give another folder")
    with contextlib.suppress(OSError):  # a volume of somebody else's
        folder.chmod(0o700)  # it holds images of patients
    file: BinaryIO
    with open(folder / LOCK, "ab") as file:
        if try_lock(file) is False:
            raise InputRefused(RefusalCode.NODE, f"{folder} is in use by another node; give each a folder of its own")
        yield


class Node:
    """All parts; made by whoever holds the folder (:func:`owned`).

    Args:
        config: of everything.
        segmenters: by bundle; see :func:`load_segmenters`.

    Raises:
        InputRefused: ``NODE`` if a port cannot be had, or the memory cannot be opened.
    """

    def __init__(self, config: NodeConfig, segmenters: Mapping[str, Segmenter]) -> None:
        self.config, self.counts = config, Counts()
        try:
            self.state = State(config.folder / STATE)
        except sqlite3.Error as error:
            raise InputRefused(
                RefusalCode.NODE, f"{config.folder / STATE} cannot be opened: {error}; move it away, or use its version"
            ) from error
        self.dead = DeadLetters(config.folder)
        self.intake = Intake(config.folder, self.state, config.limits, CLASSES, self.counts)
        self.commitment = Commitment(config, self.state, self.intake.classes, self.counts)
        made_by = {name: (one.bundle.name, one.bundle.version, one.weights_sha256) for name, one in segmenters.items()}
        self.router = Router(config, self.state, made_by, self.counts)
        self.worker = Worker(config, self.state, segmenters, self.counts, self.dead)
        self.senders = [
            Sender(to, config.folder, self.state, self.counts, self.dead, deliver_to(to, config.limits.network_s))
            for to in config.destinations.values()
        ]
        self._stop = threading.Event()
        self.pollers = [
            Poller(source, self.state, self.intake, config.limits, self.counts, self._stop.is_set)
            for source in config.sources
        ]
        self.listener = Listener(config, self.intake, self.commitment, self.counts)
        self.web = Web(config.web, pages_of(self)) if config.web else None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Takes up what was left, and begins."""
        for job in self.state.recover(self.config.attempts):
            self.dead.keep(f"job-{job.id:08d}", {"job": job.id, "rule": job.rule, "reason": ENDED_EACH_TIME}, [])
            logger.error("job %d is given up: %s", job.id, ENDED_EACH_TIME)
        given_up = self.state.give_up_others(self.config.destinations)
        if given_up:
            logger.warning("%d files waited for destinations that the configuration has no more: given up", given_up)
        remove_orphans(self.config.folder, self.state)
        self._loop("router", lambda: self.router.route_all() > 0, LOOK_S)
        self._loop("worker", self.worker.run_one, LOOK_S)
        for sender in self.senders:
            self._loop(f"sender {sender.destination.name}", sender.run_one, LOOK_S)
        self._loop("commitment", self.commitment.report_one, LOOK_S)
        for poller in self.pollers:
            self._loop(f"source {poller.source.name}", partial(_ask, poller), poller.source.every_s)
        self._loop("janitor", self._clean, CLEAN_S)
        self.listener.start()
        if self.web is not None:
            self.web.start()
        where = f", pages on port {self.web.port}" if self.web is not None else ""
        logger.info("%s listens on port %d%s", self.config.ae, self.listener.port, where)

    def _clean(self) -> bool:
        clean_up(self.config, self.state, self.dead)
        return False

    def _loop(self, name: str, step: Callable[[], bool], pause_s: float) -> None:
        """Repeats a step in a thread, at once while there is something to do; no fault ends it."""

        def run() -> None:
            while not self._stop.is_set():
                try:
                    busy, pause = step(), pause_s
                except Exception as error:  # as of a full disk: what the state says, is still to do
                    logger.error("%s: %s; going on", name, type(error).__name__)
                    self.counts.add("faults", name.partition(" ")[0])
                    busy, pause = False, PAUSE_S
                if not busy:
                    self._stop.wait(pause)

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Takes nothing more, ends what is under way, and leaves the rest for the next start."""
        logger.info("stopping")
        self._stop.set()
        self.commitment.stop()
        end = time.monotonic() + self.config.stop_s
        self.listener.stop(min(self.config.stop_s, self.config.limits.network_s))
        for thread in self._threads:
            thread.join(max(0.1, end - time.monotonic()))
        with self.worker.lock:
            number = self.worker.working_on
            if number is not None:  # it takes longer: done again from its beginning
                self.state.put_back(number, 0.0, counts=False)
        if self.web is not None:
            self.web.stop()
        for sender in self.senders:
            sender.deliver.close()
        logger.info("stopped")

    def sick(self) -> list[str]:
        """What a restart might heal."""
        ended = [thread.name for thread in self._threads if not thread.is_alive()]
        ended += [] if self.listener.is_alive else ["listener"]
        return [f"{name} has ended" for name in ended]

    def not_ready(self) -> list[str]:
        """Why studies are not taken, or not done."""
        reasons = self.sick()
        if self._stop.is_set():
            reasons.append("stopping")
        if not self.intake.has_space():
            reasons.append("the disk is below its watermark")
        return reasons

    def free_bytes(self) -> int:
        """Free space of the folder."""
        return shutil.disk_usage(self.config.folder).free


def _ask(poller: Poller) -> bool:
    """Asks once; the next question is always after a pause."""
    poller.ask()
    return False
