"""A bundle's network in OpenVINO: on a CPU faster than in torch, with the same masks.

OpenVINO compiles a graph for one height and width. So a graph is made for each size of slice when it first comes, which
takes some seconds, and is kept on disk for the next time. OpenVINO simplifies a graph as it saves it, which moves the
last digits of scores. So every graph, a new one too, is taken from its file: masks do not depend on what was kept.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convformer_monai import __version__
from convformer_monai.engines import need_openvino
from convformer_monai.inferers import has_fast_bf16

__all__ = ["CACHE_VARIABLE", "OpenVinoNetwork", "graph_folder"]

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "CONVFORMER_CACHE"
KEPT = 8  # compiled graphs of a process
GRAPH = "graph.xml"  # beside it OpenVINO writes the weights
UNFINISHED = ".graph"  # how folders begin that are not whole yet
DAY = 86_400  # seconds; none is written for so long


def graph_folder() -> Path:
    """Where graphs are kept: ``$CONVFORMER_CACHE``, or ``convformer_monai`` in the user's folder for caches."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convformer_monai"


class OpenVinoNetwork:
    """Calls a 2-D network in OpenVINO on the CPU, in bfloat16 where torch would use it.

    Args:
        network: (N, C, X, Y) to (N, K, X, Y) logits.
        weights_sha256: of its weights, by which graphs on disk are found.
        definition: what else the network follows from, such as the bundle's config: another one has other graphs, and
            so has other code of our networks.

    Raises:
        InputRefused: if OpenVINO is not installed.
    """

    def __init__(self, network: nn.Module, weights_sha256: str, definition: str = "") -> None:
        need_openvino()
        openvino = _openvino()
        self.version = openvino.get_version().split("-")[0]
        self._network = network.eval()
        origin = hashlib.sha256(f"{definition} {_code_sha256()} {torch.__version__}".encode()).hexdigest()
        self._key = f"{weights_sha256[:16]}-{origin[:16]}-{__version__}-openvino{self.version}-float32"
        self._core = openvino.Core()
        self._compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def __call__(self, batch: Tensor) -> Tensor:
        """Class scores (N, K, X, Y) float32 of slices (N, C, X, Y) on the CPU."""
        size = tuple(batch.shape[1:])
        if size not in self._compiled:
            while len(self._compiled) >= KEPT:
                self._compiled.popitem(last=False)
            self._compiled[size] = self._compile(size)
        self._compiled.move_to_end(size)
        found = self._compiled[size]([batch.float().contiguous().numpy()])[0]
        return torch.from_numpy(found.copy())  # the memory is OpenVINO's, which uses it again

    def _compile(self, size: tuple[int, ...]) -> Any:
        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if has_fast_bf16(torch.device("cpu")) else "f32",
        }
        folder = self._folder(size)
        found = self._read(folder, options)
        if found is not None:
            return found
        graph = self._convert(size)
        if folder is not None:
            _keep(graph, folder)
            found = self._read(folder, options)
        if found is None:  # it could not be kept
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
                _save(graph, Path(made))
                found = self._core.compile_model(str(Path(made) / GRAPH), "CPU", options)
        return found

    def _folder(self, size: tuple[int, ...]) -> Path | None:
        """Where the graph of a size is kept; ``None`` for a user without a home."""
        try:
            return graph_folder() / f"{self._key}-{'x'.join(map(str, size))}"
        except RuntimeError:
            return None

    def _read(self, folder: Path | None, options: dict[str, Any]) -> Any | None:
        """Compiles a graph that was kept; ``None`` if there is none that can be read."""
        if folder is None:
            return None
        kept = folder / GRAPH
        try:
            return self._core.compile_model(str(kept), "CPU", options) if kept.is_file() else None
        except (OSError, RuntimeError) as error:  # another user's, or damaged
            logger.debug("%s cannot be read (%s); made anew", kept, error)
            return None

    def _convert(self, size: tuple[int, ...]) -> Any:
        openvino = _openvino()
        logger.info("making the graph of slices of %s for OpenVINO", " x ".join(map(str, size[1:])))
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            shapes = ({0: torch.export.Dim("batch", min=1)},)
            program = torch.export.export(self._network, (torch.zeros(2, *size),), dynamic_shapes=shapes)
            return openvino.convert_model(program)


@functools.cache
def _code_sha256() -> str:
    """Of the code of our networks, which may change within one version in a clone."""
    from convformer_monai import networks

    digest = hashlib.sha256()
    for path in sorted(Path(networks.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _openvino() -> Any:
    """OpenVINO without its telemetry, which by default reports each conversion to its maker."""
    telemetry = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # OpenVINO takes its own stub then
    try:
        import openvino
        import openvino.tools.ovc.convert_impl
    finally:
        if telemetry is None:
            del sys.modules["openvino_telemetry"]
        else:
            sys.modules["openvino_telemetry"] = telemetry
    return openvino


def _keep(graph: Any, folder: Path) -> None:
    """Writes a graph to disk, whole or not at all; where that cannot be done, it is made anew next time."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f"{UNFINISHED}*"):  # by a process that was killed
            if time.time() - left.stat().st_mtime > DAY:
                shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder.parent))
        try:
            _save(graph, made)
            if folder.exists():  # unreadable, or another process was first
                shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except (OSError, RuntimeError) as error:
        logger.debug("%s cannot be kept: %s", folder, error)


def _save(graph: Any, folder: Path) -> None:
    """Writes a graph into an empty folder, with its weights as they are, and flushes it to the disk."""
    _openvino().save_model(graph, folder / GRAPH, compress_to_fp16=False)
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
