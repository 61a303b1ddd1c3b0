"""The Triton kernels of CSA: on CUDA where there is one, else on the CPU in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract import Randomise, relative_error
from monai.data import MetaTensor
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton_interpreter import correct_bfloat16

from convformer_monai.networks import CSA
from convformer_monai.networks.blocks import csa as csa_module
from convformer_monai.networks.blocks import csa_triton
from convformer_monai.networks.blocks.csa import EPS, SIGMA_MIN, normalise, sigma_of
from convformer_monai.networks.blocks.csa_triton import TILES, Tile, csa, kernels_run_on, kernels_take, supports
from convformer_monai.networks.blocks.gaussian import axis_factors
from convformer_monai.networks.blocks.mixing import mix_directly

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton, which is not installed"
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOUNDS = (SIGMA_MIN, 0.4)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
DTYPES = sorted(TOLERANCE, key=str)
# grid, head_dim, fixed unit of distances
SHAPES = [
    ((1, 9), 5, 4),
    ((9, 1), 17, None),
    ((5, 7), 20, None),
    ((3, 70), 16, 12),
    ((2, 3, 4), 128, None),
    ((3, 4, 5), 20, 9),
]


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu" and importlib.util.find_spec("triton") is not None:
        correct_bfloat16(monkeypatch)


def exact(q: Tensor, k: Tensor, v: Tensor, theta: Tensor, grid: Sequence[int], unit: int | None = None) -> Tensor:
    """The same with torch's operations, in the precision of its arguments."""
    q, k = normalise(q, k)
    sigma = sigma_of(theta, BOUNDS[1])
    factors = [axis_factors(sigma, size, unit or size) for size in grid]
    return mix_directly(q, k, v, factors, list(grid), grid[0])


def inputs(grid: Sequence[int], dim: int, dtype: torch.dtype, batch: int = 1, heads: int = 2) -> list[Tensor]:
    """q, k, v and theta, that want gradients."""
    qkv = torch.randn(3, batch, heads, math.prod(grid), dim).to(DEVICE, dtype)
    return [*(x.clone().requires_grad_() for x in qkv), (torch.randn(heads) * 2).to(DEVICE).requires_grad_()]


def check(arguments: list[Tensor], grid: Sequence[int], unit: int | None = None) -> None:
    """Output and gradients agree with the exact ones of the same numbers in float64."""
    precise = [x.detach().double().requires_grad_() for x in arguments]
    result, expected = csa(*arguments, BOUNDS, EPS, grid, unit), exact(*precise, grid, unit)
    tolerance = TOLERANCE[arguments[0].dtype]
    assert result.dtype == arguments[0].dtype
    assert relative_error(result, expected) < tolerance
    weights = torch.randn_like(result)
    (result * weights).sum().backward()
    (expected * weights).sum().backward()
    for name, x, y in zip(("q", "k", "v", "theta"), arguments, precise, strict=True):
        assert x.grad is not None and y.grad is not None and x.grad.dtype == x.dtype
        if y.grad.any():
            assert relative_error(x.grad, y.grad) < tolerance, name
        else:  # theta of a single token
            assert not x.grad.any()


@needs_triton
class TestExactness:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize(("grid", "dim", "unit"), SHAPES, ids=str)
    def test_output_and_gradients(self, grid: tuple[int, ...], dim: int, unit: int | None, dtype: torch.dtype) -> None:
        check(inputs(grid, dim, dtype), grid, unit)

    def test_narrow_and_wide(self) -> None:
        arguments = inputs((6, 40), 16, torch.float32)
        with torch.no_grad():
            arguments[3].copy_(torch.tensor([-3.0, 8.0]))
        check(arguments, (6, 40))

    @pytest.mark.parametrize("grid", [(11, 37), (2, 9, 17)], ids=str)
    def test_many_patches_and_steps(self, grid: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        """Small tiles, so that each loop goes round several times."""
        monkeypatch.setattr(csa_triton, "TILES", dict.fromkeys(TILES, (Tile(64, 16, 4, 2), Tile(32, 16, 4, 2))))
        check(inputs(grid, 16, torch.float32, heads=1), grid)

    @pytest.mark.parametrize("grid", [(1, 1), (3, 4)], ids=str)
    def test_batch_and_heads(self, grid: tuple[int, ...]) -> None:
        check(inputs(grid, 16, torch.float32, batch=3, heads=3), grid)

    def test_strides(self) -> None:
        """Tensors and upstream gradients that are not contiguous."""
        grid, (q, k, v, theta) = (4, 5), inputs((4, 5), 16, torch.float32)
        turned = [x.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_() for x in (q, k, v)]
        results = []
        for x in ((q, k, v), turned):
            z = csa(*x, theta, BOUNDS, EPS, grid)
            z.mT.square().sum().backward()
            results.append((z, *(y.grad for y in x)))
        for one, other in zip(*results, strict=True):
            assert torch.equal(one, other)

    def test_short_long_and_zero_vectors(self) -> None:
        arguments = inputs((5, 6), 16, torch.float32)
        with torch.no_grad():
            arguments[0][:, 0] *= 0.3
            arguments[1][:, 1] *= 100
            arguments[1][:, :, 7] = 0
        check(arguments, (5, 6))

    @torch.no_grad()
    def test_without_gradients(self) -> None:
        arguments = inputs((5, 7), 16, torch.float32)
        assert relative_error(csa(*arguments, BOUNDS, EPS, (5, 7)), exact(*arguments, (5, 7))) < 1e-5


class Allocated(TorchDispatchMode):
    """Counts the numbers in all tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.numbers += sum(x.numel() for x in torch.utils._pytree.tree_leaves(result) if isinstance(x, Tensor))
        return result


@needs_triton
class TestCost:
    def test_tokens_out_of_reach_are_not_touched(self) -> None:
        """By no sum: not a number times zero would be not a number."""
        grid, narrow = (6, 100), 4
        arguments = inputs(grid, 16, torch.float32, heads=1)
        q, k, v, theta = arguments
        reach = math.ceil(sigma_of(torch.tensor(0.0), BOUNDS[1]).item() * narrow * 6)
        with torch.no_grad():
            theta.zero_()
            v.view(1, 1, *grid, 16)[:, :, :, 80:] = math.nan
        z = csa(*arguments, BOUNDS, EPS, grid, narrow).view(1, 1, *grid, 16)
        assert z[:, :, :, : 80 - reach - 16].isfinite().all()
        assert not z[:, :, :, 80:].isfinite().any()
        z[:, :, :, :10].sum().backward()
        assert q.grad is not None and q.grad.view(1, 1, *grid, 16)[:, :, :, :10].isfinite().all()

    def test_memory_is_linear_in_tokens(self) -> None:
        made = []
        for grid in ((6, 8), (12, 16)):
            arguments = inputs(grid, 16, torch.float32, heads=1)
            with Allocated() as allocated:
                csa(*arguments, BOUNDS, EPS, grid).sum().backward()
            made.append(allocated.numbers)
        assert made[1] < 4 * made[0]


@needs_triton
class TestOperator:
    def test_registration(self) -> None:
        arguments = inputs((3, 4), 16, torch.float32)
        operator = torch.ops.convformer.csa.default
        torch.library.opcheck(
            operator,
            (*arguments, *BOUNDS, EPS, [3, 4], [3, 4]),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )

    @pytest.fixture
    def net(self, randomise: Randomise, monkeypatch: pytest.MonkeyPatch) -> CSA:
        """One that takes the kernels wherever it is."""
        monkeypatch.setattr(csa_module, "kernels_take", supports)
        return randomise(CSA(2, 6, 3, 16)).to(DEVICE)  # type: ignore[no-any-return]

    @pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
    def test_module(self, net: CSA, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        x = torch.randn(2, 6, 7, 9, device=DEVICE)
        results = []
        for take in (supports, lambda *_: False):
            monkeypatch.setattr(csa_module, "kernels_take", take)
            with torch.set_grad_enabled(training):
                y = net.train(training)(x)
            results.append([y])
            if training:
                net.zero_grad()
                y.square().sum().backward()
                results[-1] += [p.grad.clone() for p in net.parameters() if p.grad is not None]
        assert len(results[0]) == (1 + len(list(net.parameters())) if training else 1)
        for one, other in zip(*results, strict=True):
            assert relative_error(one, other) < 1e-5

    def test_metatensor(self, net: CSA) -> None:
        x = torch.randn(1, 6, 3, 4, device=DEVICE)
        y = net(MetaTensor(x))
        assert torch.equal(torch.as_tensor(y).as_subclass(Tensor), net(x))
        y.sum().backward()

    def test_compiled(self, net: CSA) -> None:
        x = torch.randn(2, 6, 4, 5, device=DEVICE, requires_grad=True)
        gradients = []
        for module in (net, torch.compile(net, backend="aot_eager", fullgraph=True)):
            (gradient,) = torch.autograd.grad(module(x).square().sum(), x)
            gradients.append(gradient)
        assert relative_error(gradients[1], gradients[0]) < 1e-6

    @pytest.mark.skipif(DEVICE == "cuda", reason="the interpreter has no autocast of its own")
    def test_autocast(self, net: CSA) -> None:
        x = torch.randn(1, 6, 4, 5)
        with torch.autocast("cpu", torch.bfloat16):
            y = net.eval()(x)
        assert relative_error(y, net(x)) < 2e-2


class TestDispatch:
    @pytest.fixture
    def working(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(csa_triton, "_work_on", lambda index, large: True)

    @pytest.fixture
    def on_cuda(self) -> Iterator[Tensor]:
        """A tensor without data that says it is on CUDA."""
        from torch._subclasses import FakeTensorMode

        with FakeTensorMode():
            yield torch.empty(1, 2, 20, 16, device="cuda:0")

    def test_not_on_the_cpu(self, working: None) -> None:
        q = torch.randn(1, 2, 20, 16)
        assert not kernels_take(q, q, q, [4, 5])

    @pytest.mark.usefixtures("working")
    def test_on_cuda(self, on_cuda: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
        q = on_cuda
        assert kernels_take(q, q, q, [4, 5])
        assert not kernels_take(q, q, q.double(), [4, 5])
        assert not kernels_take(q.double(), q.double(), q.double(), [4, 5])
        assert not kernels_take(q, q, q, [20])
        wide = q.new_empty(1, 2, 20, 129)
        assert not kernels_take(wide, wide, wide, [4, 5])
        empty = q.new_empty(0, 2, 20, 16)
        assert not kernels_take(empty, empty, empty, [4, 5])
        for tracer in ("torch.jit.is_tracing", "torch.compiler.is_exporting"):
            with monkeypatch.context() as patch:
                patch.setattr(tracer, lambda: True)
                assert not kernels_take(q, q, q, [4, 5])

    def test_switch(self, working: None, monkeypatch: pytest.MonkeyPatch) -> None:
        assert kernels_run_on(0)
        monkeypatch.setenv("CONVFORMER_TRITON", "0")
        assert not kernels_run_on(0)
        monkeypatch.setenv("CONVFORMER_TRITON", "1")
        assert kernels_run_on(0)

    @pytest.mark.parametrize(
        ("major", "memory", "large", "works"),
        [(9, 232448, True, True), (8, 101376, False, True), (8, 101376, True, False), (7, 65536, False, False)],
    )
    def test_devices(self, major: int, memory: int, large: bool, works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        device = SimpleNamespace(major=major, shared_memory_per_block_optin=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
        monkeypatch.setattr(csa_triton, "_error_on", lambda *_: 0.0)
        monkeypatch.setitem(sys.modules, "triton", SimpleNamespace())
        assert csa_triton._work_on.__wrapped__(0, large) is works

    @pytest.mark.parametrize("missing", [True, False], ids=["no triton", "a fault"])
    def test_falls_back(self, missing: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("no C compiler")

        device = SimpleNamespace(major=9, shared_memory_per_block_optin=2**20)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
        monkeypatch.setattr(csa_triton, "_error_on", fail)
        monkeypatch.setitem(sys.modules, "triton", None if missing else SimpleNamespace())  # type: ignore[arg-type]
        with caplog.at_level(logging.INFO, "convformer_monai"):
            assert not csa_triton._work_on.__wrapped__(3, False)
        (record,) = caplog.records
        assert ("not installed" if missing else "cuda:3, so torch's own operations are used: no C compiler") in (
            record.getMessage()
        )

    @pytest.mark.parametrize("error", [0.2, math.nan])
    def test_wrong_results_are_seen(
        self, error: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        device = SimpleNamespace(major=9, shared_memory_per_block_optin=2**20)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
        monkeypatch.setattr(csa_triton, "_error_on", lambda *_: error)
        monkeypatch.setitem(sys.modules, "triton", SimpleNamespace())
        assert not csa_triton._work_on.__wrapped__(0, False)
        assert "not exact on cuda:0 (torch.float32" in caplog.text

    @needs_triton
    @pytest.mark.parametrize("dtype", list(csa_triton.PROBED), ids=str)
    def test_the_first_call_is_compared(self, dtype: torch.dtype) -> None:
        with torch.inference_mode():  # as a network is run
            assert csa_triton._error_on(DEVICE, dtype) < csa_triton.PROBED[dtype]

    def test_importing_the_network_imports_neither_triton_nor_the_compiler(self) -> None:
        script = (
            "import sys, convformer_monai.networks\n"
            "print([name for name in ('triton', 'torch._dynamo', 'torch._inductor') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


@pytest.mark.slow
@needs_triton
def test_compiles_without_a_gpu(tmp_path: Path) -> None:
    """Through Triton's compiler for a Hopper GPU; the kernels of the shipped networks fit smaller GPUs, too."""
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(script), "90", "bfloat16:32", "float32:64"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    launches = [line.split() for line in done.stdout.splitlines()]
    assert len(launches) == 2 * 2 * 7  # settings, grids, launches of a forward and a backward pass
    assert max(int(memory) for *_, memory in launches) <= 99 * 1024
