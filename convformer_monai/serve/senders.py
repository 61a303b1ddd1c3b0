"""Results go to their destinations, again and again until these have stored them, or will never."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import Protocol

from convformer_monai.serve.config import Destination
from convformer_monai.serve.counts import Counts
from convformer_monai.serve.dead import DeadLetters
from convformer_monai.serve.records import Delivery
from convformer_monai.serve.state import State

__all__ = ["CannotDeliver", "Deliver", "Sender", "deliver_to"]

logger = logging.getLogger(__name__)

MOST_DOUBLINGS = 30


class CannotDeliver(Exception):
    """A destination did not take a file.

    Args:
        reason: one line, without any value of the file.
        for_good: whether another try cannot help.
    """

    def __init__(self, reason: str, *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.for_good = reason, for_good


class Deliver(Protocol):
    """Brings files to one destination."""

    def __call__(self, path: Path) -> None:
        """Brings one file.

        Raises:
            CannotDeliver: if it is not stored there.
        """

    def close(self) -> None:
        """Ends what is kept open between two files."""


def deliver_to(destination: Destination, network_s: float) -> Deliver:
    """What brings files to a destination.

    Args:
        destination: of any kind.
        network_s: wait for an answer.
    """
    if destination.kind == "dicom":
        from convformer_monai.serve.deliver_dicom import DicomDelivery

        return DicomDelivery(destination, network_s)
    if destination.kind == "stow":
        from convformer_monai.serve.deliver_web import StowDelivery

        return StowDelivery(destination, network_s)
    from convformer_monai.serve.deliver_folder import FolderDelivery

    return FolderDelivery(destination)


class Sender:
    """All that goes to one destination.

    While it takes nothing, one file after the other is tried, with ever longer pauses; once it takes one, all others
    follow at once.

    Args:
        destination: where to.
        folder: of the node.
        state: what is to be sent.
        counts: gets what was sent.
        dead: gets what will never be stored.
        deliver: brings a file.
    """

    def __init__(
        self,
        destination: Destination,
        folder: Path,
        state: State,
        counts: Counts,
        dead: DeadLetters,
        deliver: Deliver,
    ) -> None:
        self.destination, self.folder, self.state, self.counts = destination, folder, state, counts
        self.dead, self.deliver = dead, deliver
        self.failures, self.paused_until, self.began = 0, 0.0, time.time()

    @property
    def reachable(self) -> bool:
        """Whether the last try succeeded."""
        return self.failures == 0

    def run_one(self) -> bool:
        """Sends the next file that is due.

        Returns:
            Whether there was one.
        """
        paused = time.monotonic() < self.paused_until
        delivery = None if paused else self.state.next_delivery(self.destination.name)
        if delivery is None:
            self.deliver.close()
            return False
        try:
            self.deliver(self.folder / delivery.file)
        except CannotDeliver as error:
            self._failed(delivery, error)
        except sqlite3.Error:
            raise
        except Exception as error:  # of a library: tried again as any other
            self._failed(delivery, CannotDeliver(type(error).__name__))
        else:
            self.failures = 0
            self.state.delivered(delivery.id)
            self.counts.add("deliveries", "stored")
        return True

    def _failed(self, delivery: Delivery, error: CannotDeliver) -> None:
        """Waits ever longer between tries, and gives up at last."""
        there = self.destination
        if error.for_good:
            self.failures = 0
        else:
            self.paused_until = time.monotonic() + self._wait(self.failures)
            self.failures += 1
        wait = self._wait(delivery.attempts)
        path = self.folder / delivery.file
        if not os.path.lexists(path):
            error = CannotDeliver("the result is no longer there", for_good=True)
        if not error.for_good and not self._is_too_old(delivery, wait):
            self.state.deliver_again(delivery.id, wait, error.reason)
            self.counts.add("deliveries", "again")
            logger.warning("%s did not store a file of job %d: %s", there.name, delivery.job, error.reason)
            return
        reason = {"job": delivery.job, "destination": there.name, "file": path.name, "reason": error.reason}
        tries = {"attempts": delivery.attempts + 1}
        self.dead.keep(f"delivery-{delivery.id:08d}", {**reason, **tries}, [path])
        self.state.give_up_delivery(delivery.id, error.reason)
        self.counts.add("deliveries", "given up")
        logger.error("%s will not store a file of job %d: %s", there.name, delivery.job, error.reason)

    def _wait(self, failures: int) -> float:
        """Seconds until the next try after so many that failed before."""
        there = self.destination
        return float(min(there.longest_wait_s, there.first_wait_s * 2 ** min(failures, MOST_DOUBLINGS)))

    def _is_too_old(self, delivery: Delivery, wait: float) -> bool:
        first = max(delivery.created, self.began)  # nobody tried while the node was stopped
        return time.time() + wait > first + self.destination.give_up_hours * 3600
