"""Results to a PACS by STOW-RS."""

from __future__ import annotations

from pathlib import Path

from convformer_monai.serve.config import Destination
from convformer_monai.serve.dicomweb import DicomWeb, WebFault
from convformer_monai.serve.senders import CannotDeliver

__all__ = ["StowDelivery"]

FOR_GOOD = (400, 405, 406, 413, 415, 422)  # the same request will be answered so again; 404 is an address


class StowDelivery:
    """Stores files.

    Args:
        destination: of the kind ``stow``.
        network_s: wait for an answer.
    """

    def __init__(self, destination: Destination, network_s: float) -> None:
        self.server = DicomWeb(destination.url, destination.token, destination.tls, network_s)

    def __call__(self, path: Path) -> None:
        """Stores one file.

        Raises:
            CannotDeliver: if it is not stored.
        """
        try:
            self.server.store(path.read_bytes())
        except WebFault as fault:
            raise CannotDeliver(fault.reason, for_good=fault.for_good or fault.status in FOR_GOOD) from None

    def close(self) -> None:
        """The connection stays open for the next file."""
