from typing import Any

import pytest
import torch

from convformer_monai.training import BatchAugmentation, BatchGeometry, GreyIntensity

STILL: dict[str, Any] = {"rotation": 0, "scale": (1, 1), "aspect": 0, "shear": 0, "shift": 0, "anywhere": 0}
STILL |= {"elastic": 0, "flip": 0, "quarter_turns": 0}


def augmentation(size: Any, intensity: float | None = None, **geometry: Any) -> BatchAugmentation:
    looks = [] if intensity is None else [GreyIntensity(intensity)]
    return BatchAugmentation(BatchGeometry(size, **geometry), looks)


def batch(count: int = 4) -> dict[str, torch.Tensor]:
    image = torch.randn(count, 1, 64, 48).cumsum(-1)
    label = torch.zeros(count, 1, 64, 48, dtype=torch.uint8)
    label[:, :, 20:41, 10:31] = 3  # centre (30, 20)
    return {"image": image.half(), "label": label}


def test_with_everything_off_it_only_crops_about_the_label():
    data = batch()
    image, label = augmentation((15, 11), **STILL)(data, "cpu")
    assert torch.allclose(image, data["image"][:, :, 23:38, 15:26].float(), atol=2e-3)
    assert torch.equal(label, data["label"][:, :, 23:38, 15:26].float())


def test_empty_slice_is_cropped_about_its_own_centre():
    data = batch()
    data["label"].zero_()
    image, _ = augmentation((10, 10), **STILL)(data, "cpu")
    assert torch.allclose(image, data["image"][:, :, 27:37, 19:29].float(), atol=2e-3)


@pytest.mark.parametrize("change", [{"rotation": 45}, {"scale": (0.7, 1.4)}, {"elastic": 6}, {"flip": 1}, {"shift": 9}])
def test_image_and_label_move_together(change):
    data = batch()
    data["image"] = data["label"].half()
    image, label = augmentation((40, 40), **{**STILL, **change})(data, "cpu")
    inside, outside = image[label == 3], image[label == 0]
    assert (inside >= 1.5 - 1e-2).float().mean() > 0.97
    assert (outside <= 1.5 + 1e-2).float().mean() > 0.97


def test_flip_reverses_both_axes_when_certain():
    data = batch()
    image, _ = augmentation((15, 11), **{**STILL, "flip": 1.0})(data, "cpu")
    assert torch.allclose(image, data["image"][:, :, 23:38, 15:26].float().flip(2, 3), atol=2e-3)


def test_labels_stay_labels_and_items_differ():
    torch.manual_seed(0)
    data = batch(8)
    data["image"][:] = data["image"][:1]
    image, label = augmentation((48, 48), intensity=1.0)(data, "cpu")
    assert set(label.unique().tolist()) <= {0.0, 3.0}
    assert torch.isfinite(image).all()
    assert image.shape == label.shape == (8, 1, 48, 48)
    differences = (image[:1] - image[1:]).abs().mean((1, 2, 3))
    assert (differences > 0.05).all()


def test_same_seed_same_batch():
    data, augment = batch(), augmentation((32, 32))
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(augment(data, "cpu"))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_constant_image_gives_no_nan():
    data = batch()
    data["image"].fill_(2.0)
    image, _ = augmentation((32, 32), intensity=1.0)(data, "cpu")
    assert torch.isfinite(image).all()


def test_whole_image_fits_every_size_and_each_batch_gets_one_of_them():
    data = batch()
    augment = augmentation([(32, 24), (24, 32), (96, 72)], whole=True, padding="reflection", **STILL)
    seen = set()
    for _ in range(12):
        image, label = augment(data, "cpu")
        seen.add(tuple(image.shape[2:]))
        share = (label > 0).float().mean()
        assert share == pytest.approx(21 * 21 / (64 * 48), rel=0.15), "the same part of the picture at every size"
    assert seen == {(32, 24), (24, 32), (96, 72)}


def test_reflection_repeats_label_and_image_beyond_the_edge():
    data = batch(1)
    data["label"].zero_()[:, :, [*range(8), *range(56, 64)]] = 1  # its centre is the image's
    data["image"] = data["label"].half()
    image, label = augmentation((128, 48), whole=False, padding="reflection", **STILL)(data, "cpu")
    assert torch.equal(image, label)
    marked = label[0, 0].all(1).nonzero().flatten().tolist()
    assert marked == [*range(24, 40), *range(88, 104)]


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="padding must"):
        BatchGeometry((8, 8), padding="wrap")


def test_stronger_intensities_change_more_and_curves_keep_the_order():
    image = torch.rand(64, 1, 16, 16)
    label = torch.zeros_like(image)
    spread = []
    for strength in (1.0, 2.0):
        torch.manual_seed(0)
        changed = GreyIntensity(1.0, strength)(image, label)
        assert torch.isfinite(changed).all()
        spread.append((changed - image).abs().mean())
    assert spread[1] > 1.3 * spread[0]

    curved = GreyIntensity(0.0, curves=1.0)(image, label)
    assert not torch.allclose(curved, image, atol=0.02)
    for before, after in zip(image.flatten(1), curved.flatten(1), strict=True):
        assert (after[before.argsort()].diff() >= -1e-6).all()
        assert float(after.min()) == pytest.approx(float(before.min()), abs=1e-5)
        assert float(after.max()) == pytest.approx(float(before.max()), abs=1e-5)
