"""Fixtures of the bundles' tests; every test that uses one runs for each bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_kinds import KINDS, Kind, heads
from monai.bundle import ConfigWorkflow
from torch import nn

from convformer_monai.bundle import component


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    """A bundle and what it takes."""
    return KINDS[request.param]


@pytest.fixture
def bundle_root(kind: Kind) -> Path:
    """The bundle's folder."""
    return kind.root


@pytest.fixture
def weights(kind: Kind, tmp_path: Path, randomise: Callable[..., nn.Module]) -> Path:
    """Random weights, so that no test depends on the trained ones, whose classes all win somewhere.

    In volumes they win by far, since one bundle keeps only what its network is sure of.
    """
    net = randomise(component(kind.root, "inference", "network_def")).eval()
    noise = torch.randn(3, kind.channels, 6, 6, generator=torch.Generator().manual_seed(1))
    if kind.name == "hemorrhage":
        noise = 40 * (1 + noise)  # Hounsfield units
    with torch.no_grad():
        logits = net(nn.functional.interpolate(noise, size=(40, 36), mode="bicubic"))
        head = heads(net)[-1][-1]
        head.bias -= logits.mean(dim=(0, 2, 3))
        scale = 1.0 if kind.is_photo else 20 / float(logits.std())
        head.weight *= scale
        head.bias *= scale
    path = tmp_path / "random.pt"
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}, path)
    return path


@pytest.fixture
def workflow(kind: Kind, weights: Path) -> Callable[..., ConfigWorkflow]:
    """Makes the bundle's inference workflow, with random weights, on the CPU."""

    def make(**options: Any) -> ConfigWorkflow:
        configs = kind.root / "configs"
        defaults = {"bundle_root": str(kind.root), "weights": str(weights), "weights_sha256": "", "device": "cpu"}
        made = ConfigWorkflow(
            str(configs / "inference.json"),
            str(configs / "metadata.json"),
            False,
            workflow_type="infer",
            **{**defaults, **options},
        )
        made.initialize()
        return made

    return make
