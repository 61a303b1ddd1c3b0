"""``convformer-monai serve``: runs a DICOM node until it is stopped."""

from __future__ import annotations

import logging
import signal
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from convformer_monai.errors import InputRefused, RefusalCode

if TYPE_CHECKING:
    from convformer_monai.serve.config import NodeConfig

__all__ = ["check", "serve"]

logger = logging.getLogger(__name__)

PACKAGES = ("pynetdicom", "yaml", "requests", "highdicom")


def check(path: Path) -> NodeConfig:
    """Reads the configuration; costs no torch.

    Args:
        path: of ``node.yaml``.

    Raises:
        InputRefused: ``MISSING_PACKAGE``; ``CONFIG``, where there are faults.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputRefused(
            RefusalCode.MISSING_PACKAGE,
            f"the DICOM node needs {', '.join(missing)}: pip install 'convformer_monai[node,dicom]'",
        )
    from convformer_monai.serve.config_file import read_config

    return read_config(path)


def serve(config: NodeConfig, *, retry_dead: bool = False) -> None:
    """Runs the node until SIGTERM or SIGINT.

    Args:
        config: of :func:`check`.
        retry_dead: first queue anew what failed for good.

    Raises:
        InputRefused: if it cannot be started.
    """
    from convformer_monai.serve.node import Node, load_segmenters, owned

    threading.excepthook = _one_line
    with owned(config.folder):
        node = Node(config, load_segmenters(config))
        if retry_dead:
            jobs, deliveries = node.state.retry_dead()
            node.dead.clear()
            logger.info("queued anew: %d jobs, %d files", jobs, deliveries)
        ended = threading.Event()
        before = {one: signal.signal(one, lambda *_: ended.set()) for one in (signal.SIGTERM, signal.SIGINT)}
        try:
            node.start()
            while not ended.wait(1.0):
                pass
            node.stop()
            node.state.close()
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def _one_line(what: threading.ExceptHookArgs) -> None:
    """What a thread raised, without its text, which may quote values."""
    name = what.thread.name if what.thread else "a thread"
    logger.error("%s ended by %s", name, what.exc_type.__name__)
