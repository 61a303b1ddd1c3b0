"""The slice-wise inferer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from convformer_monai import inferers
from convformer_monai.inferers import AutocastInferer, PhotoInferer, SliceBatchInferer, has_fast_bf16


class Net(nn.Module):
    """Three classes, each a different function of the pixel and its neighbours; notes the batches that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.batches: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(x)
        return self.conv(x)


@pytest.fixture
def net() -> Net:
    return Net().eval()


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 1, 9, 7, 5), (1, 3, 8, 5, 4), (2, 2, 6, 6, 1), (1, 1, 1, 1, 1)])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_each_slice_of_each_phase(net: Net, shape: tuple[int, ...], batch: int) -> None:
    inputs = torch.randn(shape)
    scores = SliceBatchInferer(slice_batch_size=batch, amp=False)(inputs, net)
    samples, phases, x, y, depth = shape
    assert scores.shape == (samples, phases * 3, x, y, depth) and scores.dtype == torch.float32
    assert max(len(part) for part in net.batches) <= batch
    for b in range(samples):
        for t in range(phases):
            for z in range(depth):
                alone = net.conv(inputs[b, t, :, :, z][None, None])[0]
                torch.testing.assert_close(scores[b, 3 * t : 3 * t + 3, :, :, z], alone)


@torch.no_grad()
def test_plain_tensors_in_and_out(net: Net) -> None:
    scores = SliceBatchInferer(amp=False)(MetaTensor(torch.randn(1, 2, 6, 5, 3)), net)
    assert type(scores) is torch.Tensor and type(net.batches[0]) is torch.Tensor


@torch.no_grad()
def test_flips_average_probabilities(net: Net) -> None:
    inputs = torch.randn(1, 2, 8, 7, 3)
    scores = SliceBatchInferer(flips=True, amp=False)(inputs, net)
    expected = torch.zeros(1, 2, 3, 8, 7, 3)
    for axes in ((), (2,), (3,), (2, 3)):
        plain = SliceBatchInferer(amp=False)(inputs.flip(axes), net)
        expected += plain.flip(axes).view(1, 2, 3, 8, 7, 3).softmax(dim=2) / 4
    torch.testing.assert_close(scores.view(1, 2, 3, 8, 7, 3).softmax(dim=2), expected)


@torch.no_grad()
def test_flips_stay_finite_for_very_sure_networks() -> None:
    scores = SliceBatchInferer(flips=True, amp=False)(
        torch.ones(1, 1, 4, 4, 2), lambda x: torch.cat([x * 1000, x * -1000], 1)
    )
    assert torch.isfinite(scores).all() and bool((scores[0, 0] > scores[0, 1]).all())


@torch.no_grad()
def test_first_output_counts(net: Net) -> None:
    inputs = torch.randn(1, 1, 6, 6, 2)
    deep = SliceBatchInferer(amp=False)(inputs, lambda x: [net(x), x])
    torch.testing.assert_close(deep, SliceBatchInferer(amp=False)(inputs, net))


@torch.no_grad()
def test_bfloat16_with_channels_last(net: Net) -> None:
    inputs = torch.randn(1, 1, 8, 8, 3)
    exact = SliceBatchInferer(amp=False)(inputs, net)
    seen: list[tuple[torch.dtype, bool]] = []

    def spy(x: torch.Tensor) -> torch.Tensor:
        scores = net(x)
        seen.append((scores.dtype, x.is_contiguous(memory_format=torch.channels_last)))
        return scores

    fast = SliceBatchInferer(amp=True)(inputs, spy)
    assert seen == [(torch.bfloat16, True)] and fast.dtype == torch.float32
    np.testing.assert_allclose(fast, exact, atol=0.05)


@torch.no_grad()
@pytest.mark.parametrize("fast", [True, False])
def test_amp_follows_the_hardware(net: Net, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inferers, "has_fast_bf16", lambda device: fast)
    dtypes = []
    SliceBatchInferer()(torch.randn(1, 1, 8, 8, 1), lambda x: dtypes.append(net(x).dtype) or net(x))
    assert dtypes == [torch.bfloat16 if fast else torch.float32]


def test_bf16_only_where_it_is_native() -> None:
    expected = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert has_fast_bf16(torch.device("cpu")) is bool(expected)
    assert has_fast_bf16(torch.device("meta")) is False


def test_wrong_arguments(net: Net) -> None:
    with pytest.raises(ValueError, match="slice_batch_size"):
        SliceBatchInferer(slice_batch_size=0)
    with pytest.raises(ValueError, match="inputs"):
        SliceBatchInferer()(torch.zeros(1, 1, 8, 8), net)


@pytest.mark.parametrize("flips", [False, True])
def test_photographs_go_through_whole_and_a_few_at_a_time(flips: bool) -> None:
    network = nn.Conv2d(3, 2, 1).eval()
    photos = torch.randn(5, 3, 13, 9)
    with torch.no_grad():
        expected = network(photos)
        found = PhotoInferer(slice_batch_size=2, amp=False, flips=flips)(photos, network)
    torch.testing.assert_close(found.softmax(1), expected.softmax(1))
    with pytest.raises(ValueError, match=r"\(B, C, X, Y\)"):
        PhotoInferer()(torch.zeros(1, 3, 4, 4, 1), network)


class Sees(nn.Module):
    """Two classes: the slice itself, and the difference of its neighbours; notes the sizes that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(x.shape[1:]))
        return torch.stack([x[:, 1], x[:, 2] - x[:, 0]], dim=1)


def ramp(spacing: float, depth: int = 12) -> MetaTensor:
    """(1, 1, 40, 40, depth): each slice holds its height in mm."""
    heights = torch.arange(depth, dtype=torch.float32) * spacing
    return MetaTensor(
        heights.expand(1, 1, 40, 40, depth).clone(), affine=torch.diag(torch.tensor([1, 1, spacing, 1.0]))
    )


@torch.no_grad()
@pytest.mark.parametrize("spacing", [1.25, 4.0, 5.0])
def test_neighbours_lie_at_distances_in_mm(spacing: float) -> None:
    scores = SliceBatchInferer(4, amp=False, distances=(-5.0, 0.0, 5.0))(ramp(spacing), Sees())
    height = torch.arange(12) * spacing
    torch.testing.assert_close(scores[0, 0, 7, 7], height)
    top = float(height[-1])
    expected = (height + 5).clamp(max=top) - (height - 5).clamp(min=0)  # the first and the last slice are repeated
    torch.testing.assert_close(scores[0, 1, 7, 7], expected)


@torch.no_grad()
def test_thin_slices_are_averaged_thick_ones_are_not() -> None:
    torch.manual_seed(0)
    for spacing, smaller in ((1.0, True), (5.0, False)):
        noise = MetaTensor(torch.randn(1, 1, 40, 40, 20), affine=torch.diag(torch.tensor([1, 1, spacing, 1.0])))
        scores = SliceBatchInferer(8, amp=False, distances=(-5, 0, 5), slab=5.0)(noise, Sees())
        assert (scores[0, 0].std() < 0.6) == smaller


@torch.no_grad()
def test_the_network_sees_the_head_only() -> None:
    image = torch.full((1, 1, 200, 160, 3), -1000.0)
    image[:, :, 70:120, 40:100] = 30.0
    net = Sees()
    scores = SliceBatchInferer(amp=False, distances=(-5, 0, 5), foreground=-500)(image, net)
    assert net.sizes == [(3, 64, 64)]
    assert scores.shape == (1, 2, 200, 160, 3)
    assert (scores[0, 0, 70:120, 40:100] == 30).all()
    assert (scores[0, 0, :50] == inferers.CERTAIN).all() and (scores[0, 1, :50] == 0).all()
    nothing = SliceBatchInferer(amp=False, distances=(-5, 0, 5), foreground=-500)(image.clamp(max=-900), net)
    assert nothing.shape == scores.shape and net.sizes[-1] == (3, 200, 160)


@torch.no_grad()
def test_each_slice_is_shown_alone_as_well() -> None:
    net = Sees()
    image = ramp(5.0)
    inferer = SliceBatchInferer(4, amp=False, distances=(-5.0, 0.0, 5.0), also_alone=True)
    scores = inferer(image, net)
    assert len(net.sizes) == 6
    height = torch.arange(12) * 5.0
    beside = torch.stack([height, (height + 5).clamp(max=55) - (height - 5).clamp(min=0)]).softmax(0)
    alone = torch.stack([height, torch.zeros(12)]).softmax(0)
    torch.testing.assert_close(scores[0, :, 7, 7].softmax(0), (beside + alone) / 2)
    single = inferer(image[..., 5:6], net)
    torch.testing.assert_close(single[0, :, 7, 7, 0], torch.tensor([25.0, 0.0]))
    assert len(net.sizes) == 7, "a slice without neighbours is seen once"


@pytest.mark.parametrize("amp", [False, True])
def test_images_kept_in_half_precision_fit_any_network(amp: bool) -> None:
    """Also where the processor has no bfloat16, so that autocast casts nothing."""
    network = torch.nn.Conv2d(1, 2, 3)
    assert AutocastInferer(amp)(torch.ones(1, 1, 8, 8, dtype=torch.float16), network).shape == (1, 2, 6, 6)
