"""What training costs as the data grow: preparing, an epoch and memory against cases, from memory and from disk.

Each run is a process of its own: the cardiac bundle's training with its network, loss and augmentation, for some steps.
Runs from disk hold a limit of memory, and begin with none of their files in the operating system's cache.
"""

from __future__ import annotations

import itertools
import logging
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from convformer_monai.benchmarks.files import check_output, drawn
from convformer_monai.benchmarks.interruption import begins_anew
from convformer_monai.benchmarks.measures import exponent
from convformer_monai.benchmarks.processes import in_own_process
from convformer_monai.bundle import Bundle, component
from convformer_monai.datalist import DATALIST
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.measurements.values import csv_of
from convformer_monai.outputs.atomic import write_text

__all__ = ["Growth", "growing_data", "run", "train_some_steps"]

logger = logging.getLogger(__name__)

BUNDLE = "cardiac"
SHAPE, SPACING = (144, 144, 10), (1.5, 1.5, 8.0)  # of a case
FILES = 8  # that differ; the cases are links to them
BATCHES = 50  # read without training
WARM = 2  # steps that do not count
MB = 1e6


@dataclass(frozen=True)
class Growth:
    """One training.

    Attributes:
        cases: that it trains on.
        kept: where prepared images are: ``memory`` or ``disk``.
        arrays_mb: all of them.
        prepare_s: preparing them.
        open_s: opening those that an earlier run prepared; 0 for memory, which prepares again.
        pictures_per_s: at which it trains; the median step.
        of_memory: the rate, of that from memory: the median of pairs of steps that follow each other.
        epoch_s: an epoch, at that rate.
        batch_ms: reading a batch alone, which a step of training hides.
        peak_mb: largest resident memory of a process; that from disk trains from disk alone, within the limit.
    """

    cases: int
    kept: str
    arrays_mb: float
    prepare_s: float
    open_s: float
    pictures_per_s: float
    of_memory: float
    epoch_s: float
    batch_ms: float
    peak_mb: float


def growing_data(folder: Path, count: int) -> None:
    """Writes a datalist of many volumes, links to a few that differ.

    Args:
        folder: is made.
        count: cases.
    """
    import json

    import nibabel as nib

    folder.mkdir(parents=True)
    x, y, _ = np.meshgrid(*(np.arange(side) for side in SHAPE), indexing="ij")
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    entries = []
    for number in range(count):
        name = f"case{number:06}"
        for kind in ("image", "label"):
            path, first = folder / f"{name}_{kind}.nii", folder / f"case{number % FILES:06}_{kind}.nii"
            if number >= FILES:
                os.link(first, path)
                continue
            away = np.hypot(x - 60 - 3 * number, y - 70)
            label = ((away < 30).astype(np.int16) + (away < 20)).astype(np.int16)
            noise = np.random.default_rng(number).integers(0, 60, SHAPE)
            values = label if kind == "label" else (200 * label + noise).astype(np.int16)
            volume = nib.nifti1.Nifti1Image(values, affine)
            volume.header.set_xyzt_units("mm")
            nib.loadsave.save(volume, path)
        entries.append({"id": name, "image": f"{name}_image.nii", "label": f"{name}_label.nii"})
    (folder / DATALIST).write_text(json.dumps({"train": entries, "val": entries[:1]}))


def _limit_memory(limit_mb: int) -> None:
    """What the process itself may allocate, getrlimit(2): neither programs nor files in the cache count."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (limit_mb * 10**6, limit_mb * 10**6))


def _forget(folder: Path) -> None:
    """Takes files out of the operating system's cache."""
    for path in folder.rglob("*.npy"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def train_some_steps(
    data: str, cache_dirs: Sequence[str | None], steps: int, limit_mb: int = 0, **options: Any
) -> list[dict[str, float]]:
    """Trains for some steps in this process, which ends after it, in turn on images that are kept in several ways.

    What else runs on the machine so disturbs all of them alike.

    Args:
        data: folder with a datalist.
        cache_dirs: of prepared images; None for memory.
        steps: of each that count.
        limit_mb: of the process's own memory; 0 for none.
        options: ids of ``train.json``.

    Returns:
        For each the numbers of a :class:`Growth`; ``prepare_s`` is the time to prepare or open, ``of_memory`` is of the
        first, and ``peak_mb`` that of the whole process.

    Raises:
        MemoryError, RuntimeError: the limit is too low.
    """
    import resource

    import torch

    torch.set_num_threads(1)
    if limit_mb:
        _limit_memory(limit_mb)
    given = {"dataset_dir": data, "device": torch.device("cpu"), **options}
    ids = ["network", "loss", "optimizer", "train#augmentation", "train#inferer"]
    parts = component(Bundle(BUNDLE).root, "train", ids, given)
    network, loss, optimizer, augment, infer = (parts[id] for id in ids)
    network.train()
    kept, prepared, seconds = [], [], []
    for cache_dir in cache_dirs:
        start = time.perf_counter()
        kept.append(component(Bundle(BUNDLE).root, "train", "train#batches", {**given, "cache_dir": cache_dir}))
        prepared.append(time.perf_counter() - start)
    endless: list[Iterator[Any]] = [itertools.chain.from_iterable(itertools.repeat(batches)) for batches in kept]
    for batches in itertools.chain(*itertools.repeat(endless, steps + WARM)):
        start = time.perf_counter()
        image, label = augment(next(batches))
        optimizer.zero_grad()
        loss(infer(image, network), label).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB
    results = []
    for number, batches in enumerate(kept):
        dataset, size, read = batches.dataset, batches.batch_size, []
        for indices in torch.randint(len(dataset), (BATCHES, size)):
            start = time.perf_counter()
            dataset[indices]
            read.append(time.perf_counter() - start)
        first, own = (seconds[start :: len(kept)][WARM:] for start in (0, number))
        rate = size / statistics.median(own)
        row = dataset[0]
        results.append(
            {
                "arrays_mb": sum(part.numel() * part.element_size() for part in row.values()) * len(dataset) / MB,
                "prepare_s": prepared[number],
                "pictures_per_s": rate,
                "of_memory": statistics.median(one / other for one, other in zip(first, own, strict=True)),
                "epoch_s": len(dataset) / rate,
                "batch_ms": statistics.median(read) * 1000,
                "peak_mb": peak,
            }
        )
    return results


def _measure(folder: Path, count: int, steps: int, repeats: int, limit_mb: int) -> tuple[Growth, Growth]:
    """Trains on so many cases from disk alone, within the limit, and from memory and disk in turn; medians."""
    data, cache = str(folder / f"data{count}"), str(folder / f"cache{count}")
    growing_data(Path(data), count)
    limited = []
    try:
        for _ in range(2):  # prepared, then opened
            limited += in_own_process(train_some_steps, data, [cache], steps, limit_mb)
            _forget(Path(cache))
    except RuntimeError as error:
        what = f"training on {count} cases from disk does not fit into --limit {limit_mb} MB"
        raise InputRefused(RefusalCode.OUT_OF_MEMORY, f"{what}, or failed: {error}") from error
    runs = []
    for _ in range(repeats):
        runs.append(in_own_process(train_some_steps, data, [None, cache], steps))
        _forget(Path(cache))
    memory, disk = (
        {key: statistics.median(run[number][key] for run in runs) for key in runs[0][number]} for number in range(2)
    )
    disk |= {"prepare_s": limited[0]["prepare_s"], "peak_mb": max(run["peak_mb"] for run in limited)}
    return (
        Growth(count, "memory", open_s=0.0, **memory),
        Growth(count, "disk", open_s=limited[1]["prepare_s"], **disk),
    )


def _slope(rows: Sequence[Growth], name: str) -> str:
    value = exponent([row.cases for row in rows], [getattr(row, name) for row in rows])
    return f"{round(value, 2) + 0.0:.2f}"  # never -0.00


@begins_anew()
def run(counts: Sequence[int], steps: int, repeats: int, limit_mb: int, output: Path | None) -> str:
    """Measures and draws how cost grows with the number of cases.

    Args:
        counts: cases, one set each.
        steps: of each training.
        repeats: of the trainings in turn, of which the median counts.
        limit_mb: of the memory of trainings from disk.
        output: name of the files ``.csv`` and ``.svg``, which are replaced; ``None`` writes none.

    Returns:
        A table, and the slopes.

    Raises:
        InputRefused: this is not Linux, matplotlib is missing, the files cannot be written, or the limit is too low.
    """
    if sys.platform != "linux":
        raise InputRefused(RefusalCode.OPTION, "benchmark training limits memory as only Linux does")
    if output is not None:
        check_output(output, ".csv", ".svg")
    rows: list[Growth] = []
    with TemporaryDirectory(prefix="convformer-benchmark-") as folder:
        for count in counts:
            rows += _measure(Path(folder), count, steps, repeats, limit_mb)
            for row in rows[-2:]:
                logger.info("%s", ", ".join(f"{name} {value}" for name, value in asdict(row).items()))
    if output is not None:
        cells = [{key: round(v, 3) if isinstance(v, float) else v for key, v in asdict(row).items()} for row in rows]
        write_text(output.with_name(f"{output.name}.csv"), csv_of(cells), overwrite=True)
        _plot(rows, limit_mb, output.with_name(f"{output.name}.svg"))
    return _table(rows) + "\n" + _slopes(rows)


def _kept(rows: Sequence[Growth], kept: str) -> list[Growth]:
    return [row for row in rows if row.kept == kept]


def _table(rows: Sequence[Growth]) -> str:
    names = [field.name for field in fields(Growth)]
    lines = [f"| {' | '.join(names)} |", "|" + "---:|" * len(names)]
    for row in rows:
        cells = [f"{value:,.3g}" if isinstance(value, float) else str(value) for value in asdict(row).values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _slopes(rows: Sequence[Growth]) -> str:
    lines = []
    disk = _kept(rows, "disk")
    lines.append(f"rate from disk / from memory: {', '.join(f'{row.of_memory:.3f}' for row in disk)}")
    if len(disk) > 1:
        for kept in ("memory", "disk"):
            some = _kept(rows, kept)
            names = ("prepare_s", "epoch_s", "peak_mb")
            lines.append(f"slopes from {kept}: " + ", ".join(f"{name} {_slope(some, name)}" for name in names))
            each = np.polyfit([row.cases for row in some], [row.peak_mb for row in some], 1)[0]
            lines.append(f"peak memory from {kept}: {each:.3f} MB more a case")
    return "\n".join(lines) + "\n"


def _plot(rows: Sequence[Growth], limit_mb: int, path: Path) -> None:
    """Preparing, an epoch and memory against the number of cases."""
    panels = (("prepare_s", "prepare, s"), ("epoch_s", "an epoch, s"), ("peak_mb", "peak memory, MB"))
    with drawn(path, "training", (9, 3), 9) as figure:
        for axes, (name, label) in zip(figure.subplots(1, 3), panels, strict=True):
            for kept, marker in (("memory", "o"), ("disk", "s")):
                some = _kept(rows, kept)
                grows = f", slope {_slope(some, name)}" if len(some) > 1 else ""
                values = [getattr(row, name) for row in some]
                axes.plot([row.cases for row in some], values, marker=marker, label=f"{kept}{grows}")
            if name == "peak_mb":
                axes.plot([row.cases for row in some], [row.arrays_mb for row in some], ":", label="prepared images")
                axes.axhline(limit_mb, color="grey", linestyle="--", label="limit of runs from disk")
            axes.set(xscale="log", yscale="log", xlabel="cases", ylabel=label)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7)
