import pytest
import torch

from convformer_monai.training import BatchAugmentation, PaintExtraAxialBlood


def heads(count: int = 8) -> torch.Tensor:
    """A skull of 90 pixels around brain of 32 with a calcification in the middle, skin outside."""
    x, y = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    radius = ((x - 120) ** 2 + (y - 130) ** 2).sqrt()
    image = torch.zeros(256, 256)
    image[radius < 105] = 20
    image[radius < 98] = 300
    image[radius < 90] = 32
    image[radius < 3] = 120
    return image.repeat(count, 1, 1, 1)


def distance_to_skull() -> torch.Tensor:
    x, y = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    return 90 - ((x - 120) ** 2 + (y - 130) ** 2).sqrt()


def test_blood_lies_under_the_skull_and_is_brighter_than_brain():
    image = heads(64)
    painted, blood = PaintExtraAxialBlood().paint(image)
    assert painted.shape == blood.shape == image.shape
    assert set(blood.unique().tolist()) == {0, 1}
    where = blood > 0
    assert where.flatten(1).any(1).float().mean() > 0.9
    depth = distance_to_skull().expand_as(image)
    assert depth[where].min() >= 0, "none outside of the skull"
    assert depth[where].max() < 40, "none deep in the brain, around the calcification"
    for one, mask in zip(painted, where, strict=True):
        if mask.sum() > 100:
            assert one[mask].mean() > 32 + 8
    assert (painted[where] < 95).all()
    assert torch.equal(painted[image != 32], image[image != 32]), "skull, skin, air and calcification are as before"


def test_shapes_differ_in_place_and_thickness():
    _, blood = PaintExtraAxialBlood().paint(heads(32))
    areas = blood.sum((1, 2, 3))
    assert areas.std() > 100
    assert not any(torch.equal(blood[0], other) for other in blood[1:])


@pytest.mark.parametrize("kind", ["stripped", "open", "small"])
def test_slices_without_a_closed_skull_stay(kind):
    image = heads(4)
    if kind == "stripped":
        image[image > 100] = 0
    elif kind == "open":
        image[:, :, 110:130, :128] = 0
    else:
        image = torch.nn.functional.pad(image[:, :, ::3, ::3], (85, 85, 85, 85))
    painted, blood = PaintExtraAxialBlood().paint(image)
    assert torch.equal(painted, image) and not blood.any()


def test_only_part_of_a_batch_is_painted_and_other_blood_is_kept():
    torch.manual_seed(0)
    image, label = heads(60), torch.zeros(60, 1, 256, 256, dtype=torch.uint8)
    label[:, :, 100:105, 120:125] = 1
    painted, blood = PaintExtraAxialBlood(0.5)(image, label)
    changed = (painted != image).flatten(1).any(1)
    assert 15 < changed.sum() < 45
    assert blood.dtype == label.dtype
    assert (blood >= label).all()
    assert torch.equal((blood > label).flatten(1).any(1), changed)
    untouched = PaintExtraAxialBlood(0)(image, label)
    assert torch.equal(untouched[0], image) and torch.equal(untouched[1], label)


def test_additions_come_before_the_geometry():
    order = []

    def add(image, label):
        order.append("add")
        return image + 1, label

    def geometry(image, label):
        order.append("geometry")
        return image, label

    image, _ = BatchAugmentation(geometry, additions=[add])(
        {"image": torch.zeros(1, 1, 4, 4), "label": torch.zeros(1, 1, 4, 4)}
    )
    assert order == ["add", "geometry"]
    assert (image == 1).all()
