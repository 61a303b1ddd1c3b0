"""A folder of cases in one process, the bundle loaded: seconds a case, beside those that its network alone takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from convformer_monai.benchmarks.processes import in_own_process
from convformer_monai.cohort.folder import each_case
from convformer_monai.outputs.writer import Options
from convformer_monai.readers.cases import Case
from convformer_monai.segmenter import Segmenter

__all__ = ["warm"]


def warm(bundle: str, images: Sequence[Path], repeats: int) -> dict[str, Any]:
    """Measures a folder as ``segment`` does it, and the network alone on the same images, in turn.

    Args:
        bundle: short name.
        images: cases; names that occur twice get a number.
        repeats: of both, of which the medians are given.
    """
    return in_own_process(_warm, bundle, list(images), repeats)


def _warm(bundle: str, images: Sequence[Path], repeats: int) -> dict[str, Any]:
    segmenter = Segmenter(bundle, "cpu")
    cases = [Case(path, f"case{index:03d}") for index, path in enumerate(images)]
    prepared = [segmenter.prepare(segmenter.read(path)) for path in images]
    folder, network = [], []
    with TemporaryDirectory() as output:
        for repeat in range(repeats + 1):
            start = _clocks()
            results = list(each_case(segmenter, cases, Path(output), Options(overwrite=True), True, set()))
            between = _clocks()
            for image in prepared:
                segmenter.scores(image)
            end = _clocks()
            if any(result.status != "done" for result in results):
                raise RuntimeError(next(result.message for result in results if result.status != "done"))
            if repeat:
                folder.append([b - a for a, b in zip(start, between, strict=True)])
                network.append([b - a for a, b in zip(between, end, strict=True)])

    def each(values: list[list[float]], clock: int) -> float:
        return statistics.median(one[clock] for one in values) / len(cases)

    return {
        "bundle": bundle,
        "cases": len(cases),
        "seconds": each(folder, 0),
        "network_seconds": each(network, 0),
        "ratio": statistics.median(a[0] / b[0] for a, b in zip(folder, network, strict=True)),
        "processor_seconds": each(folder, 1),
        "network_processor_seconds": each(network, 1),
    }


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
