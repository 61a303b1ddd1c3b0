"""A bundle's network in torch, ONNX Runtime and OpenVINO: time of a batch, in turn, and whether the masks are equal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convformer_monai.benchmarks.machine import version_of
from convformer_monai.benchmarks.measures import median_seconds
from convformer_monai.benchmarks.processes import in_own_process
from convformer_monai.export import SIZE, export_network
from convformer_monai.inferers import has_fast_bf16
from convformer_monai.measurements.overlap import dice
from convformer_monai.segmenter import Segmenter

__all__ = ["AS_USED", "engines"]

AS_USED, FLOAT32 = "torch, as segment runs it", "torch, float32"
BATCH = 8
PACKAGES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}


def engines(bundle: str, image: Path, repeats: int) -> list[dict[str, Any]]:
    """Measures each engine that is installed.

    Args:
        bundle: short name; its network takes the image's channels as they are.
        image: a volume or a photograph; its middle slices, made 256 x 256, are what is segmented.
        repeats: of a batch, of which the median is given.

    Returns:
        A row for each engine: name, milliseconds a slice, speed relative to :data:`AS_USED`, Dice of the mask with
        that of :data:`AS_USED`, of the class for which it is lowest; of one that is not installed, why there are none.
    """
    return in_own_process(_engines, bundle, image, repeats)


def _engines(bundle: str, image: Path, repeats: int) -> list[dict[str, Any]]:
    segmenter = Segmenter(bundle, "cpu")
    batch = _batch(segmenter, image)
    missing = [name for name, package in PACKAGES.items() if version_of(package) is None]
    calls: dict[str, Callable[[], Tensor]] = {
        AS_USED: partial(_torch, segmenter.network, batch, has_fast_bf16(batch.device)),
        FLOAT32: partial(_torch, segmenter.network, batch, False),
    }
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        if len(missing) < len(PACKAGES):
            export_network(bundle, path)
        calls |= {name: _SESSIONS[name](path, batch) for name in PACKAGES if name not in missing}
        with torch.inference_mode():
            masks = {name: call().argmax(1).numpy() for name, call in calls.items()}
            times = median_seconds(calls, repeats)
    rows: list[dict[str, Any]] = [
        {
            "engine": name if name not in PACKAGES else f"{name} {version_of(PACKAGES[name])}",
            "milliseconds": 1000 * seconds / len(batch),
            "speed": times[AS_USED] / seconds,
            "dice": _lowest_dice(masks[name], masks[AS_USED]),
        }
        for name, seconds in times.items()
    ]
    return rows + [{"engine": name, "failure": "not installed"} for name in missing]


def _lowest_dice(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """The lowest Dice of all classes that either label map holds, but for the background; 1 if both are empty."""
    classes = np.union1d(first, second)
    return min((dice(first == one, second == one) for one in classes[classes > 0]), default=1.0)


def _batch(segmenter: Segmenter, image: Path) -> Tensor:
    """Slices as the network gets them: (N, C, 256, 256)."""
    prepared = segmenter.prepare(segmenter.read(image)).as_tensor()
    channels = segmenter.bundle.channels
    if prepared.ndim == 3:  # (C, X, Y)
        batch = prepared[None].expand(BATCH, -1, -1, -1)
    else:
        middle = prepared.shape[-1] // 2
        slices = prepared[0, :, :, max(0, middle - BATCH // 2) : middle + BATCH // 2]
        batch = slices.permute(2, 0, 1)[:, None].expand(-1, channels, -1, -1)
    return torch.nn.functional.interpolate(batch.float(), size=(SIZE, SIZE), mode="bilinear").contiguous()


def _torch(network: torch.nn.Module, batch: Tensor, amp: bool) -> Tensor:
    given = batch.contiguous(memory_format=torch.channels_last) if amp else batch
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
        scores = network(given)
    return (scores if isinstance(scores, Tensor) else scores[0]).float()


def _onnx_runtime(path: Path, batch: Tensor) -> Callable[[], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: torch.from_numpy(session.run(None, {"image": batch.numpy()})[0])


def _openvino(path: Path, batch: Tensor) -> Callable[[], Tensor]:
    import openvino

    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(str(path), "CPU", options)
    return lambda: torch.from_numpy(model([batch.numpy()])[0])


_SESSIONS: dict[str, Callable[[Path, Tensor], Callable[[], Tensor]]] = {
    "ONNX Runtime": _onnx_runtime,
    "OpenVINO": _openvino,
}
