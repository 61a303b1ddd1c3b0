"""The task that MONAI Label runs for a first mask: strict reading, the bundle as it is, the version of the weights."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list, name_to_device

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.label_app.masks_out import DEFAULT_EXTENSIONS, check_extension, write_for_viewer
from convformer_monai.label_app.options import LabelOptions
from convformer_monai.label_app.versions import Version
from convformer_monai.segmenter import Segmenter

__all__ = ["SegmentTask"]

logger = logging.getLogger(__name__)


class SegmentTask(InferTask):  # type: ignore[misc]
    """Segments with a bundle.

    Args:
        options: of the server.
    """

    def __init__(self, options: LabelOptions) -> None:
        super().__init__(
            type=InferType.SEGMENTATION,
            labels={label.name: label.index for label in options.labels},
            dimension=2 if options.is_photo else 3,
            description=str(options.bundle.metadata["description"]),
            config={"device": device_list()},
        )
        self.options = options
        self.colours = {label.name: list(label.colour) for label in options.labels}
        self._loaded: dict[tuple[int, str], Segmenter] = {}
        self._lock = threading.Lock()

    def is_valid(self) -> bool:
        """Whether viewers may use it."""
        return True

    def info(self) -> dict[str, Any]:
        """What viewers see, with the colours of the structures and the version of the weights."""
        version = self.options.versions.current.number
        return {**super().info(), "label_colors": self.colours, "weights_version": version}

    def get_path(self, validate: bool = True) -> str:
        """The weights in use."""
        versions = self.options.versions
        return str(versions.weights(versions.current) or self.options.bundle.weights)

    def segmenter(self, version: Version, device: str) -> Segmenter:
        """The bundle with a version of the weights, loaded once."""
        key = (version.number, device)
        with self._lock:
            if key not in self._loaded:
                self._loaded = {}  # what is no longer in use makes room
                self._loaded[key] = Segmenter(
                    self.options.bundle, device, weights=self.options.versions.weights(version)
                )
            return self._loaded[key]

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segments an image.

        Args:
            request: ``image`` (a path); ``result_extension``, ``phase`` and ``device`` as options. The phase is counted
                from 0; without it all are segmented, or as NRRD, in which viewers want one volume, the first.

        Returns:
            The mask's file, in the folder for temporary files, and what is sent with it.

        Raises:
            InputRefused: if the image or a wish cannot be met.
        """
        started = time.perf_counter()
        is_photo = self.options.is_photo
        extension = check_extension(request.get("result_extension") or DEFAULT_EXTENSIONS[is_photo], is_photo)
        phase = _phase(request.get("phase"), 0 if extension.endswith(".nrrd") else "all")
        requested = request.get("device")
        version = self.options.versions.current
        segmenter = self.segmenter(version, name_to_device(requested) if requested else self.options.device)
        series = segmenter.read(request["image"], phase=phase)
        read = time.perf_counter()
        with self._lock:
            result = segmenter.run(series)
        file = Path(tempfile.NamedTemporaryFile(suffix=f"-mask{extension}").name)
        write_for_viewer(file, result.labels.numpy(), series, self.options.labels)
        seconds = {"read": read - started, **result.seconds, "total": time.perf_counter() - started}
        reply = {
            "label_names": self.labels,
            "label_colors": self.colours,
            "latencies": {name: round(value, 2) for name, value in seconds.items()},
            "weights_version": version.number,
            "weights_sha256": segmenter.weights_sha256,
            "warnings": [*series.warnings, *result.notes],
            "centroids": {},  # OHIF reads it
        }
        return str(file), reply


def _phase(requested: Any, otherwise: int | str) -> int | str:
    if requested in (None, ""):
        return otherwise
    if requested == "all":
        return "all"
    if isinstance(requested, bool) or not str(requested).isdigit():
        raise InputRefused(RefusalCode.OPTION, f"phase must be a number from 0, or all, got {requested!r}")
    return int(requested)
