"""A bundle's network for other programs: TorchScript, torch.export and ONNX, each checked against the original."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from convformer_monai.bundle import Bundle
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs.atomic import write_atomically

__all__ = ["export_network"]

logger = logging.getLogger(__name__)

RTOL = 1e-3  # of the largest logit
NEEDED = {".onnx": ("onnx", "onnxscript", "onnxruntime")}
SIZE = 256  # the plane of the exported graph; the batch is free
OPSET = 18


def export_network(bundle: str | Path, path: Path, *, overwrite: bool = False) -> float:
    """Writes the network of a bundle with its weights.

    The graph takes any number of slices; ``.ts`` also any height and width, the others 256 x 256.

    Args:
        bundle: see :class:`convformer_monai.bundle.Bundle`.
        path: file to write; its ending chooses the format: ``.ts`` TorchScript, ``.pt2`` torch.export, ``.onnx`` ONNX.
        overwrite: replace a file that exists.

    Returns:
        The largest difference between the logits of the written file, read again, and those of the network, as a
        fraction of the largest logit.

    Raises:
        InputRefused: if the bundle, the ending or the place cannot be used, or a package is not installed;
            ``CANNOT_WRITE``, and nothing is left, if the file that was written computes something else.
    """
    from convformer_monai.segmenter import Segmenter

    formats: dict[str, tuple[Callable[[nn.Module, Tensor, Path], None], Callable[[Path, Tensor], Tensor]]] = {
        ".ts": (_write_torchscript, _run_torchscript),
        ".pt2": (_write_pt2, _run_pt2),
        ".onnx": (_write_onnx, _run_onnx),
    }
    if path.suffix.lower() not in formats:
        raise InputRefused(
            RefusalCode.EXPORT_FORMAT, f"{path.name} must end in {', '.join(formats)}, which names the format"
        )
    if not path.parent.is_dir():
        raise InputRefused(RefusalCode.FOLDER_NOT_FOUND, f"there is no folder {path.parent}; make it first")
    for package in NEEDED.get(path.suffix.lower(), ()):
        if find_spec(package) is None:
            raise InputRefused(
                RefusalCode.MISSING_PACKAGE, f"{path.suffix} needs {package}: pip install 'convformer_monai[export]'"
            )
    write, run = formats[path.suffix.lower()]
    segmenter = Segmenter(Bundle(bundle), "cpu")
    network = segmenter.network
    channels = segmenter.bundle.channels
    example = torch.randn(2, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    more = torch.randn(3, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    worst = 0.0

    def check(written: Path) -> bool:
        nonlocal worst
        for batch in (example, more):
            with torch.inference_mode():
                expected = network(batch)
            difference = float((run(written, batch) - expected).abs().max() / expected.abs().max())
            if not difference <= RTOL:  # NaN is not, either
                raise ValueError(f"it computes something else than the network (differs by {difference:.1g})")
            worst = max(worst, difference)
        return True

    with _torch_to_debug():
        write_atomically(path, lambda target: write(network, example, target), check, overwrite=overwrite)
    logger.info("%s: %.1f MB, differs from the network by %.1g of its output", path, path.stat().st_size / 1e6, worst)
    return worst


@contextmanager
def _torch_to_debug() -> Iterator[None]:
    """Sends what torch says on the way to our debug log: it is of its own parts, and nothing a user can act on."""

    def to_debug(record: logging.LogRecord) -> bool:
        logger.debug("%s", record.getMessage())
        return False

    loggers = [logging.getLogger(name) for name in [*logging.root.manager.loggerDict] if name.split(".")[0] == "torch"]
    handlers = {handler for one in loggers for handler in one.handlers}
    for handler in handlers:
        handler.addFilter(to_debug)
    try:
        with warnings.catch_warnings(record=True) as said:
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(to_debug)
    for warning in said:
        logger.debug("%s", warning.message)


def _write_torchscript(network: nn.Module, example: Tensor, path: Path) -> None:
    torch.jit.script(network).save(str(path))


def _run_torchscript(path: Path, batch: Tensor) -> Tensor:
    return torch.jit.load(str(path), map_location="cpu")(batch)  # type: ignore[no-any-return]


def _write_pt2(network: nn.Module, example: Tensor, path: Path) -> None:
    program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    torch.export.save(program, str(path))


def _run_pt2(path: Path, batch: Tensor) -> Tensor:
    return torch.export.load(str(path)).module()(batch)  # type: ignore[no-any-return]


def _write_onnx(network: nn.Module, example: Tensor, path: Path) -> None:
    torch.onnx.export(
        network,
        (example,),
        str(path),
        input_names=["image"],
        output_names=["pred"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        opset_version=OPSET,
        external_data=False,
        dynamo=True,
        verbose=False,
    )


def _run_onnx(path: Path, batch: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"image": batch.numpy()})[0])
