"""Parts without a confident core are not kept."""

import pytest
import torch
from monai.data import MetaTensor

from convformer_monai.transforms import KeepConfidentPartsd


def scores_of(probability: torch.Tensor) -> torch.Tensor:
    """(2, X, Y, Z) scores whose softmax is 1 - probability and probability."""
    return torch.stack([torch.log1p(-probability), probability.log()]) + 3.0


@pytest.fixture
def probability() -> torch.Tensor:
    """One part with a core across two slices, one without, in one slice."""
    volume = torch.full((8, 8, 3), 0.1)
    volume[1:3, 1:3, 0] = 0.6
    volume[1, 1, 1] = 0.97
    volume[5:7, 5:7, 1] = 0.9
    return volume


def mask_of(scores: torch.Tensor) -> torch.Tensor:
    return scores.softmax(0)[1] > 0.5


def test_only_parts_with_a_core_are_kept_whole(probability: torch.Tensor) -> None:
    before = scores_of(probability)
    after = KeepConfidentPartsd("pred", peak=0.95)({"pred": before})["pred"]
    expected = probability > 0.5
    assert expected.sum() == 4 + 1 + 4
    expected[5:7, 5:7, 1] = False
    assert torch.equal(mask_of(after), expected)
    kept = ~(probability == 0.9)
    assert torch.equal(after[:, kept], before[:, kept]), "nothing else changes"
    assert mask_of(before).sum() == 9, "the input is left alone"


def test_every_part_is_kept_at_one_half(probability: torch.Tensor) -> None:
    before = scores_of(probability)
    assert torch.equal(KeepConfidentPartsd("pred", peak=0.5)({"pred": before})["pred"], before)


def test_threshold(probability: torch.Tensor) -> None:
    after = KeepConfidentPartsd("pred", peak=0.95, threshold=0.8)({"pred": scores_of(probability)})["pred"]
    assert torch.equal(mask_of(after), probability == 0.97)
    after = KeepConfidentPartsd("pred", peak=0.8, threshold=0.8)({"pred": scores_of(probability)})["pred"]
    assert torch.equal(mask_of(after), probability > 0.8)
    at_threshold = KeepConfidentPartsd("pred", peak=0.9, threshold=0.9)({"pred": scores_of(torch.full((1, 1, 1), 0.9))})
    assert at_threshold["pred"].softmax(0).flatten().tolist() == pytest.approx([0.5, 0.5], abs=1e-5)


def test_parts_touch_at_corners(probability: torch.Tensor) -> None:
    probability[4, 4, 2] = 0.99  # touches the corner of the part without a core, in the next slice
    after = KeepConfidentPartsd("pred", peak=0.95)({"pred": scores_of(probability)})["pred"]
    assert mask_of(after).sum() == 10


def test_phases_by_themselves_and_metadata_stays(probability: torch.Tensor) -> None:
    empty = torch.full_like(probability, 0.1)
    scores = MetaTensor(
        torch.cat([scores_of(empty), scores_of(probability)]), affine=torch.diag(torch.tensor([2.0] * 4))
    )
    after = KeepConfidentPartsd("pred", peak=0.95)({"pred": scores})["pred"]
    assert isinstance(after, MetaTensor) and torch.equal(after.affine, scores.affine)
    assert torch.equal(after[:2], scores[:2]) and mask_of(after[2:]).sum() == 5


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="peak must lie within threshold=0.5 and 1, got 0.4"):
        KeepConfidentPartsd("pred", peak=0.4)
    with pytest.raises(ValueError, match="threshold must lie between 0 and 1, got 1"):
        KeepConfidentPartsd("pred", peak=1, threshold=1)
    with pytest.raises(ValueError, match="two channels for each phase, got 3"):
        KeepConfidentPartsd("pred", peak=0.9)({"pred": torch.zeros(3, 4, 4, 1)})


def test_what_lies_in_one_slice_needs_a_higher_peak(probability: torch.Tensor) -> None:
    scores = scores_of(probability)
    kept = mask_of(KeepConfidentPartsd("pred", peak=0.85, lone_peak=0.95)({"pred": scores})["pred"])
    assert kept[1, 1, 1] and not kept[5:7, 5:7].any()
    single = KeepConfidentPartsd("pred", peak=0.85, lone_peak=0.95)({"pred": scores[..., 1:2]})["pred"]
    assert mask_of(single)[5:7, 5:7].all(), "a slice alone has no others to be seen in"


def test_tiny_parts_are_not_kept(probability: torch.Tensor) -> None:
    image = MetaTensor(torch.zeros(1, 8, 8, 3), affine=torch.diag(torch.tensor([1.0, 1.0, 5.0, 1.0])))
    clean = KeepConfidentPartsd("pred", peak=0.5, least_ml=0.022)  # four voxels are 0.020 mL, five 0.025 mL
    kept = mask_of(clean({"pred": scores_of(probability), "image": image})["pred"])
    assert kept.sum() == 5 and not kept[5:7, 5:7].any()


@pytest.mark.parametrize(("spacing", "kept"), [(1.0, False), (1.5, True), (5.0, True)])
def test_a_part_must_be_as_deep_as_blood(spacing: float, kept: bool) -> None:
    """Two slices of 1 mm are too little for 3 mm; where the image itself is thinner, depth tells nothing."""
    scores = torch.full((2, 4, 4, 4), -8.0)
    scores[0] = 0
    scores[1, 1:3, 1:3, 1:3] = 8.0
    image = MetaTensor(torch.zeros(1, 4, 4, 4), affine=torch.diag(torch.tensor([1.0, 1.0, spacing, 1.0])))
    clean = KeepConfidentPartsd("pred", peak=0.5, least_mm=3.0)
    assert mask_of(clean({"pred": scores, "image": image})["pred"]).any() == kept
    thin = {"pred": scores[..., 1:2], "image": image[..., 1:2]}
    assert mask_of(clean(thin)["pred"]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lone_peak": 0.5}, "lone_peak"), ({"least_ml": -1.0}, "least_ml"), ({"least_mm": -1.0}, "least_mm")],
)
def test_wrong_evidence(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeepConfidentPartsd("pred", peak=0.9, **options)
