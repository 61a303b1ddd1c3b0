"""Percentiles and scaling, beside MONAI's own."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRangePercentilesd

from convformer_monai.transforms import ScalePercentilesd
from convformer_monai.transforms.percentiles import percentiles


@pytest.mark.parametrize("size", [1, 2, 3, 99, 101, 4096, 300_001])
@pytest.mark.parametrize("whole", [False, True])
def test_percentiles_are_those_of_torch(size: int, whole: bool) -> None:
    values = torch.randn(size, generator=torch.Generator().manual_seed(size)) * 300
    values = values.round() if whole else values
    for percent, found in zip((0.0, 1.0, 37.3, 99.0, 100.0), percentiles(values, (0, 1, 37.3, 99, 100)), strict=True):
        expected = torch.quantile(values, torch.tensor([percent], dtype=torch.float64).div(100).float())
        assert torch.equal(found, expected)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("shape", [(3, 24, 20, 4), (1, 110, 100, 100)])
def test_scaling_is_that_of_monai(shape: tuple[int, ...], clip: bool) -> None:
    image = MetaTensor(torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 50 + 10)
    options = {"lower": 1, "upper": 99, "b_min": -1.0, "b_max": 1.5, "clip": clip}
    expected = ScaleIntensityRangePercentilesd("image", **options, channel_wise=True)({"image": image.clone()})["image"]
    found = ScalePercentilesd("image", **options)({"image": image})["image"]
    assert isinstance(found, MetaTensor) and torch.equal(found.as_tensor(), expected.as_tensor())


def test_channels_are_scaled_by_themselves_and_the_input_stays() -> None:
    image = torch.stack([torch.arange(101.0), torch.arange(101.0) * 1000])
    before = image.clone()
    found = ScalePercentilesd("image", 0, 100)({"image": image})["image"]
    assert torch.equal(image, before)
    torch.testing.assert_close(found[0], found[1])
    assert found.min() == 0 and found.max() == 1


@pytest.mark.parametrize(("lower", "upper"), [(99, 1), (-1, 50), (5, 101), (5, 5)])
def test_percentiles_must_be_in_order(lower: float, upper: float) -> None:
    with pytest.raises(ValueError, match=f"got {lower:.1f} and {upper:.1f}|got {lower} and {upper}"):
        ScalePercentilesd("image", lower, upper)
