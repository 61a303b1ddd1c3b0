"""CNN-style self-attention as one operator, by Triton kernels: forward and backward, memory linear in tokens.

Paper: Lin et al., "ConvFormer", MICCAI 2023 (arXiv 2309.05674), section 2.2; the kernels are those of
:mod:`convformer_monai.networks.blocks.csa_kernels`. What it computes is :meth:`CSA.mix` with

* keys, rows and columns left out whose weight is below :data:`NEGLECTED` of a row's largest;
* products of float32 numbers as three of tensor float 32 each, which keeps float32's precision; sums in float32.

Triton comes with torch's CUDA builds and is imported at the first use. ``CONVFORMER_TRITON=0`` in the environment
switches the kernels off. The gradient itself has no gradient: switch them off for second derivatives.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["NEGLECTED", "TILES", "Tile", "csa", "kernels_run_on", "kernels_take", "supports"]

SWITCH = "CONVFORMER_TRITON"
NEGLECTED = {torch.float32: 1e-6, torch.float16: 1e-4, torch.bfloat16: 1e-4}  # of a row's largest weight
MAX_HEAD_DIM = 128
PROBED = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # with the relative error that the first call may have
PROBE_GRID = (5, 7)
BLOCK = 64  # tokens that a program prepares

logger = logging.getLogger(__name__)


class Tile(NamedTuple):
    """How a kernel divides the work.

    Args:
        queries: tokens that a program owns, a power of 2 from 16 on.
        keys: most tokens of a line that it takes at a time, a power of 2 from 16 on.
        warps: of 32 threads each.
        stages: of the pipeline of loads.
    """

    queries: int
    keys: int
    warps: int
    stages: int


# By the bytes of a head's row, padded: the tile of modes "forward" and "query", and that of mode "key", which holds
# twice as much. Up to 256 bytes each takes less than 99 KiB of shared memory, as every GPU from Ampere on has.
TILES = {
    64: (Tile(64, 64, 4, 3), Tile(64, 32, 4, 3)),
    128: (Tile(64, 64, 4, 3), Tile(64, 32, 4, 3)),
    256: (Tile(64, 64, 4, 2), Tile(64, 32, 4, 2)),
    512: (Tile(64, 32, 4, 2), Tile(32, 32, 4, 2)),
}
LARGE_ROW = 512  # bytes, which take up to 128 KiB
LARGE_SHARED_MEMORY = 160 * 1024


def _padded(head_dim: int) -> int:
    return max(16, 1 << (head_dim - 1).bit_length())


def _row_bytes(dtype: torch.dtype, head_dim: int) -> int:
    return max(64, _padded(head_dim) * (4 if dtype == torch.float32 else 2))


def supports(q: Tensor, k: Tensor, v: Tensor, grid: Sequence[int]) -> bool:
    """Whether the kernels take tensors of these types and shapes, device aside."""
    return (
        q.dtype in NEGLECTED
        and q.dtype == k.dtype == v.dtype
        and q.shape == k.shape == v.shape
        and q.shape[-1] <= MAX_HEAD_DIM
        and len(grid) in (2, 3)
        and q.numel() > 0
        and q.shape[2] * q.shape[3] < 2**31
    )


def kernels_take(q: Tensor, k: Tensor, v: Tensor, grid: Sequence[int]) -> bool:
    """Whether the kernels take these tensors and run on their device; never while a portable graph is made."""
    return (
        q.is_cuda
        and supports(q, k, v, grid)
        and not torch.jit.is_tracing()
        and not torch.compiler.is_exporting()
        and kernels_run_on(q.device.index, _row_bytes(q.dtype, q.shape[-1]))
    )


def kernels_run_on(index: int, row_bytes: int = 64) -> bool:
    """Whether the kernels run on a CUDA device with rows of this size, and are not switched off."""
    return os.environ.get(SWITCH, "1") != "0" and _work_on(index, row_bytes >= LARGE_ROW)


# What torch.compiler.assume_constant_result does, without importing the compiler.
kernels_run_on._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _work_on(index: int, large: bool) -> bool:
    """Whether a device is new enough and a first small call is right. Why it is not is said once, in the log."""
    device = torch.cuda.get_device_properties(index)
    if torch.version.hip is not None or device.major < 8:
        return False
    if large and getattr(device, "shared_memory_per_block_optin", 0) < LARGE_SHARED_MEMORY:
        return False
    try:
        import triton  # noqa: F401

        for dtype, tolerance in PROBED.items():
            error = _error_on(f"cuda:{index}", dtype)
            if not error < tolerance:  # NaN, too
                logger.warning(
                    "the Triton kernels are not exact on cuda:%d (%s, %.1e), so torch's own operations are used",
                    index,
                    dtype,
                    error,
                )
                return False
    except ImportError:
        logger.info("Triton is not installed: CNN-style self-attention takes torch's own operations")
        return False
    except Exception as error:  # no C compiler, an old driver: whatever it is, torch can do without
        logger.warning("the Triton kernels do not run on cuda:%d, so torch's own operations are used: %s", index, error)
        return False
    return True


def _error_on(device: str, dtype: torch.dtype) -> float:
    """Largest relative error of output and gradients of q, k and v on a small grid, against torch in float64."""
    from convformer_monai.networks.blocks.csa import EPS, SIGMA_MIN, normalise, sigma_of
    from convformer_monai.networks.blocks.gaussian import axis_factors
    from convformer_monai.networks.blocks.mixing import mix_directly

    grid, bounds, heads, dim = list(PROBE_GRID), (SIGMA_MIN, 0.4), 2, 32
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(torch.device(device).type, enabled=False):
        places = torch.arange(3 * heads * math.prod(grid) * dim, device=device, dtype=torch.float64)
        qkv = list((places * 0.7).sin().mul(2).to(dtype).view(3, 1, heads, -1, dim))
        theta = torch.tensor([-1.0, 1.0], device=device)
        fast = [x.clone().requires_grad_() for x in qkv]
        result = _csa(*fast, theta, *bounds, EPS, grid, grid)
        exact = [x.double().requires_grad_() for x in qkv]
        q, k = normalise(exact[0], exact[1])
        factors = [axis_factors(sigma_of(theta.double(), bounds[1]), size, size) for size in grid]
        expected = mix_directly(q, k, exact[2], factors, grid, grid[0])
        weight = (places[: expected.numel()] * 0.3).cos().view_as(expected)
        pairs = [(result, expected)]
        grads = torch.autograd.grad((result * weight.to(dtype)).sum(), fast)
        pairs += zip(grads, torch.autograd.grad((expected * weight).sum(), exact), strict=True)
    return max(float((x.detach().double() - y.detach()).norm() / y.detach().norm()) for x, y in pairs)


class _Call:
    """One call's sizes, and the scratch memory that its kernels share."""

    def __init__(
        self,
        q: Tensor,
        theta: Tensor,
        low: float,
        high: float,
        eps: float,
        grid: Sequence[int],
        units: Sequence[int],
    ) -> None:
        batch, self.heads, tokens, self.dim = q.shape
        self.dtype = q.dtype
        self.planes = batch * self.heads
        self.volume = len(grid) == 3
        self.grid = [1] * (3 - len(grid)) + list(grid)
        self.units = [1] * (3 - len(units)) + list(units)
        self.blocks = -(-tokens // BLOCK)
        self.theta, self.low, self.high, self.eps = theta.contiguous(), low, high, eps
        self.tiles = TILES[_row_bytes(q.dtype, self.dim)]

        def scratch(*shape: int) -> Tensor:
            return torch.empty(shape, device=q.device, dtype=torch.float32)

        self.squares = scratch(2, self.planes, self.blocks)
        self.typical = scratch(2, self.planes)
        self.tables = scratch(self.heads, 2, sum(self.grid))
        self.slope = scratch(self.heads)  # of a head's standard deviation in theta, times what the kernels leave out

    def prepare(self, q: Tensor, k: Tensor, dz: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled q and k, and dL/dZ over the sums of weights, where it is given."""
        from convformer_monai.networks.blocks import csa_kernels

        unit_q, unit_k = torch.empty_like(q), torch.empty_like(k)
        dz, g = (q, unit_q) if dz is None else (dz, torch.empty_like(q))
        tensors = 2 if g is unit_q else 3
        sizes = (
            self.planes, self.heads, *self.grid, *self.units, self.blocks, self.dim, _padded(self.dim), BLOCK
        )  # fmt: skip
        csa_kernels.prepare_kernel[(3 * self.heads + 2 * self.planes * self.blocks,)](
            q, k, self.theta, self.squares, self.tables, self.slope, self.low, self.high, *sizes
        )
        csa_kernels.scale_kernel[(tensors * self.planes * self.blocks,)](
            q, k, dz, self.theta, self.squares, self.tables, self.typical, unit_q, unit_k, g,
            self.low, self.high, self.eps, *sizes,
        )  # fmt: skip
        return unit_q, unit_k, g

    def patches(self, tile: Tile) -> tuple[int, int, int, int]:
        """Rows and columns of a patch, patches of a plane, and keys at a time: those that fit the grid best."""
        depth, height, width = self.grid
        columns = min((16, 8), key=lambda size: -(-width // size) * size)
        rows = tile.queries // columns
        keys = min((size for size in (64, 32, 16) if size <= tile.keys), key=lambda size: -(-width // size) * size)
        return rows, columns, depth * -(-height // rows) * -(-width // columns), keys

    def mix(
        self,
        mode: str,
        inputs: tuple[Tensor, Tensor, Tensor, Tensor],
        outputs: tuple[Tensor, Tensor],
        raw: Tensor,
        partial: Tensor,
        offset: int = 0,
    ) -> None:
        """One launch of the kernel that does the work; see there."""
        from convformer_monai.networks.blocks import csa_kernels

        tile = self.tiles[mode == "key"]
        rows, columns, patches, keys = self.patches(tile)
        csa_kernels.mix_kernel[(self.planes * patches,)](
            *inputs, *outputs, raw, self.theta, self.tables, self.typical, partial, self.low, self.high, self.eps,
            self.planes, self.heads, *self.grid, *self.units, offset, partial.shape[-1],
            self.dim, _padded(self.dim), rows, columns, keys, -math.log2(NEGLECTED[self.dtype]), self.volume, mode,
            "tf32x3" if self.dtype == torch.float32 else "tf32",  # which means nothing to 16 bits
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    theta: Tensor,
    low: float,
    high: float,
    eps: float,
    grid: Sequence[int],
    units: Sequence[int],
) -> Tensor:
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    with torch.cuda.device_of(q):
        call = _Call(q, theta, low, high, eps, grid, units)
        unit_q, unit_k, _ = call.prepare(q, k)
        z = torch.empty_like(v)
        call.mix("forward", (unit_q, unit_k, v, v), (z, z), q, call.typical)
    return z


@torch.library.custom_op("convformer::csa", mutates_args=())
def _csa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    theta: Tensor,
    low: float,
    high: float,
    eps: float,
    grid: Sequence[int],
    units: Sequence[int],
) -> Tensor:
    return _forward(q, k, v, theta, low, high, eps, grid, units)


@torch.library.custom_op("convformer::csa_backward", mutates_args=())
def _csa_backward(
    dz: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    theta: Tensor,
    low: float,
    high: float,
    eps: float,
    grid: Sequence[int],
    units: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dz, q, k, v = dz.to(q.dtype).contiguous(), q.contiguous(), k.contiguous(), v.contiguous()
    with torch.cuda.device_of(q):
        call = _Call(q, theta, low, high, eps, grid, units)
        unit_q, unit_k, g = call.prepare(q, k, dz)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        of_query, of_key = (call.patches(tile)[2] for tile in call.tiles)
        partial = torch.empty(*q.shape[:2], of_query + of_key, device=q.device, dtype=torch.float32)
        call.mix("query", (g, v, unit_k, v), (dq, dq), q, partial)
        call.mix("key", (unit_k, unit_q, g, v), (dv, dk), k, partial, of_query)
    return dq, dk, dv, (partial.sum((0, 2)) * call.slope).to(theta.dtype)


@_csa.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: object) -> Tensor:
    return torch.empty_like(v, memory_format=torch.contiguous_format)


@_csa_backward.register_fake
def _(dz: Tensor, q: Tensor, k: Tensor, v: Tensor, theta: Tensor, *_: object) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v, theta))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.rest = inputs[4:]


def _differentiate(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
    return (*_csa_backward(dz, *ctx.saved_tensors, *ctx.rest), *[None] * len(ctx.rest))


_csa.register_autograd(_differentiate, setup_context=_keep)


def csa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    theta: Tensor,
    bounds: tuple[float, float],
    eps: float,
    grid: Sequence[int],
    unit: int | None = None,
) -> Tensor:
    """CNN-style self-attention A V, differentiable once.

    Args:
        q: queries before they are scaled, ``(B, heads, N, d)``, on CUDA; float32, bfloat16 or float16.
        k: keys, likewise.
        v: values, likewise.
        theta: ``(heads,)``; a head's standard deviation is ``bounds[0] + (bounds[1] - bounds[0]) * sigmoid(theta)``.
        bounds: of the standard deviation.
        eps: see :func:`convformer_monai.networks.blocks.csa.normalise`.
        grid: two or three numbers of grid points, N in all.
        unit: grid points that count as distance 1; None for each axis's own.

    Returns:
        ``(B, heads, N, d)``, in the dtype given, a plain tensor.
    """
    units = [size if unit is None else unit for size in grid]
    if type(q) is not Tensor:  # a MetaTensor, whose metadata kernels do not see
        q, k, v = (x.as_subclass(Tensor) for x in (q, k, v))
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, theta))
    call = _csa if wanted or torch.compiler.is_compiling() else _forward  # the operator costs more time to call
    return call(q, k, v, theta, *bounds, eps, list(grid), units)
