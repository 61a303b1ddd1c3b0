"""What every block and every net must do: inherited by the tests of both.

A test module that inherits :class:`Contract` defines a fixture ``case`` over its blocks or nets.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

Randomise = Callable[..., nn.Module]


@dataclass(frozen=True)
class Case:
    """A module to build, and the images or feature maps that it takes.

    Args:
        make: builds the module.
        in_channels: channels of its input.
        out_channels: channels of its output.
        size: a convenient size of its input.
        other_sizes: sizes that are harder: odd, uneven, small.
    """

    make: Callable[[], nn.Module]
    in_channels: int
    out_channels: int
    size: tuple[int, ...]
    other_sizes: tuple[tuple[int, ...], ...]

    def input(self, batch: int = 2, size: tuple[int, ...] | None = None) -> Tensor:
        return torch.randn(batch, self.in_channels, *(size or self.size))


def relative_error(result: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected; both may not be all zero."""
    result, expected = result.detach().double(), expected.detach().double()
    return float((result - expected).norm() / expected.norm())


def finest(output: Tensor | list[Tensor]) -> Tensor:
    """The output proper, where deep supervision returns several."""
    return output[0] if isinstance(output, list) else output


class Contract:
    """Tests on a fixture ``case``, every parameter and every batch statistic randomised."""

    tolerance = 1e-5

    @pytest.fixture
    def net(self, case: Case, randomise: Randomise) -> nn.Module:
        return randomise(case.make()).eval()

    def test_shape(self, case: Case, net: nn.Module) -> None:
        for size in (case.size, *case.other_sizes):
            with torch.no_grad():
                output = net(case.input(size=size))
            assert output.shape == (2, case.out_channels, *size)
            assert output.dtype == torch.float32 and output.isfinite().all()

    def test_every_parameter_gets_a_gradient(self, case: Case, net: nn.Module) -> None:
        outputs = net.train()(case.input())
        outputs = outputs if isinstance(outputs, list) else [outputs]
        sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
        missing = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not missing
        # A bias just before a batch norm does nothing in training mode, up to rounding, but does in evaluation mode.
        finest(net.eval()(case.input())).square().sum().backward()
        without = [name for name, p in net.named_parameters() if not p.grad.any()]
        assert not without

    def test_with_and_without_gradient(self, case: Case, net: nn.Module) -> None:
        for size in (case.size, *case.other_sizes):
            x = case.input(size=size)
            with torch.no_grad():
                result = net(x)
            assert relative_error(result, net(x)) < self.tolerance

    def test_script(self, case: Case, net: nn.Module) -> None:
        with torch.no_grad():
            net(case.input())  # fills caches, which must not be in the way
        scripted = torch.jit.script(net)
        buffer = io.BytesIO()
        torch.jit.save(scripted, buffer)
        buffer.seek(0)
        loaded = torch.jit.load(buffer)
        for size in (case.size, case.other_sizes[0]):
            x = case.input(size=size)
            assert relative_error(loaded(x), net(x)) < self.tolerance
            with torch.no_grad():
                assert relative_error(loaded(x), net(x)) < self.tolerance

    def test_export_with_dynamic_batch(self, case: Case, net: nn.Module) -> None:
        with torch.no_grad():
            net(case.input())
            program = torch.export.export(net, (case.input(),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        for batch in (1, 3):
            x = case.input(batch)
            assert relative_error(program.module()(x), net(x)) < self.tolerance

    def test_save_and_load(self, case: Case, net: nn.Module) -> None:
        buffer = io.BytesIO()
        torch.save(net.state_dict(), buffer)
        buffer.seek(0)
        other = case.make().eval()
        other.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
        x = case.input()
        with torch.no_grad():
            assert torch.equal(other(x), net(x))

    def test_copies_and_pickles(self, case: Case, net: nn.Module) -> None:
        x = case.input()
        with torch.no_grad():
            expected = net(x)
            assert torch.equal(copy.deepcopy(net)(x), expected)
            buffer = io.BytesIO()
            torch.save(net, buffer)
            buffer.seek(0)
            assert torch.equal(torch.load(buffer, weights_only=False)(x), expected)

    def test_autocast(self, case: Case, net: nn.Module) -> None:
        x = case.input()
        with torch.no_grad():
            expected = net(x)
            with torch.autocast("cpu", torch.bfloat16):
                assert relative_error(net(x), expected) < 0.05
            assert torch.equal(net(x), expected)  # nothing of low precision is left behind
        if len(case.size) == 3:
            # torch 2.13 on the CPU: the weights' gradients of 3-D convolutions on a few voxels hold unset memory
            x = case.input(size=tuple(2 * side for side in case.size))
        with torch.autocast("cpu", torch.bfloat16):
            finest(net.train()(x)).float().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())

    def test_double(self, case: Case, net: nn.Module) -> None:
        x = case.input()
        with torch.no_grad():
            expected = net(x)
            result = net.double()(x.double())
        assert result.dtype == torch.float64
        assert relative_error(expected, result) < self.tolerance

    def test_batch_of_one(self, case: Case, net: nn.Module) -> None:
        x = case.input(3)
        with torch.no_grad():
            together = net(x)
            alone = torch.cat([net(x[i : i + 1]) for i in range(3)])
        assert relative_error(alone, together) < self.tolerance
        finest(net.train()(x[:1])).sum().backward()  # batch norm has more than one grid point

    def test_determinism(self, case: Case, net: nn.Module) -> None:
        x = case.input()
        with torch.no_grad():
            assert torch.equal(net(x), net(x))

        def train() -> list[Any]:
            torch.manual_seed(1)
            trained = copy.deepcopy(net).train()
            finest(trained(x)).sum().backward()
            return [p.grad for p in trained.parameters()]

        for first, second in zip(train(), train(), strict=True):
            assert (first is None and second is None) or torch.equal(first, second)

    def test_memory_format(self, case: Case, net: nn.Module) -> None:
        x = case.input()
        form = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        with torch.no_grad():
            expected = net(x)
            result = net.to(memory_format=form)(x.contiguous(memory_format=form))
        assert relative_error(result, expected) < self.tolerance

    def test_meta_tensor(self, case: Case, net: nn.Module) -> None:
        x = case.input()
        with torch.no_grad():
            result = net(MetaTensor(x))
            assert relative_error(torch.as_tensor(result), net(x)) < self.tolerance

    def test_input_is_left_alone(self, case: Case, net: nn.Module) -> None:
        x = case.input()
        before = x.clone()
        with torch.no_grad():
            net(x)
        assert torch.equal(x, before)
