"""Receptive fields of ConvFormer heads with known standard deviations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from convformer_monai.analysis import measure_receptive_fields
from convformer_monai.analysis.receptive_field import effective_tokens
from convformer_monai.networks import CSA, SETR, Patcher, make_net


def test_lengths() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), CSA(2, 4, 2, 2, initial_sigma=(0.05, 0.2)))
    narrow, wide = measure_receptive_fields(net, torch.zeros(3, 1, 64, 96), spacing=(1.5, 2.0))
    assert (narrow.layer, narrow.head, wide.head, narrow.grid) == ("1", 0, 1, (16, 24))
    assert (narrow.sigma, wide.sigma) == (pytest.approx(0.05), pytest.approx(0.2))
    assert wide.sigma_tokens == pytest.approx((3.2, 4.8))
    assert wide.sigma_pixels == pytest.approx((12.8, 19.2))
    assert wide.sigma_mm == pytest.approx((19.2, 38.4))
    for field in (narrow, wide):
        for width, sigma in ((field.fwhm_tokens, field.sigma_tokens), (field.fwhm_pixels, field.sigma_pixels)):
            for half, deviation in zip(width, sigma, strict=True):
                assert math.exp(-((half / 2) ** 2) / (2 * deviation**2)) == pytest.approx(0.5)
    assert wide.fwhm_mm == pytest.approx(tuple(2.354820045 * one for one in wide.sigma_mm))


def test_a_fixed_reference_grid() -> None:
    net = CSA(2, 4, 1, 4, initial_sigma=(0.1,), grid_size=32)
    small, large = (measure_receptive_fields(net, torch.zeros(1, 4, n, n))[0] for n in (16, 64))
    assert small.sigma_tokens == large.sigma_tokens == pytest.approx((3.2, 3.2))
    assert small.sigma_mm is None and small.fwhm_mm is None and small.fwhm_pixels is not None


def test_three_dimensions() -> None:
    (field,) = measure_receptive_fields(CSA(3, 4, 1, 4), torch.zeros(1, 4, 4, 5, 6), spacing=(1, 1, 3))
    assert len(field.sigma_tokens) == len(field.fwhm_mm) == 3


@pytest.mark.parametrize(("sigma", "tokens"), [(0.003, 1), (0.05, 44), (0.1, 175), (0.2, 624), (0.4, 975)])
def test_effective_tokens(sigma: float, tokens: int) -> None:
    """The numbers of tokens in the middle of a grid of 32 x 32."""
    assert float(effective_tokens(torch.tensor([sigma]), 32, 32)) ** 2 == pytest.approx(tokens, abs=0.6)
    net = CSA(2, 4, 1, 4, initial_sigma=(0.1,))
    assert measure_receptive_fields(net, torch.zeros(1, 4, 32, 32))[0].effective_tokens == pytest.approx(175, abs=0.6)


def test_patcher() -> None:
    sizes = {"channels": (8, 8), "num_layers": (1, 2), "num_heads": (1, 2), "reductions": (2, 1)}
    given = {"patch_size": 8, "context": 2, "block_kwargs": {"initial_sigma": (0.25,)}}
    fields = measure_receptive_fields(Patcher(1, 2, **sizes, **given), torch.zeros(1, 1, 32, 48), (1.0, 1.0))
    assert len(fields) == 1 + 2 * 2 and fields[1].layer == "stages.1.layers.0.mixer"
    for field, stride in zip(fields, (2, 4, 4, 4, 4), strict=True):
        assert field.grid == (6, 6) and field.sigma_tokens == pytest.approx((1.5, 1.5))
        assert field.sigma_pixels == field.sigma_mm == pytest.approx((1.5 * stride, 1.5 * stride))


@pytest.mark.parametrize("block", ["vit", "identity", "conv"])
def test_other_blocks_have_none(block: str) -> None:
    assert measure_receptive_fields(make_net("SETR", 1, 2, block, "small"), torch.zeros(1, 1, 32, 32)) == []


def test_wrong_spacing() -> None:
    with pytest.raises(ValueError, match=r"spacing must hold one number for each of 2 axes, got \(1, 1, 1\)"):
        measure_receptive_fields(SETR(1, 2, 16, 4, 16, 1, 1, 8, 8), torch.zeros(1, 1, 16, 16), (1, 1, 1))
