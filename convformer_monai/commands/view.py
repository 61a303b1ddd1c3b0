"""``convformer-monai view``: a server for a folder of results, and what was decided as files."""

from __future__ import annotations

import logging
import webbrowser
from collections.abc import Callable
from pathlib import Path

from convformer_monai.label_app.scratch import own_temporary_folder
from convformer_monai.outputs.atomic import check_writable, write_text
from convformer_monai.review.cases import find_results
from convformer_monai.review.export import export_datalist
from convformer_monai.review.server import ReviewServer
from convformer_monai.review.standing import standing
from convformer_monai.review.store import Store, to_csv

__all__ = ["export_review", "serve_review"]

logger = logging.getLogger(__name__)


def serve_review(
    results: Path, images: Path | None, port: int, say: Callable[[str], object], open_browser: bool = False
) -> None:
    """Serves a folder of results until the user stops it.

    Args:
        results: the folder.
        images: the folder that was segmented, or ``None``.
        port: 0 for any that is free.
        say: called with the address, once it can be opened.
        open_browser: also open it.

    Raises:
        InputRefused: see :class:`convformer_monai.review.server.ReviewServer`.
    """
    with own_temporary_folder(), ReviewServer(results, images, port) as server:
        say(server.address)
        logger.info("%d case%s; Ctrl-C stops the server", len(server.cases), "s" * (len(server.cases) != 1))
        if open_browser:
            webbrowser.open(server.address_with(server.access.ticket()))
        server.serve_forever()


def export_review(results: Path, images: Path | None, folder: Path) -> None:
    """Writes ``decisions.csv`` and, if the images are known, ``datalist.json`` with images and labels.

    Args:
        results: the folder that was reviewed.
        images: the folder that was segmented, or ``None``.
        folder: where to; made if missing.

    Raises:
        InputRefused: see :func:`convformer_monai.review.export.export_datalist`.
    """
    cases = find_results(results)
    decisions = standing(cases, Store(results))
    check_writable(folder, "give another --export")
    write_text(folder / "decisions.csv", to_csv(cases, decisions), overwrite=True)
    logger.info("wrote %s", folder / "decisions.csv")
    if images is not None:
        counts = export_datalist(cases, decisions, images, folder)
        logger.info("wrote %s: %d to train, %d to validate", folder / "datalist.json", counts["train"], counts["val"])
