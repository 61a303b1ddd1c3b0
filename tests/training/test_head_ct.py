import torch

from convformer_monai.training import HeadCTIntensity, MovedNeighbours
from convformer_monai.training.head_ct import strip_skull, with_bone


def heads(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """A skull of two rings about brain of 32, with blood of 62 and skin outside."""
    x, y = torch.meshgrid(torch.arange(160.0), torch.arange(160.0), indexing="ij")
    radius = ((x - 80) ** 2 + (y - 80) ** 2).sqrt()
    image = torch.zeros(160, 160)
    image[radius < 70] = 20
    image[radius < 64] = 80
    image[radius < 56] = 32
    label = ((x - 90) ** 2 + (y - 70) ** 2).sqrt() < 10
    image[label] = 62
    return image.repeat(count, 1, 1, 1), label.float().repeat(count, 1, 1, 1)


def test_slices_stay_in_the_window_and_differ():
    image, label = heads()
    done = HeadCTIntensity(1.0, 0.5, 0.5, 0.5)(image, label)
    assert done.shape == image.shape and torch.isfinite(done).all()
    assert done.min() >= 0 and done.max() <= 80 + 1e-3
    assert len({round(float(one), 3) for one in done.mean((1, 2, 3))}) == len(done)


def test_blood_stays_brighter_than_brain_on_average():
    image, label = heads(64)
    done = HeadCTIntensity(1.0, 0.3, 0.3, 0.3)(image, label)
    x, y = torch.meshgrid(torch.arange(160.0), torch.arange(160.0), indexing="ij")
    brain = (((x - 60) ** 2 + (y - 95) ** 2).sqrt() < 10).expand_as(done)
    blood_mean = (done * label).sum((1, 2, 3)) / label.sum((1, 2, 3))
    brain_mean = (done * brain).sum((1, 2, 3)) / brain.sum((1, 2, 3))
    assert (blood_mean > brain_mean + 2).all()


def test_wide_window_leaves_the_brain_dark():
    image, label = heads()
    done = HeadCTIntensity(0, wide=1.0, strip=0, background=0)(image, label)
    assert (done[:, 0, 60, 95] < 25).all()


def test_without_changes_only_the_window_is_left():
    image, label = heads()
    done = HeadCTIntensity(0, 0, 0, 0)(image + 500 * (image == 80), label)
    assert torch.allclose(done, image, atol=80 / 63)


def test_stripping_removes_skull_and_skin_and_keeps_brain_and_blood():
    image, label = heads()
    done = strip_skull(image, label)
    assert not done[image == 80].any() and not done[image == 20].any()
    assert (done[label > 0] == 62).all()
    inner = (image == 32) & (done == 32)
    assert inner.sum() > 0.9 * (image == 32).sum()


def test_blood_as_bright_as_bone_is_kept():
    image, label = heads()
    image[label > 0] = 80
    assert (strip_skull(image, label)[label > 0] == 80).all()


def test_open_skull_is_not_stripped():
    image, label = heads()
    image[:, :, 75:85, :80] = 0
    image[:, :, 80:81, :] = 0
    open_skull = image.clone()
    assert torch.equal(strip_skull(open_skull, torch.zeros_like(label)), open_skull)


def test_a_cut_picture_gets_bone_and_air_and_keeps_the_brain():
    image, label = heads()
    done = with_bone(image)
    brain = (image > 0) & (image < 78)
    assert torch.equal(done[brain], image[brain])
    ring = done[(image == 80)]
    assert ring.max() > 300 and ring.min() >= 80
    assert done[:, 0, 0, 0].max() < -999


def test_slices_in_hounsfield_units_keep_their_bone():
    image, _ = heads()
    image = image + 500 * (image == 80)
    assert torch.equal(with_bone(image), image)


def test_moved_neighbours_replace_copies_only():
    torch.manual_seed(0)
    image, label = heads(8)
    stacks = image.repeat(1, 3, 1, 1)
    stacks[4:, 0] += 1  # these have neighbours of their own
    done = MovedNeighbours(1.0)(stacks, label)
    assert torch.equal(done[:, 1], stacks[:, 1]) and torch.equal(done[4:], stacks[4:])
    for place in (0, 2):
        difference = (done[:4, place] - stacks[:4, place]).abs().mean((1, 2))
        assert (difference > 0.5).all() and (difference < 10).all()
