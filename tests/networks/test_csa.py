"""CSA against the published formulation, and what it keeps between calls."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from contract import Randomise, relative_error
from torch import Tensor

from convformer_monai.benchmarks.csa import peak_of, published_csa, squared_distances
from convformer_monai.benchmarks.processes import in_own_process
from convformer_monai.networks import CSA
from convformer_monai.networks.blocks import csa as csa_module
from convformer_monai.networks.blocks import mixing
from convformer_monai.networks.blocks.csa import normalise, similarities
from convformer_monai.networks.blocks.gaussian import axis_factors, axis_roots, distance_rows
from convformer_monai.networks.blocks.mixing import mix_directly, mix_separably

GRIDS = [(1, 1), (1, 9), (7, 5), (16, 16), (13, 22), (26, 31), (2, 3, 4), (6, 7, 5), (9, 11, 14)]
Make = Callable[..., CSA]


@pytest.fixture
def make(randomise: Randomise) -> Make:
    def build(grid: tuple[int, ...], shift: float = 0.0, **arguments: object) -> CSA:
        net = randomise(CSA(len(grid), 12, 4, 16, **arguments)).eval()
        with torch.no_grad():
            net.theta.copy_(torch.randn(4) * 1.5 + shift)
        return net

    return build


def by_publication(net: CSA, x: Tensor) -> Tensor:
    """The output of ``net`` computed with the published formulation."""
    grid = x.shape[2:]
    squared = squared_distances(grid, x)
    if net.grid_size is not None:
        axes = [torch.arange(size, dtype=x.dtype) / net.grid_size for size in grid]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
        squared = torch.cdist(points, points).square()
    qkv = net.to_qkv(x).flatten(2).unflatten(1, (3, net.num_heads, net.head_dim))
    q, k, v = qkv.permute(1, 0, 2, 4, 3)
    z = published_csa(q, k, v, net.sigma(), squared)  # (B, heads, N, d)
    return net.project(z.transpose(2, 3).flatten(1, 2).unflatten(2, grid))  # type: ignore[no-any-return]


def inputs(grid: tuple[int, ...]) -> Tensor:
    return torch.randn(2, 12, *grid)


class TestExactness:
    @torch.no_grad()
    @pytest.mark.parametrize("grid", GRIDS)
    @pytest.mark.parametrize("shift", [0.0, -4.0, 4.0], ids=["any", "narrow", "wide"])
    @pytest.mark.parametrize("with_grad", [False, True], ids=["evaluation", "training"])
    def test_output(self, make: Make, grid: tuple[int, ...], shift: float, with_grad: bool) -> None:
        net, x = make(grid, shift), inputs(grid)
        with torch.set_grad_enabled(with_grad):
            result = net(x).detach()
        assert relative_error(result, by_publication(net.double(), x.double())) < 1e-5

    @torch.no_grad()
    @pytest.mark.parametrize("grid", [(7, 5), (33, 40), (6, 7, 5)])
    def test_fixed_reference_grid(self, make: Make, grid: tuple[int, ...]) -> None:
        net, x = make(grid, grid_size=12), inputs(grid)
        assert relative_error(net(x), by_publication(net.double(), x.double())) < 1e-5

    @pytest.mark.parametrize("recompute", [False, True])
    @pytest.mark.parametrize("grid", [(7, 5), (16, 16), (23, 19), (6, 7, 5)])
    def test_gradients(
        self, make: Make, grid: tuple[int, ...], recompute: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if recompute:
            monkeypatch.setattr(mixing, "RECOMPUTE_ABOVE", 0)
            monkeypatch.setattr(mix_directly, "__defaults__", (5000,))  # chunks that do not divide the tokens
        net = make(grid).train()
        exact = copy.deepcopy(net).double()
        x = inputs(grid).requires_grad_()
        precise = x.detach().double().requires_grad_()
        weights = torch.randn_like(x)
        (net(x) * weights).sum().backward()
        (by_publication(exact, precise) * weights).sum().backward()
        assert x.grad is not None and precise.grad is not None
        assert relative_error(x.grad, precise.grad) < 1e-4
        for (name, p), q in zip(net.named_parameters(), exact.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None
            assert relative_error(p.grad, q.grad) < 1e-4, name

    @torch.no_grad()
    @pytest.mark.parametrize("grid", [(7, 5), (6, 7, 5)])
    def test_attention_maps(self, make: Make, grid: tuple[int, ...]) -> None:
        net, x = make(grid), inputs(grid)
        maps = net.attention(x)
        v = net._qkv(x)[2]
        z = (maps @ v).transpose(2, 3).flatten(1, 2).unflatten(2, grid)
        assert relative_error(net.project(z), net(x)) < 1e-5
        assert (maps < 0).any()

    def test_similarities_of_long_vectors_fit_float16(self) -> None:
        q, k = 300 * torch.randn(2, 5, 16), 300 * torch.randn(2, 5, 16)
        with torch.autocast("cpu", torch.float16):
            assert relative_error(similarities(q, k).float(), similarities(q.double(), k.double())) < 2e-3

    @torch.no_grad()
    @pytest.mark.parametrize("length", [1e-2, 1.0, 100.0])
    def test_similarities_of_short_and_long_vectors(self, length: float) -> None:
        """The 1e-4 that the published code adds to the product of the lengths is not lost in scaling before it."""
        q, k = torch.randn(2, 1, 50, 64) * length / 8
        normal_q, normal_k = normalise(q, k)
        tolerance = 1e-5 if length >= 1 else 0.2  # vectors as short as 0.01 are rounding noise of a net
        assert relative_error(normal_q @ normal_k.mT, similarities(q.double(), k.double())) < tolerance

    @torch.no_grad()
    def test_padding_does_not_disturb_the_rest(self) -> None:
        q, k = torch.randn(2, 1, 60, 64)
        q[:, 20:], k[:, 30:] = 0, 0
        normal_q, normal_k = normalise(q, k)
        assert relative_error(normal_q @ normal_k.mT, similarities(q.double(), k.double())) < 1e-5

    @torch.no_grad()
    def test_float16_neither_overflows_nor_vanishes(self) -> None:
        for length in (0.1, 1e4):
            q = (torch.randn(1, 60, 64) * length / 8).half()
            normal_q, normal_k = normalise(q, q)
            assert normal_q.dtype == torch.float16
            assert relative_error(normal_q @ normal_k.mT, similarities(q.double(), q.double())) < 0.01

    @torch.no_grad()
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_low_precision(self, make: Make, dtype: torch.dtype) -> None:
        """Both ways lose no more than the precision of the numbers: they agree with the same inputs in float32."""
        grid = [30, 32]
        net = make((30, 32), 2.0)
        q, k, v = (x.to(dtype) for x in torch.randn(3, 1, 4, 30 * 32, 16))
        precise = net.mix(q.float(), k.float(), v.float(), grid)
        assert net._cache is not None and all(net._cache.roots)
        separable = net.mix(q, k, v, grid)
        factors = [factor.to(dtype) for factor in net.factors(grid)]
        direct = mix_directly(*normalise(q, k), v, factors, grid, 30)
        assert separable.dtype == dtype
        error = relative_error(direct, precise)
        assert error < 0.03 and relative_error(separable, precise) < max(2 * error, 0.01)


class TestWaysOfMixing:
    @torch.no_grad()
    @pytest.mark.parametrize("grid", [(7, 5), (12, 9), (4, 5, 6)])
    @pytest.mark.parametrize("chunk", [1, 3, 10, 34, 10**6])
    def test_chunks(self, make: Make, grid: tuple[int, ...], chunk: int) -> None:
        tokens = math.prod(grid)
        factors = make(grid).factors(list(grid))
        q, k, v = torch.randn(3, 2, 4, tokens, 16)
        whole = mix_directly(q, k, v, factors, list(grid), grid[0])
        parts = mix_directly(q, k, v, factors, list(grid), grid[0], budget=chunk * 2 * 4 * tokens)
        assert relative_error(parts, whole) < 1e-6

    @torch.no_grad()
    def test_keys_out_of_reach(self, make: Make) -> None:
        """What is left out is what the tolerance allows, and what is kept is in the right place."""
        grid, sigma = [50, 6], torch.tensor([0.01, 0.02])
        factors = [axis_factors(sigma, size, size) for size in grid]
        q, k, v = torch.randn(3, 1, 2, 300, 16)
        whole = mix_directly(q, k, v, factors, grid, 50)
        reach = math.ceil(0.02 * 50 * math.sqrt(-2 * math.log(mixing.TOLERANCE)))
        assert reach < 10
        for budget in (2 * 300 * 7, 2**20):
            assert relative_error(mix_directly(q, k, v, factors, grid, reach, budget), whole) < 3e-6
        assert relative_error(mix_directly(q, k, v, factors, grid, 1, 2 * 300 * 7), whole) > 1e-3

    @torch.no_grad()
    @pytest.mark.parametrize("grid", [(7, 5), (5, 24), (1, 9), (9, 1), (4, 5, 6)])
    @pytest.mark.parametrize("sigma", [0.003, 0.05, 0.39])
    def test_separably(self, grid: tuple[int, ...], sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
        widths = torch.tensor([sigma])
        factors = [axis_factors(widths, size, size) for size in grid]
        (root,) = axis_roots(widths, grid[-1], grid[-1], mixing.TOLERANCE)
        q, k, v = torch.randn(3, 2, math.prod(grid), 16)
        direct = mix_directly(q[:, None], k[:, None], v[:, None], factors, list(grid), grid[0])[:, 0]
        for budget in (mixing.CHUNK_ON_CPU, 1):
            monkeypatch.setattr(mixing, "CHUNK_ON_CPU", budget)
            few = [factor[0] for factor in factors[:-1]]
            separable = mix_separably(q, k, v, few, (root[0].float(), root[1].float()), list(grid))
            assert relative_error(separable, direct) < 3e-6

    @torch.no_grad()
    def test_large_grids_take_the_cheaper_way(self, make: Make) -> None:
        net = make((40, 40))
        net.theta.copy_(torch.tensor([0.0, 1.0, -6.0, -5.0]))  # two wide, two narrow
        net(inputs((40, 40)))
        assert net._cache is not None
        assert [root is not None for root in net._cache.roots] == [True, True, False, False]
        assert 0 < net._cache.reach < 10
        net(inputs((6, 6)))
        assert net._cache.roots[1:] == [None] * 3


class TestDistanceMap:
    @pytest.mark.parametrize("grid", [(7, 5), (3, 4, 5)])
    def test_rows(self, grid: tuple[int, ...]) -> None:
        sigma = torch.tensor([0.003, 0.05, 0.4], dtype=torch.float64)
        factors = [axis_factors(sigma, size, size) for size in grid]
        whole = torch.exp(-squared_distances(grid, sigma) / (2 * sigma[:, None, None] ** 2))
        whole /= whole.sum(-1, keepdim=True)
        torch.testing.assert_close(distance_rows(factors, list(grid), 0, math.prod(grid)), whole)
        torch.testing.assert_close(distance_rows(factors, list(grid), 4, 17), whole[:, 4:17])

    @pytest.mark.parametrize("tolerance", [1e-3, 1e-7])
    @pytest.mark.parametrize(("size", "unit"), [(1, 1), (9, 9), (64, 64), (50, 16)])
    def test_roots_keep_their_bound(self, size: int, unit: int, tolerance: float) -> None:
        sigma = torch.tensor([0.003, 0.03, 0.1, 0.2, 0.4])
        factors = axis_factors(sigma.double(), size, unit)
        for factor, (left, right) in zip(factors, axis_roots(sigma, size, unit, tolerance), strict=True):
            bound = tolerance * factor.amax(-1, keepdim=True) + 1e-12
            assert ((left @ right - factor).abs() <= bound).all()
            assert left.shape == (size, len(right)) and right.shape[1] == size
        if size == 64:
            assert len(right) <= (6 if tolerance == 1e-3 else 11)  # the widest

    def test_sigma_stays_between_its_bounds(self, make: Make) -> None:
        net = CSA(2, 4, 3, alpha=0.6)
        with torch.no_grad():
            net.theta.copy_(torch.tensor([-50.0, 0.0, 50.0]))
        torch.testing.assert_close(net.sigma(), torch.tensor([0.003, 0.3015, 0.6]))

    def test_initial_sigma(self) -> None:
        net = CSA(2, 4, 3, initial_sigma=(0.01, 0.16))
        torch.testing.assert_close(net.sigma(), torch.tensor([0.01, 0.04, 0.16]))


class TestCache:
    """What evaluation keeps is made anew whenever it no longer fits."""

    @pytest.fixture(params=[(9, 8), (24, 26)], ids=["direct", "separable"])
    def grid(self, request: pytest.FixtureRequest) -> tuple[int, int]:
        return request.param  # type: ignore[no-any-return]

    @pytest.fixture
    def net(self, make: Make, grid: tuple[int, int]) -> CSA:
        net = make(grid)
        with torch.no_grad():
            net(inputs(grid))
        return net

    @staticmethod
    def check(net: CSA, x: Tensor) -> None:
        with torch.no_grad():
            fresh = copy.deepcopy(net)
            assert fresh._cache is None
            expected = fresh(x)
            assert torch.equal(net(x), expected)
            assert relative_error(net(x), by_publication(fresh.double(), x.double())) < 1e-5

    def test_is_used(self, net: CSA, grid: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*arguments: object) -> None:
            raise AssertionError("made again")

        monkeypatch.setattr(csa_module, "axis_factors", fail)
        monkeypatch.setattr(csa_module, "axis_roots", fail)
        with torch.no_grad():
            net(inputs(grid))
        with torch.inference_mode():
            net(inputs(grid))
        with pytest.raises(AssertionError, match="made again"):
            net(inputs(grid))  # gradients are wanted

    def test_optimizer_step(self, net: CSA, grid: tuple[int, int]) -> None:
        x = inputs(grid)
        optimizer = torch.optim.AdamW(net.parameters(), 0.5)
        net(x).square().sum().backward()
        optimizer.step()
        self.check(net, x)

    def test_edit_behind_autograd(self, net: CSA, grid: tuple[int, int]) -> None:
        net.theta.data[1] += 0.5
        self.check(net, inputs(grid))
        net.theta.data = torch.randn(4)
        self.check(net, inputs(grid))
        with torch.inference_mode():
            net.theta.data.mul_(0.5)
        self.check(net, inputs(grid))

    def test_new_parameter(self, net: CSA, grid: tuple[int, int]) -> None:
        net.theta = torch.nn.Parameter(torch.randn(4))
        self.check(net, inputs(grid))

    def test_load_state_dict(self, net: CSA, grid: tuple[int, int]) -> None:
        state = {name: value + 0.25 for name, value in net.state_dict().items()}
        net.load_state_dict(state)
        self.check(net, inputs(grid))
        net.load_state_dict({name: value + 0.25 for name, value in state.items()}, assign=True)
        self.check(net, inputs(grid))

    def test_other_grid(self, net: CSA, grid: tuple[int, int]) -> None:
        for other in ((8, 9), (72, 1), (24, 25), grid):
            self.check(net, inputs(other))

    def test_dtype(self, net: CSA, grid: tuple[int, int]) -> None:
        x = inputs(grid)
        with torch.no_grad():
            expected = net(x)
            with torch.autocast("cpu", torch.bfloat16):
                assert net(x).dtype == torch.bfloat16
            assert torch.equal(net(x), expected)
            net.double()
            assert relative_error(net(x.double()), by_publication(net, x.double())) < 1e-6
            net.float()
            assert torch.equal(net(x), expected)

    def test_device(self, net: CSA, grid: tuple[int, int]) -> None:
        x = inputs(grid)
        with torch.no_grad():
            expected = net(x)
            shape = copy.deepcopy(net).to("meta")
            shape._cache = net._cache
            assert shape.factors(list(grid))[0].is_meta
            if not torch.cuda.is_available():
                pytest.skip("needs a second device: there is no CUDA")
            assert relative_error(net.cuda()(x.cuda()).cpu(), expected) < 1e-4
            assert torch.equal(net.cpu()(x), expected)

    def test_training_and_evaluation_in_turn(self, net: CSA, grid: tuple[int, int]) -> None:
        x = inputs(grid)
        optimizer = torch.optim.SGD(net.parameters(), 1.0)
        for _ in range(2):
            optimizer.zero_grad()
            (net.train()(x) * torch.randn_like(x)).mean().backward()
            optimizer.step()
            self.check(net.eval(), x)

    def test_two_users_of_one_net(self, net: CSA, grid: tuple[int, int]) -> None:
        """Calls with other grids in between, as by threads."""
        x, other = inputs(grid), inputs((5, 6))
        with torch.no_grad():
            expected = net(x), net(other)
            for _ in range(2):
                assert torch.equal(net(x), expected[0]) and torch.equal(net(other), expected[1])


class TestCost:
    @pytest.mark.slow
    def test_memory(self) -> None:
        ours, published = (in_own_process(peak_of, name, 64, 8, 64) for name in ("ours", "published"))
        assert 3 * ours < published
