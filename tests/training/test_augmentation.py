import pytest
import torch

from convformer_monai.training import BatchAugmentation

STILL = {"rotation": 0, "scale": (1, 1), "aspect": 0, "shear": 0, "shift": 0, "anywhere": 0, "elastic": 0, "flip": 0}
STILL |= {"quarter_turns": 0, "intensity": 0}


def batch(count: int = 4) -> dict[str, torch.Tensor]:
    image = torch.randn(count, 1, 64, 48).cumsum(-1)
    label = torch.zeros(count, 1, 64, 48, dtype=torch.uint8)
    label[:, :, 20:41, 10:31] = 3  # centre (30, 20)
    return {"image": image.half(), "label": label}


def test_with_everything_off_it_only_crops_about_the_label():
    data = batch()
    image, label = BatchAugmentation((15, 11), **STILL)(data, "cpu")
    assert torch.allclose(image, data["image"][:, :, 23:38, 15:26].float(), atol=2e-3)
    assert torch.equal(label, data["label"][:, :, 23:38, 15:26].float())


def test_empty_slice_is_cropped_about_its_own_centre():
    data = batch()
    data["label"].zero_()
    image, _ = BatchAugmentation((10, 10), **STILL)(data, "cpu")
    assert torch.allclose(image, data["image"][:, :, 27:37, 19:29].float(), atol=2e-3)


@pytest.mark.parametrize("change", [{"rotation": 45}, {"scale": (0.7, 1.4)}, {"elastic": 6}, {"flip": 1}, {"shift": 9}])
def test_image_and_label_move_together(change):
    data = batch()
    data["image"] = data["label"].half()
    image, label = BatchAugmentation((40, 40), **{**STILL, **change})(data, "cpu")
    inside, outside = image[label == 3], image[label == 0]
    assert (inside >= 1.5 - 1e-2).float().mean() > 0.97
    assert (outside <= 1.5 + 1e-2).float().mean() > 0.97


def test_flip_reverses_both_axes_when_certain():
    data = batch()
    image, _ = BatchAugmentation((15, 11), **{**STILL, "flip": 1.0})(data, "cpu")
    assert torch.allclose(image, data["image"][:, :, 23:38, 15:26].float().flip(2, 3), atol=2e-3)


def test_labels_stay_labels_and_items_differ():
    torch.manual_seed(0)
    data = batch(8)
    data["image"][:] = data["image"][:1]
    image, label = BatchAugmentation((48, 48), intensity=1.0)(data, "cpu")
    assert set(label.unique().tolist()) <= {0.0, 3.0}
    assert torch.isfinite(image).all()
    assert image.shape == label.shape == (8, 1, 48, 48)
    differences = (image[:1] - image[1:]).abs().mean((1, 2, 3))
    assert (differences > 0.05).all()


def test_same_seed_same_batch():
    data, augment = batch(), BatchAugmentation((32, 32))
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(augment(data, "cpu"))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_constant_image_gives_no_nan():
    data = batch()
    data["image"].fill_(2.0)
    image, _ = BatchAugmentation((32, 32), intensity=1.0)(data, "cpu")
    assert torch.isfinite(image).all()
