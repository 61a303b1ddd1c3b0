"""Results to a PACS by C-STORE; one association serves for as long as there is something to send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from convformer_monai.readers.dicom.parsing import silent_pydicom
from convformer_monai.serve.config import Destination
from convformer_monai.serve.senders import CannotDeliver
from convformer_monai.serve.statuses import is_for_good, is_stored
from convformer_monai.serve.tls import client_context

__all__ = ["DicomDelivery"]

RESULT_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.88.22",  # Enhanced SR
    "1.2.840.10008.5.1.4.1.1.88.33",  # Comprehensive SR
    "1.2.840.10008.5.1.4.1.1.88.34",  # Comprehensive 3D SR
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
    "1.2.840.10008.5.1.4.1.1.481.3",  # RT Structure Set
)
NO_CONTEXT = "does not take the SOP class"


class DicomDelivery:
    """Sends files.

    Args:
        destination: of the kind ``dicom``.
        network_s: wait for an answer.
    """

    def __init__(self, destination: Destination, network_s: float) -> None:
        self.destination = destination
        self.entity = AE(destination.calling_ae)
        self.entity.connection_timeout = self.entity.acse_timeout = network_s
        self.entity.dimse_timeout = self.entity.network_timeout = network_s
        self._association: Any = None
        self._classes: tuple[str, ...] = RESULT_CLASSES

    def __call__(self, path: Path) -> None:
        """Sends one file.

        Raises:
            CannotDeliver: if it is not stored.
        """
        with silent_pydicom:
            dataset = dcmread(path)
            self._open(str(dataset.SOPClassUID))
            try:
                status = self._association.send_c_store(dataset)
            except ValueError:
                raise CannotDeliver(NO_CONTEXT, for_good=True) from None
            except RuntimeError:
                raise CannotDeliver("the association ended") from None
        code = status.get("Status")
        if code is None:
            self.close()
            raise CannotDeliver("no answer")
        if not is_stored(code):
            raise CannotDeliver(f"status {code:04X}", for_good=is_for_good(code))

    def _open(self, class_uid: str) -> None:
        """Sees to it that an association is there, and that it knows the class."""
        if class_uid not in self._classes:
            self.close()
            self._classes = (*self._classes, class_uid)
        if self._association is not None and self._association.is_established:
            return
        self.entity.requested_contexts = []
        for one in self._classes:  # apart, so that each file goes as it is: in explicit VR, contours may not fit
            self.entity.add_requested_context(one, ExplicitVRLittleEndian)
            self.entity.add_requested_context(one, ImplicitVRLittleEndian)
        there = self.destination
        tls = None if there.tls is None else (client_context(there.tls), there.host)
        self._association = self.entity.associate(there.host, there.port, ae_title=there.ae, tls_args=tls)
        if self._association.is_established:
            return
        ended, self._association = self._association, None
        if ended.rejected_contexts and not ended.accepted_contexts:
            raise CannotDeliver(NO_CONTEXT, for_good=True)
        raise CannotDeliver("rejects the association" if ended.is_rejected else "cannot be reached")

    def close(self) -> None:
        """Releases the association."""
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._association = None
