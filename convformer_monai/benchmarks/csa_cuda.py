"""CSA's Triton kernels on CUDA: first whether they are right, then what they take beside other ways, in one run.

Right: output and gradients of many shapes, in each dtype, against :class:`CSA` with torch's operations in float64.

Time: of the device, by its own events, of several calls in a row; the ways run in turn. Peak: device memory that one
call takes above its inputs. ``replayed`` is the same call from a CUDA graph, without the time that launching takes.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from convformer_monai.benchmarks.csa import EPS, published_csa, squared_distances
from convformer_monai.benchmarks.interruption import begins_anew
from convformer_monai.networks import CSA
from convformer_monai.networks.blocks import csa_triton
from convformer_monai.networks.blocks.csa_triton import SWITCH, Tile, kernels_take
from convformer_monai.outputs.atomic import write_text

__all__ = ["CHECKS", "KERNEL", "SHORT", "SOFTMAX", "Check", "Table", "check", "run"]

KERNEL, SHORT = "kernel", "kernel, short reach"
TORCH, PUBLISHED, SOFTMAX = "torch operations", "published", "torch softmax (SDPA)"
SHORT_REACH = (0.01, 0.05)  # standard deviations, in fractions of the grid, from head to head
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}  # of the relative error
NAMES = ("output", "dq", "dk", "dv", "dtheta")
# batch, heads, head_dim, grid, fixed unit of distances
CHECKS: tuple[tuple[int, int, int, tuple[int, ...], int | None], ...] = (
    (2, 2, 16, (5, 7), None),
    (1, 3, 5, (1, 9), 4),
    (1, 1, 17, (9, 1), None),
    (2, 5, 32, (28, 28), 28),
    (2, 4, 64, (33, 40), None),
    (1, 8, 64, (64, 64), None),
    (1, 2, 96, (20, 130), 64),
    (1, 2, 128, (31, 45), None),
    (2, 3, 24, (6, 7, 5), None),
    (1, 4, 32, (16, 16, 16), None),
    (1, 2, 64, (9, 20, 33), 16),
)
DTYPES = (torch.bfloat16, torch.float32)  # that are timed
TILES_SIZE = 64  # grid points along an edge
TILES_TO_TRY = (
    Tile(64, 64, 4, 2),
    Tile(64, 64, 4, 3),
    Tile(64, 64, 4, 4),
    Tile(64, 32, 4, 2),
    Tile(64, 32, 4, 3),
    Tile(64, 32, 4, 4),
    Tile(64, 16, 4, 3),
    Tile(128, 64, 8, 2),
    Tile(128, 64, 8, 3),
    Tile(128, 32, 8, 2),
    Tile(128, 32, 8, 3),
    Tile(128, 32, 4, 3),
    Tile(128, 64, 4, 2),
)


@dataclass
class Table:
    """Rows of text under a line of names, shown as they come."""

    title: str
    names: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)

    def line(self, cells: Sequence[str]) -> str:
        """A line of the Markdown table."""
        return (
            "| "
            + " | ".join(f"{cell:>{max(9, len(name))}}" for cell, name in zip(cells, self.names, strict=True))
            + " |"
        )

    def head(self) -> str:
        """What stands above the rows."""
        rule = self.line(["-" * (max(9, len(name)) - 1) + ":" for name in self.names])
        return f"\n{self.title}\n\n{self.line(self.names)}\n{rule}\n"

    def show(self, *cells: str) -> None:
        """Adds a row, and writes it to standard output."""
        if not self.rows:
            sys.stdout.write(self.head())
        self.rows.append(list(cells))
        sys.stdout.write(self.line(cells) + "\n")
        sys.stdout.flush()


@dataclass(frozen=True)
class Check:
    """Relative errors of one shape, those of the output and of the gradients of q, k, v and theta, and their bounds."""

    errors: dict[str, float]
    bounds: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether all are within their bounds; what is not a number is not."""
        return all(self.errors[name] <= bound for name, bound in self.bounds.items())


@contextmanager
def _without_kernels() -> Iterator[None]:
    with patch.dict(os.environ, {SWITCH: "0"}):
        yield


def _relative_error(result: Tensor, truth: Tensor) -> float:
    return float((result.double() - truth).norm() / truth.norm())


def check(
    device: torch.device, dtype: torch.dtype, batch: int, heads: int, dim: int, grid: Sequence[int], unit: int | None
) -> Check:
    """Compares one shape with torch's operations in float64.

    The gradient of theta is one number of very many terms of both signs, so rounding to 16 bits may cost more than the
    bound of the dtype, with torch's operations too. Its bound is then twice their error: both are random.
    """
    torch.manual_seed(0)
    csa = CSA(len(grid), 1, heads, dim, grid_size=unit).to(device)
    q, k, v, weights = torch.randn(4, batch, heads, math.prod(grid), dim, device=device).to(dtype)

    def results() -> list[Tensor]:
        precision = torch.float64 if csa.theta.dtype == torch.float64 else dtype
        a, b, c = (x.to(precision).requires_grad_() for x in (q, k, v))
        z = csa.mix(a, b, c, list(grid))
        return [z.detach(), *torch.autograd.grad(z, [a, b, c, csa.theta], weights.to(precision))]

    found = results()
    with _without_kernels():
        by_torch = results()
        csa.double()
        truth = results()
    errors = {name: _relative_error(x, y) for name, x, y in zip(NAMES, found, truth, strict=True)}
    bounds = dict.fromkeys(NAMES, BOUNDS[dtype])
    bounds["dtheta"] = max(BOUNDS[dtype], 2 * _relative_error(by_torch[-1], truth[-1]))
    return Check(errors, bounds)


def _check_all(device: torch.device) -> tuple[Table, bool]:
    """All shapes in all dtypes, and whether all passed."""
    names = ("dtype", "batch", "heads", "head_dim", "grid", *NAMES, "dtheta bound", "passed")
    table, passed = Table("Relative errors against float64", names), True
    for dtype in BOUNDS:
        for batch, heads, dim, grid, unit in CHECKS:
            sizes = (str(batch), str(heads), str(dim), "x".join(map(str, grid)))
            try:
                done = check(device, dtype, batch, heads, dim, grid, unit)
            except Exception as error:  # the others are checked all the same
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                done = Check(dict.fromkeys(NAMES, math.nan), dict.fromkeys(NAMES, 0.0))
                sys.stderr.write(f"{reason}\n")
            errors = (f"{error:.1e}" for error in done.errors.values())
            table.show(_name(dtype), *sizes, *errors, f"{done.bounds['dtheta']:.1e}", "yes" if done.passed else "NO")
            passed = passed and done.passed
    return table, passed


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class _Case:
    """One size and dtype: random inputs, and each way as a function without argument."""

    def __init__(self, device: torch.device, dtype: torch.dtype, size: int, heads: int, dim: int) -> None:
        torch.manual_seed(0)
        self.device, self.grid = device, [size, size]
        self.csa = CSA(2, 1, heads, dim).to(device)
        self.short = CSA(2, 1, heads, dim, initial_sigma=SHORT_REACH).to(device)
        self.q, self.k, self.v, self.weights = torch.randn(4, 1, heads, size * size, dim, device=device).to(dtype)
        for x in (self.q, self.k, self.v):
            x.requires_grad_()

    def outputs(self) -> dict[str, Callable[[], Tensor]]:
        """What the ways compute, theta of the published one taken along."""
        squared: list[Tensor] = []

        def published() -> Tensor:
            if not squared:  # the published code makes them once
                squared.append(squared_distances(self.grid, self.q.detach()))
            return published_csa(self.q, self.k, self.v, self.csa.sigma().to(self.q.dtype), squared[0])

        def torch_operations() -> Tensor:
            with _without_kernels():
                return self.csa.mix(self.q, self.k, self.v, self.grid)

        return {
            KERNEL: lambda: self.csa.mix(self.q, self.k, self.v, self.grid),
            SHORT: lambda: self.short.mix(self.q, self.k, self.v, self.grid),
            TORCH: torch_operations,
            PUBLISHED: published,
            SOFTMAX: lambda: F.scaled_dot_product_attention(self.q, self.k, self.v),
        }

    def inference(self) -> dict[str, Callable[[], object]]:
        """Forward passes without gradients."""

        def without_gradients(output: Callable[[], Tensor]) -> Callable[[], object]:
            def call() -> Tensor:
                with torch.inference_mode():
                    return output()

            return call

        return {name: without_gradients(output) for name, output in self.outputs().items()}

    def training(self) -> dict[str, Callable[[], object]]:
        """Forward and backward passes."""
        thetas = {SHORT: [self.short.theta], SOFTMAX: []}

        def with_gradients(name: str, output: Callable[[], Tensor]) -> Callable[[], object]:
            leaves = [self.q, self.k, self.v, *thetas.get(name, [self.csa.theta])]
            return lambda: torch.autograd.grad(output(), leaves, self.weights)

        return {name: with_gradients(name, output) for name, output in self.outputs().items()}

    @torch.inference_mode()
    def truth(self) -> Tensor:
        """The published formulation in float64, one head and some queries at a time."""
        tokens, sigma = self.q.shape[2], self.csa.sigma().double()
        squared = squared_distances(self.grid, self.q.double())
        q, k, v = (x.double() for x in (self.q, self.k, self.v))
        a = torch.sqrt(q.square().sum(-1, keepdim=True) + EPS)
        b = torch.sqrt(k.square().sum(-1, keepdim=True) + EPS)
        z = torch.empty_like(v)
        for head in range(q.shape[1]):
            for start in range(0, tokens, 2048):
                some = slice(start, start + 2048)
                weight = torch.exp(-squared[some] / (2 * sigma[head] ** 2))
                weight /= weight.sum(-1, keepdim=True)
                cosine = q[0, head, some] @ k[0, head].T / (a[0, head, some] @ b[0, head].T + EPS)
                z[0, head, some] = (cosine * weight) @ v[0, head]
        return z


class _Clock:
    """Times and memory on a device; on the CPU, where the script is tried, by the ordinary clock."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        self.cuda = device.type == "cuda"

    def _seconds(self, call: Callable[[], object], times: int) -> float:
        if not self.cuda:
            start = time.perf_counter()
            for _ in range(times):
                call()
            return (time.perf_counter() - start) / times
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(times):
            call()
        end.record()
        torch.cuda.synchronize(self.device)
        return float(begin.elapsed_time(end)) / 1000 / times

    def medians(self, calls: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Median seconds of each, run in turn after a first call; those that run out of memory are left out."""
        times: dict[str, int] = {}
        for name, call in calls.items():
            try:
                self._seconds(call, 2)
                times[name] = max(1, min(100, int(0.02 / max(self._seconds(call, 2), 1e-6))))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        found: dict[str, list[float]] = {name: [] for name in times}
        for _ in range(self.repeats):
            for name, count in times.items():
                found[name].append(self._seconds(calls[name], count))
        return {name: statistics.median(values) for name, values in found.items()}

    def peak(self, call: Callable[[], object]) -> int:
        """Bytes of device memory that a call takes above what there is."""
        if not self.cuda:
            return 0
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before

    def replayed(self, call: Callable[[], object]) -> float:
        """Median seconds of a call from a CUDA graph; not a number where there is none."""
        if not self.cuda:
            return math.nan
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except RuntimeError:
            return math.nan
        return self.medians({"": graph.replay})[""]


def _measure(table: Table, clock: _Clock, case: _Case, size: int, dtype: torch.dtype) -> None:
    """The rows of one size and dtype."""
    tokens = f"{size}x{size}"
    truth = case.truth()
    for name, calls in (("inference", case.inference()), ("training", case.training())):
        seconds = clock.medians(calls)
        for way, call in calls.items():
            if way not in seconds:
                table.show(_name(dtype), tokens, name, way, "out of memory", "", "", "", "")
                continue
            replayed, error = "", ""
            if name == "inference":
                if way in (KERNEL, SHORT, SOFTMAX):
                    replayed = f"{1000 * clock.replayed(call):.3f}"
                if way not in (SHORT, SOFTMAX):  # other functions
                    output = call()
                    assert isinstance(output, Tensor)
                    error = f"{_relative_error(output, truth):.1e}"
            table.show(
                _name(dtype),
                tokens,
                name,
                way,
                f"{1000 * seconds[way]:.3f}",
                f"{seconds[way] / seconds[SOFTMAX]:.2f}",
                replayed,
                f"{clock.peak(call) / 2**20:.1f}",
                error,
            )


def _try_tiles(table: Table, clock: _Clock, case: _Case, size: int, dtype: torch.dtype) -> None:
    """Times of other tiles, in forward passes and in forward and backward passes."""
    row_bytes = csa_triton._row_bytes(dtype, case.q.shape[-1])
    usual = csa_triton.TILES[row_bytes]
    for tile in TILES_TO_TRY:
        cells = []
        for tiles, calls in (((tile, usual[1]), case.inference()), ((usual[0], tile), case.training())):
            with patch.dict(csa_triton.TILES, {row_bytes: tiles}):
                try:
                    cells.append(f"{1000 * clock.medians({'': calls[KERNEL]})['']:.3f}")
                except Exception as error:  # too much shared memory, say
                    cells.append(type(error).__name__)
        marks = [f"{cell}{' (in use)' if tile == own else ''}" for cell, own in zip(cells, usual, strict=True)]
        table.show(_name(dtype), f"{size}x{size}", *(str(part) for part in tile), *marks)


@begins_anew()
def run(
    device: torch.device,
    sizes: Sequence[int],
    heads: int,
    head_dim: int,
    repeats: int,
    output: Path | None = None,
    tiles: bool = False,
) -> bool:
    """Checks, measures, and writes the tables to standard output, and to files if asked for.

    Args:
        device: a CUDA device.
        sizes: grid points along an edge.
        heads: attention heads.
        head_dim: channels of a head.
        repeats: of each measurement.
        output: path without ending of a Markdown file and, for each table, a CSV file.
        tiles: also try other tiles of the kernels.

    Returns:
        Whether the kernels run, and every check passed.

    Raises:
        InputRefused: if the files cannot be written.
    """
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    caption = f"{heads} heads x {head_dim}, one image, {where}, torch {torch.__version__}"
    sys.stdout.write(f"{caption}\n")
    small = torch.zeros(1, 1, 16, 16, device=device)
    if not kernels_take(small, small, small, [4, 4]):
        sys.stdout.write("The kernels do not run on this device: see the message above, or install triton.\n")
        return False
    tables: dict[str, Table] = {}
    tables["checks"], passed = _check_all(device)
    _write(output, caption, tables)
    clock = _Clock(device, repeats)
    names = (
        "dtype",
        "tokens",
        "pass",
        f"{'formulation':>20}",
        "median, ms",
        "of SDPA",
        "replayed, ms",
        "peak, MiB",
        "error",
    )
    tables["times"] = Table("Times", names)
    tile_names = ("dtype", "tokens", "queries", "keys", "warps", "stages", "inference, ms    ", "training, ms     ")
    tables["tiles"] = Table("Other tiles", tile_names)
    for dtype in DTYPES:
        for size in sizes:
            case = _Case(device, dtype, size, heads, head_dim)
            _measure(tables["times"], clock, case, size, dtype)
            _write(output, caption, tables)
    if tiles:
        for dtype in DTYPES:
            _try_tiles(tables["tiles"], clock, _Case(device, dtype, TILES_SIZE, heads, head_dim), TILES_SIZE, dtype)
        _write(output, caption, tables)
    sys.stdout.write(f"\n{'Every check passed.' if passed else 'A CHECK FAILED: see the first table.'}\n")
    return passed


def _write(stem: Path | None, caption: str, tables: dict[str, Table]) -> None:
    """``stem.md``, and ``stem_NAME.csv`` for each table that has rows."""
    if stem is None:
        return
    shown = {name: table for name, table in tables.items() if table.rows}
    parts = [table.head() + "".join(table.line(row) + "\n" for row in table.rows) for table in shown.values()]
    write_text(stem.with_name(f"{stem.name}.md"), caption + "\n" + "".join(parts), overwrite=True)
    for name, table in shown.items():
        lines = [",".join(cell.strip().replace(",", ";") for cell in row) for row in (table.names, *table.rows)]
        write_text(stem.with_name(f"{stem.name}_{name}.csv"), "\n".join(lines) + "\n", overwrite=True)
