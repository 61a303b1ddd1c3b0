"""The nets of the ConvFormer paper's table: their sizes, presets and parts. What all nets do is in test_nets.py."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from contract import Randomise, relative_error
from monai.losses import DeepSupervisionLoss, DiceCELoss
from monai.metrics import compute_dice
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convformer_monai.networks import BLOCKS, NETS, PRESETS, FATNet, Patcher, TransFuse, TransUNet, make_net
from convformer_monai.networks.nets.parts.backbone import ResNetBackbone
from convformer_monai.networks.nets.parts.resize import enlarge
from convformer_monai.networks.nets.parts.window_layer import GaussianAttention, WindowLayer
from convformer_monai.networks.nets.parts.windows import join_windows, split_windows
from convformer_monai.networks.nets.transfuse import LOSS_WEIGHTS

# Net and block: million parameters and 10^9 multiplications at 256 x 256, as published (FAT-Net: 28.8 to 34.1, 30 to
# 32). TransFuse's multiplications hold the two auxiliary heads, which act in training only.
PUBLISHED = {
    ("SETR", "vit"): (39.1, 52.8),
    ("SETR", "convformer"): (115.6, 133.7),
    ("TransUNet", "vit"): (105.3, 38.4),
    ("TransUNet", "convformer"): (281.0, 83.5),
    ("TransFuse", "vit"): (143.0, 83.7),
    ("TransFuse", "convformer"): (318.0, 132.0),
    ("FATNet", "vit"): (28.8, 30.0),
    ("FATNet", "convformer"): (78.8, 47.1),
    ("Patcher", "vit"): (24.7, 85.3),
    ("Patcher", "convformer"): (24.7, 85.3),
}


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("name", "block"), PUBLISHED)
def test_published_number_of_parameters(name: str, block: str) -> None:
    with torch.device("meta"):
        net = make_net(name, 3, 4, block)
    assert parameters(net) / 1e6 == pytest.approx(PUBLISHED[name, block][0], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "block"), PUBLISHED)
def test_published_number_of_multiplications(name: str, block: str) -> None:
    with torch.device("meta"):
        net = make_net(name, 3, 4, block)
        net.train(name == "TransFuse")
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(1, 3, 256, 256))
    assert counter.get_total_flops() / 2e9 == pytest.approx(PUBLISHED[name, block][1], rel=0.02)


def test_transfuse_small_size() -> None:
    with torch.device("meta"):
        assert parameters(make_net("TransFuse", 3, 1, "vit", "medium")) / 1e6 == pytest.approx(26.3, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_full_size_runs(name: str) -> None:
    net = make_net(name, 1, 4).eval()
    with torch.inference_mode():
        assert net(torch.randn(1, 1, 64, 64)).shape == (1, 4, 64, 64)


class TestPresets:
    def test_all_nets_have_them(self) -> None:
        assert PRESETS.keys() == set(NETS.names)
        assert all({"small", "full"} <= presets.keys() for presets in PRESETS.values())

    @pytest.mark.parametrize("block", ["vit", "convformer"])
    @pytest.mark.parametrize("name", sorted(PRESETS))
    def test_small(self, name: str, block: str) -> None:
        net = make_net(name, 1, 4, block, "small").eval()
        assert parameters(net) < 3e6
        with torch.no_grad():
            assert net(torch.randn(1, 1, 64, 48)).shape == (1, 4, 64, 48)

    def test_arguments_come_before_the_preset(self) -> None:
        assert len(make_net("SETR", 1, 2, "conv", "small", num_layers=1).encoder.layers) == 1

    def test_a_net_of_ones_own_has_its_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(NETS, "components", dict(NETS.components))
        NETS.add("Own", "", lambda in_channels, out_channels, block: nn.Conv2d(in_channels, out_channels, 1))
        assert make_net("Own", 1, 2).weight.shape == (2, 1, 1, 1)
        with pytest.raises(ValueError, match="preset of Own must be one of full, got 'small'"):
            make_net("Own", 1, 2, preset="small")

    def test_unknown_names(self) -> None:
        with pytest.raises(ValueError, match="preset of Patcher must be one of small, full, original, got 'large'"):
            make_net("Patcher", 1, 2, preset="large")
        with pytest.raises(ValueError, match="net must be one of ConvFormerUNet, .*, got 'UNet'"):
            make_net("UNet", 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("block", ["vit", "convformer"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_small_nets_learn(name: str, block: str) -> None:
    """A faint disc of 3% of the image is found, with the one loss wrapper, whatever the number of outputs."""
    net = make_net(name, 1, 2, block, "small").train()
    axis = torch.arange(64)
    disc = ((axis[:, None] - 30) ** 2 + (axis - 36) ** 2 < 6**2).float().expand(2, 1, 64, 64)
    x = 0.5 * disc + 0.3 * torch.randn(2, 1, 64, 64)
    loss = DeepSupervisionLoss(DiceCELoss(to_onehot_y=True, softmax=True), weights=list(LOSS_WEIGHTS))
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    for _ in range(25):
        optimizer.zero_grad()
        outputs = net(x)
        loss(outputs, disc).backward()
        optimizer.step()
    found = (outputs[0] if isinstance(outputs, list) else outputs).argmax(1, keepdim=True)
    assert compute_dice(found, disc).mean() > 0.5


class TestTransFuse:
    def test_loss_wrapper_weighs_its_three_outputs(self) -> None:
        net = TransFuse(1, 3, size="tiny", dropout_rate=0.0).train()
        x, y = torch.randn(2, 1, 32, 48), torch.randint(3, (2, 1, 32, 48)).float()
        single = DiceCELoss(to_onehot_y=True, softmax=True)
        outputs = net(x)
        loss = DeepSupervisionLoss(single, weights=list(LOSS_WEIGHTS))(outputs, y)
        torch.testing.assert_close(
            loss, 0.5 * single(outputs[0], y) + 0.3 * single(outputs[1], y) + 0.2 * single(outputs[2], y)
        )
        loss.backward()
        assert all(p.grad is not None for p in net.parameters())

    @torch.no_grad()
    def test_predicts_from_the_fused_decoder(self, randomise: Randomise) -> None:
        net = randomise(TransFuse(1, 3, size="tiny")).eval()
        x = torch.randn(1, 1, 32, 32)
        before = net(x)
        for p in net.auxiliary.parameters():
            p.zero_()
        assert torch.equal(net(x), before)
        for p in net.head.parameters():
            p.zero_()
        assert not net(x).any()

    def test_one_output_without_deep_supervision(self) -> None:
        net = TransFuse(1, 3, size="tiny", deep_supervision=False).train()
        assert net(torch.randn(2, 1, 32, 32)).shape == (2, 3, 32, 32)
        assert not list(net.auxiliary.parameters())


@pytest.mark.parametrize(
    "make",
    [
        lambda: TransUNet(
            1, 2, 32, 8, 1, 1, 8, 8, block="identity",
            resnet_layers=(1, 1, 1), resnet_widths=(4, 4, 4), decoder_channels=(8, 8, 8, 8, 4),
        ),
        lambda: Patcher(1, 2, (8, 8), (1, 1), (1, 1), (1, 1), 1, 8, 2, 8, block="identity"),
    ],
    ids=["TransUNet", "Patcher"],
)  # fmt: skip
@torch.no_grad()
def test_odd_sizes_do_not_shift_the_features(make: Callable[[], nn.Module], randomise: Randomise) -> None:
    """Without attention, what lies far from the far border cannot know the image's size."""
    net = randomise(make()).eval()
    x = torch.randn(1, 1, 272, 288)
    whole, odd = net(x), net(x[..., :265, :275])
    assert odd.shape == (1, 2, 265, 275)
    assert relative_error(odd[..., :90, :100], whole[..., :90, :100]) < 1e-5


@pytest.mark.parametrize("name", ["TransUNet", "TransFuse", "FATNet", "Patcher"])
@torch.no_grad()
def test_analysis(name: str) -> None:
    net = make_net(name, 1, 2, "vit", "small").eval()
    x = torch.randn(1, 1, 48, 64)
    features, maps = net.features(x), net.attention(x)
    if name == "Patcher":
        assert [tuple(f.shape[2:]) for f in features] == [(24, 32), (12, 16), (6, 8), (3, 4)]
        assert [tuple(m.shape) for m in maps[:2]] == [(12, 1, 144, 36), (4, 2, 144, 36)]
    else:
        assert len(features) == len(maps) + 1 and features[0].shape[2:] == (3, 4)
        assert all(m.shape[2:] == (12, 12) for m in maps)
    torch.testing.assert_close(maps[0].sum(-1), torch.ones_like(maps[0][..., 0]))


@pytest.mark.parametrize("block", ["convformer", "identity", "refiner", "vit"])
@torch.no_grad()
def test_attention_of_some_tokens_of_a_window(block: str, randomise: Randomise) -> None:
    layer = randomise(WindowLayer(8, 2, 16, 2, 4, block=block)).eval()
    x, queries = torch.randn(3, 8, 4, 4), torch.tensor([15, 2])
    torch.testing.assert_close(layer.attention(x, queries), layer.attention(x)[:, :, queries])


def test_a_block_of_ones_own_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(nn.Module):
        def __init__(self, spatial_dims: int, in_channels: int, num_heads: int, head_dim: int, factor: float) -> None:
            super().__init__()
            assert (spatial_dims, in_channels, num_heads, head_dim) == (2, 8, 2, 4)
            self.factor = nn.Parameter(torch.tensor(factor))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.factor * x

    monkeypatch.setattr(BLOCKS, "components", dict(BLOCKS.components))
    BLOCKS.add("doubled", "", Doubled)
    net = Patcher(1, 2, (8,), (1,), (2,), (2,), 2, 8, 2, 8, block="doubled", block_kwargs={"factor": 2.0})
    assert [type(layer) for layer in net.stages[0].layers] == [Doubled]
    assert net(torch.ones(1, 1, 24, 24)).shape == (1, 2, 24, 24)


class TestParts:
    def test_windows(self) -> None:
        x = torch.randn(2, 3, 10, 13)
        windows, rows, columns = split_windows(x, 4, 2)
        assert (rows, columns) == (3, 4) and windows.shape == (2 * 12, 3, 8, 8)
        padded = torch.zeros(2, 3, 16, 20)
        padded[:, :, 2:12, 2:15] = x
        for b in range(2):
            for r in range(3):
                for c in range(4):
                    expected = padded[b, :, 4 * r : 4 * r + 8, 4 * c : 4 * c + 8]
                    assert torch.equal(windows[12 * b + 4 * r + c], expected)
        joined = join_windows(windows, rows, columns, 2)
        assert joined.shape == (2, 3, 12, 16) and torch.equal(joined[:, :, :10, :13], x)

    def test_enlarge(self) -> None:
        x = torch.arange(4.0).expand(1, 1, 2, 4)
        # Centres of the fine grid lie at -1/4, 1/4, 3/4, ... of the coarse one; beyond its ends the value stays.
        expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75])
        torch.testing.assert_close(enlarge(x, 2, torch.empty(1, 5, 3, 7)), expected.expand(1, 1, 3, 7))

    @torch.no_grad()
    def test_gaussian_attention(self) -> None:
        """Cosine times the sum of the Gaussian weights of the grid points that a key stands for."""
        net = GaussianAttention(6, 2, 3, 0.0, grid_size=4, reduction=2, initial_sigma=(0.2, 0.3))
        q, k = 10 * torch.randn(1, 2, 16, 3), 10 * torch.randn(1, 2, 4, 3)
        maps = net.maps(q, k)
        for head, sigma in enumerate((0.2, 0.3)):
            for i in range(16):
                weights = [
                    math.exp(-((i // 4 - j // 4) ** 2 + (i % 4 - j % 4) ** 2) / 16 / (2 * sigma**2)) for j in range(16)
                ]
                for j in range(4):
                    members = [8 * (j // 2) + 2 * (j % 2) + step for step in (0, 1, 4, 5)]
                    cosine = torch.cosine_similarity(q[0, head, i], k[0, head, j], dim=0)
                    expected = cosine * sum(weights[m] for m in members) / sum(weights)
                    torch.testing.assert_close(maps[0, head, i, j], expected, rtol=1e-4, atol=1e-5)

    def test_layer_scale_in_windows(self) -> None:
        layer = WindowLayer(8, 2, 16, 2, 4, block="layerscale", block_kwargs={"initial_scale": 1e-9})
        x = torch.randn(2, 8, 4, 4)
        torch.testing.assert_close(layer(x), x)

    def test_published_weights_of_a_new_layer(self) -> None:
        layer = WindowLayer(64, 2, 256, 2, 4, block="vit")
        assert layer.mlp.expand.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert layer.reduce.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 4)), rel=0.05)
        assert layer.mlp.depthwise.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.1)
        assert not layer.mlp.expand.bias.any() and not layer.reduce.bias.any()

    def test_backbone(self) -> None:
        x = torch.randn(1, 2, 37, 50)
        net = ResNetBackbone(2, "bottleneck", (1, 1, 1), (4, 6, 8))
        assert [tuple(f.shape[1:]) for f in net(x)] == [(4, 19, 25), (16, 10, 13), (24, 5, 7), (32, 3, 4)]
        net = ResNetBackbone(2, "basic", (1, 2), (4, 6), pool=False)
        assert [tuple(f.shape[1:]) for f in net(x)] == [(4, 19, 25), (4, 19, 25), (6, 10, 13)]
        assert net.channels == [4, 4, 6]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "TransUNet",
            {"decoder_channels": (8, 8)},
            r"decoder_channels must hold 5 whole numbers of at least 1, got \(8, 8\)",
        ),
        (
            "TransUNet",
            {"resnet_layers": (1, 0, 1)},
            r"resnet_layers must hold 3 whole numbers of at least 1, got \(1, 0, 1\)",
        ),
        ("TransUNet", {"resnet_widths": (8,)}, r"widths must hold 3 whole numbers of at least 1, got \(8,\)"),
        (
            "TransUNet",
            {"img_size": (8, 8, 8), "block": "vit"},
            r"img_size must hold 2 whole numbers of at least 1, got \(8, 8, 8\)",
        ),
        ("TransFuse", {"size": "M"}, "size must be one of tiny, S, L, got 'M'"),
        ("TransFuse", {"dropout_rate": 1.0}, "dropout_rate must be at least 0 and below 1, got 1.0"),
        ("FATNet", {"resnet_widths": (2, 4, 4, 4)}, "resnet_widths must hold 4 whole numbers of at least 4"),
        ("FATNet", {"resnet_widths": (16.0, 32, 64, 128)}, "resnet_widths must hold 4 whole numbers of at least 4"),
        ("FATNet", {"out_channels": 0}, "out_channels must be a whole number of at least 1, got 0"),
        ("Patcher", {"num_heads": (1, 2)}, r"num_heads must hold 4 whole numbers of at least 1, got \(1, 2\)"),
        ("Patcher", {"num_heads": (1, 3, 5, 8)}, "num_heads must be a divisor of the 128 channels, got 3"),
        ("Patcher", {"reductions": (5, 1, 1, 1)}, "reduction must be a divisor of the window's 24 grid points, got 5"),
        ("Patcher", {"num_layers": (1.5, 1, 1, 1)}, r"num_layers must hold 4 whole numbers of at least 1, got \(1.5"),
        ("Patcher", {"patch_size": 32.0}, "patch_size must be a whole number of at least 1, got 32.0"),
        (
            "Patcher",
            {"block": "layerscale", "block_kwargs": {"initial_scale": 0}},
            "initial_scale must be above 0, got 0",
        ),
        ("Patcher", {"context": 3}, "patch_size and context must be even, at least 2 and 0, got 32 and 3"),
        ("Patcher", {"block_kwargs": {"alhpa": 1}}, "unknown arguments alhpa"),
    ],
)
def test_wrong_arguments(name: str, arguments: dict[str, object], message: str) -> None:
    given = {"in_channels": 1, "out_channels": 2, **arguments}
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        {"TransUNet": TransUNet, "TransFuse": TransFuse, "FATNet": FATNet, "Patcher": Patcher}[name](**given)
