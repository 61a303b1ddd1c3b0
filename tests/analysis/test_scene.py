"""A pixel of an image is the same place for the network, however the image is stored."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Resize

from convformer_monai.analysis import scene as scenes
from convformer_monai.analysis.scene import Scene, make_scene
from convformer_monai.errors import InputRefused
from convformer_monai.readers import ImageSeries
from convformer_monai.readers.memory import series_from
from convformer_monai.readers.volume import photo_tensor
from convformer_monai.segmenter import Segmenter


@pytest.fixture(scope="module")
def cardiac() -> Segmenter:
    return Segmenter("cardiac", "cpu")


def volume(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).random(shape, np.float32), np.diag([*spacing, 1.0])


def scene_of(segmenter: Segmenter, series: ImageSeries, labels: np.ndarray, *place: object) -> Scene:
    return make_scene(segmenter, series, labels[None].astype(np.uint8), *place)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (-1, -1, 1)])
def test_a_bright_spot_is_found_at_the_pixel(
    cardiac: Segmenter, order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    values, affine = volume((50, 62, 4), (1.1, 1.9, 8.0))
    values[27:42, 6:19, 2] = 40  # around (34, 12), more than the 1% that are clipped
    stored = values.transpose(order)[tuple(slice(None, None, flip) for flip in flips)]
    turned = affine[:, [*order, 3]]
    index = np.array([(34, 12, 2)[axis] for axis in order])
    for axis, flip in enumerate(flips):
        if flip < 0:
            turned[:, 3] += turned[:, axis] * (stored.shape[axis] - 1)
            turned[:, axis] *= -1
            index[axis] = stored.shape[axis] - 1 - index[axis]
    along = order.index(2)
    pixel = tuple(int(index[axis]) for axis in range(3) if axis != along)
    series = series_from(MetaTensor(torch.from_numpy(stored.copy()), affine=turned))
    labels = stored == 40
    scene = scene_of(cardiac, series, labels, int(index[along]), pixel)
    spot = torch.nonzero(scene.images[0, 0] > 0.8 * scene.images.max()).double().mean(0)
    assert np.abs(spot.numpy() - scene.pixel).max() < 0.7
    assert scene.spacing_mm == pytest.approx((1.5, 1.5), rel=0.03)
    outlined = np.argwhere(scene.mask > 0.5).mean(axis=0)[::-1] / 2 - 0.25  # Y, X of the finer grid
    assert np.abs(outlined - scene.pixel).max() < 0.7
    assert scene.picture.shape == tuple(scene.images.shape[:1:-1])
    assert scene.picture[round(scene.pixel[1]), round(scene.pixel[0])] == 1

    found = scene_of(cardiac, series, labels)  # the same place, from the mask
    assert (found.slice, found.native_pixel, found.pixel) == (index[along], pixel, scene.pixel)
    assert found.chosen == {"slice": "largest mask", "pixel": "near the mask's centroid"}


def test_the_pixel_of_a_ring_lies_on_it(cardiac: Segmenter) -> None:
    values, affine = volume((40, 40, 3), (1.5, 1.5, 8.0))
    x, y = np.ogrid[:40, :40]
    ring = np.abs(np.hypot(x - 20, y - 20) - 10) < 2
    labels = np.stack([ring & (x < 15), ring, np.zeros_like(ring)], -1)
    found = scene_of(cardiac, series_from(MetaTensor(torch.from_numpy(values), affine=affine)), labels)
    assert found.slice == 1 and ring[found.native_pixel]


def test_the_middle_where_there_is_no_mask(cardiac: Segmenter) -> None:
    values, affine = volume((40, 52, 5), (1.5, 1.5, 8.0))
    series = series_from(MetaTensor(torch.from_numpy(values), affine=affine))
    found = scene_of(cardiac, series, np.zeros(values.shape))
    assert (found.slice, found.slices, found.native_pixel) == (2, 5, (20, 26))
    assert found.chosen == {"slice": "middle", "pixel": "middle"} and found.cut is None


@pytest.mark.parametrize(
    ("number", "pixel", "said"),
    [
        (5, None, "--slice 5 is not in the image; its slices are 0 to 4"),
        (None, (40, 0), "--pixel 40,0 is not in the image; its pixels are 0,0 to 39,51"),
        (0, (0, 52), "--pixel 0,52 is not"),
    ],
)
def test_places_outside(cardiac: Segmenter, number: int | None, pixel: tuple[int, int] | None, said: str) -> None:
    values, affine = volume((40, 52, 5), (1.5, 1.5, 8.0))
    series = series_from(MetaTensor(torch.from_numpy(values), affine=affine))
    with pytest.raises(InputRefused, match=rf"^error\[OUT_OF_RANGE\]: {said}"):
        scene_of(cardiac, series, np.zeros(values.shape), number, pixel)


def test_a_photograph() -> None:
    pixels = np.full((300, 400, 3), (200, 120, 90), np.uint8)  # Y, X
    pixels[200:212, 100:112] = (20, 200, 30)
    series = ImageSeries(photo_tensor(pixels), "photo", Path("x"), spacing_known=False)
    labels = (pixels[..., 0] == 20).T
    scene = scene_of(Segmenter("dermoscopy", "cpu"), series, labels)
    assert abs(scene.native_pixel[0] - 105.5) < 1 and abs(scene.native_pixel[1] - 205.5) < 1
    assert scene.slice is None and scene.spacing_mm is None and scene.images.shape[:2] == (1, 3)
    darkest = torch.nonzero(scene.images[0, 0] == scene.images[0, 0].min()).double().mean(0)
    assert np.abs(darkest.numpy() - scene.pixel).max() < 0.7
    size = scene.picture.shape[1::-1]
    place = [
        round((at + 0.5) / n * m - 0.5) for at, n, m in zip(scene.pixel, scene.images.shape[2:], size, strict=True)
    ]
    np.testing.assert_allclose(scene.picture[place[1], place[0]] * 255, (20, 200, 30), atol=3)
    np.testing.assert_allclose(scene.picture[5, 5] * 255, (200, 120, 90), atol=3)


@pytest.mark.parametrize("pixel", [(0, 0), (89, 0), (40, 69)])
def test_of_a_large_slice_the_part_around_the_pixel(
    cardiac: Segmenter, monkeypatch: pytest.MonkeyPatch, pixel: tuple[int, int]
) -> None:
    monkeypatch.setattr(scenes, "MAX_SIDE", 64)
    values, affine = volume((90, 70, 1), (1.5, 1.5, 8.0))
    values[pixel[0], pixel[1], 0] = 50
    series = series_from(MetaTensor(torch.from_numpy(values), affine=affine))
    scene = scene_of(cardiac, series, values == 50, 0, pixel)
    assert scene.images.shape == (1, 1, 64, 64) and scene.cut is not None
    place = tuple(round(at) for at in scene.pixel)
    assert scene.images[0, 0][place] == scene.images.max()
    assert scene.mask.shape == (128, 128) and scene.mask[2 * place[1] : 2 * place[1] + 2, 2 * place[0]].max() > 0.5


def test_resampled_to_another_grid_and_finer() -> None:
    """As torch does it: pixels are areas, not points."""
    plane = np.random.default_rng(0).random((12, 9)).astype(np.float32)
    result = scenes._resampled(plane, np.eye(2), np.zeros(2), (12, 9), 3)
    expected = Resize((36, 27), mode="bilinear", align_corners=False)(torch.from_numpy(plane)[None])[0].T
    np.testing.assert_allclose(result, expected, atol=1e-5)
