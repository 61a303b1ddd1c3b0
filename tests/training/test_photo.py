import pytest
import torch

from convformer_monai.training import PhotoArtefacts, PhotoColours


def photos(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.full((count, 3, 96, 72), 180.0)
    label = torch.zeros(count, 1, 96, 72)
    label[:, :, 30:60, 20:50] = 1
    return image, label


@pytest.mark.parametrize("change", [PhotoColours(1.0), PhotoArtefacts(1, 1, 1, 1, 1)])
def test_pictures_stay_pictures_and_differ(change):
    image, label = photos()
    done = change(image, label)
    assert done.shape == image.shape and torch.isfinite(done).all()
    assert done.min() >= 0 and done.max() <= 255
    assert len({round(float(one), 3) for one in done.mean((1, 2, 3))}) == len(done)


@pytest.mark.parametrize("change", [PhotoColours(0, grey=0), PhotoArtefacts(0, 0, 0, 0, 0)])
def test_nothing_happens_at_probability_0(change):
    image, label = photos()
    assert torch.allclose(change(image, label), image, atol=1e-3)


def test_colours_can_be_lost():
    image = torch.rand(4, 3, 16, 16) * 255
    done = PhotoColours(0, grey=1.0)(image, torch.zeros(4, 1, 16, 16))
    assert torch.allclose(done[:, 0], done[:, 2], atol=1e-2)


@pytest.mark.parametrize("what", ["sticker", "ink"])
def test_sticker_and_ink_never_cover_what_is_labelled(what):
    image, label = photos(32)
    only = {"hair": 0, "ruler": 0, "sticker": 0, "ink": 0, "corners": 0, what: 1}
    done = PhotoArtefacts(**only)(image, label)
    changed = (done != image).any(1, keepdim=True)
    assert changed.any()
    assert not (changed & (label > 0)).any()


def test_corners_darken_the_corners_and_leave_the_middle():
    image, label = photos(32)
    done = PhotoArtefacts(hair=0, ruler=0, sticker=0, ink=0, corners=1)(image, label)
    assert torch.equal(done[:, :, 44:52, 32:40], image[:, :, 44:52, 32:40])
    assert (done[:, :, 0, 0] < image[:, :, 0, 0]).float().mean() > 0.5


def test_hair_is_thin():
    image, label = photos(16)
    done = PhotoArtefacts(hair=1, ruler=0, sticker=0, ink=0, corners=0)(image, label)
    covered = ((done - image).abs() > 20).any(1).float().mean((1, 2))
    assert 0 < covered.max() < 0.5 and covered.mean() < 0.2
