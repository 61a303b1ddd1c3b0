"""Fixtures that every test may use."""

import logging
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on the CPU; Triton reads it when it is imported

REPOSITORY = Path(__file__).resolve().parents[1]

_register_builtin, _kept_ops = torch.jit._builtins._register_builtin, []


def _register_and_keep(op: object, name: str) -> None:
    """Keeps every op that TorchScript knows.

    Torch 2.13 knows them by ``id()`` and replaces some when ``torch.compile`` is first used. The id of one that is
    gone may be given to anything else, which ``torch.jit.script`` then takes for an op, and fails.
    """
    _kept_ops.append(op)
    _register_builtin(op, name)


torch.jit._builtins._register_builtin = _register_and_keep


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root folder."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real data, which is not part of the repository: `$CONVFORMER_DATA`, or `../shared/data` beside the clone."""
    folder = Path(os.environ.get("CONVFORMER_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs the real data, and there is none at {folder}: set CONVFORMER_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def bundle_root() -> Path:
    """The cardiac bundle's folder."""
    return REPOSITORY / "bundles" / "cardiac_mri_convformer_segmentation"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Commands set the level of our messages; no test leaves it behind."""
    ours = logging.getLogger("convformer_monai")
    level = ours.level
    yield
    ours.setLevel(level)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seeds every random generator before each test, so that a failure can be repeated."""
    value = 0
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
    return value


@pytest.fixture
def randomise() -> Callable[..., nn.Module]:
    """A function that gives a net random parameters and batch statistics, the same ones for the same seed.

    A net as built hides faults: scales of 1, shifts of 0 and running means of 0 cancel in any order.
    """

    def fill(net: nn.Module, seed: int = 0, scale: float = 1.0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)

        def normal(like: torch.Tensor) -> torch.Tensor:
            return torch.randn(like.shape, generator=generator).to(like)

        with torch.no_grad():
            for parameter in net.parameters():
                # He's scale for weights, so that signals neither vanish nor explode through the layers.
                fan_in = max(parameter[0].numel(), 1) if parameter.dim() > 1 else 4
                parameter.copy_(normal(parameter) * scale * fan_in**-0.5)
            for name, buffer in net.named_buffers():
                if name.endswith("running_mean"):
                    buffer.copy_(normal(buffer) * 0.1)
                elif name.endswith("running_var"):
                    buffer.copy_(torch.rand(buffer.shape, generator=generator).to(buffer) + 0.5)
        return net

    return fill
