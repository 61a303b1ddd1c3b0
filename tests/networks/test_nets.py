"""The segmentation nets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from contract import Case, Contract, Randomise, relative_error
from torch import nn

from convformer_monai.networks import (
    BLOCKS,
    NETS,
    SETR,
    ConvFormerUNet,
    FATNet,
    Patcher,
    TransFuse,
    TransUNet,
    Windowed,
    make_net,
)

NAMES = sorted(BLOCKS.names)
ODD_2D = ((37, 50), (16, 11), (3, 5))


def setr(block: str, **arguments: object) -> Case:
    return Case(lambda: SETR(2, 3, 16, 4, 16, 2, 2, 8, 24, 0.1, block, **arguments), 2, 3, (16, 20), ODD_2D)


def unet(block: str, spatial_dims: int = 2, **arguments: object) -> Case:
    def make() -> nn.Module:
        widths = {"channels": (6, 8, 12), "num_layers": (0, 1, 2), "head_dim": 4}
        return ConvFormerUNet(spatial_dims, 2, 3, block=block, dropout=0.1, **widths, **arguments)

    if spatial_dims == 3:
        return Case(make, 2, 3, (8, 12, 6), ((9, 7, 11), (3, 2, 5)))
    return Case(make, 2, 3, (16, 24), ODD_2D)


def transunet(block: str) -> Case:
    def make() -> nn.Module:
        sizes = {"resnet_layers": (1, 1, 1), "resnet_widths": (4, 4, 4), "decoder_channels": (16, 8, 8, 8, 4)}
        return TransUNet(2, 3, 32, 16, 1, 2, 8, 24, 0.1, block, **sizes)

    return Case(make, 2, 3, (32, 48), ODD_2D)


def transfuse(block: str, **arguments: object) -> Case:
    return Case(lambda: TransFuse(2, 3, 32, "tiny", block=block, **arguments), 2, 3, (32, 48), ODD_2D)


def fatnet(block: str) -> Case:
    def make() -> nn.Module:
        sizes = {"resnet_layers": (1, 1, 1, 1), "resnet_widths": (4, 8, 16, 64)}  # 8 hidden units of channel attention
        return FATNet(2, 3, 32, 16, 1, 2, 8, 24, 0.1, block, **sizes)

    return Case(make, 2, 3, (32, 48), ODD_2D)


def patcher(block: str) -> Case:
    def make() -> nn.Module:
        return Patcher(2, 3, (8, 12), (1, 1), (1, 2), (2, 1), 2, 8, 2, 8, dropout_rate=0.1, block=block)

    return Case(make, 2, 3, (16, 24), ODD_2D)


CASES = {
    **{f"SETR-{block}": setr(block) for block in NAMES},
    **{f"ConvFormerUNet-{block}": unet(block) for block in NAMES},
    **{f"ConvFormerUNet-3d-{block}": unet(block, 3) for block in NAMES},
    **{f"TransUNet-{block}": transunet(block) for block in NAMES},
    **{f"TransFuse-{block}": transfuse(block) for block in NAMES},
    **{f"FATNet-{block}": fatnet(block) for block in NAMES},
    **{f"Patcher-{block}": patcher(block) for block in NAMES},
    "SETR-pup-deep": setr("vit", head="pup", deep_supervision=True),
    "TransFuse-single": transfuse("vit", deep_supervision=False),
    "ConvFormerUNet-deep": unet("convformer", num_convs=2, deep_supervision=True, grid_sizes=(32, 16, 8)),
    "ConvFormerUNet-vit-deep": unet("vit", deep_supervision=True, grid_sizes=(32, 16, 8)),
}
QUICK = ("SETR-convformer", "SETR-vit", "ConvFormerUNet-3d-convformer", "ConvFormerUNet-deep")


@pytest.fixture(params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


class TestNet(Contract):
    """The contract of all nets and blocks."""


@pytest.mark.parametrize("name", [name for name in CASES if name not in QUICK])
def test_trains_a_step(name: str) -> None:
    """The least of the contract for what is too slow to be tested wholly each time; parameters as built."""
    case = CASES[name]
    net = case.make().train()
    outputs = net(case.input())
    for output in outputs if isinstance(outputs, list) else [outputs]:
        assert output.shape[:2] == (2, case.out_channels)
        output.square().sum().backward(retain_graph=True)
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without
    with torch.no_grad():
        assert net.eval()(case.input(1, (19, 21)[: len(case.size)] + (5,) * (len(case.size) - 2))).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_onnx(name: str, randomise: Randomise, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    case = CASES[name]
    net = randomise(case.make()).eval()
    path = tmp_path / "net.onnx"
    batch = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(net, (case.input(),), path, dynamo=True, dynamic_shapes=batch, input_names=["image"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in (1, 3):
        x = case.input(size)
        with torch.no_grad():
            assert relative_error(torch.from_numpy(session.run(None, {"image": x.numpy()})[0]), net(x)) < 1e-5


def test_registry() -> None:
    assert sorted(NETS.names) == ["ConvFormerUNet", "FATNet", "Patcher", "SETR", "TransFuse", "TransUNet"]
    assert NETS["SETR"] is SETR


@pytest.mark.parametrize("net", sorted(NETS.names))
def test_unknown_block(net: str) -> None:
    with pytest.raises(ValueError, match="block must be one of conv, .*, vit, got 'swin'"):
        NETS[net](in_channels=1, out_channels=2, block="swin")


class TestSETR:
    @pytest.mark.parametrize(("block", "millions"), [("vit", 39.1), ("convformer", 115.6)])
    def test_published_number_of_parameters(self, block: str, millions: float) -> None:
        with torch.device("meta"):
            net = SETR(1, 4, 256, block=block)
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)

    def test_original(self) -> None:
        """SETR-PUP with ViT-L/16 has 318.3 million parameters in its paper (19 classes of Cityscapes)."""
        with torch.device("meta"):
            net = make_net("SETR", 3, 19, "vit", "original", img_size=768)
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(318.3, rel=0.003)
        assert net.supervised == [9, 14, 19, 23]

    def test_progressive_upsampling(self) -> None:
        """A layer norm, a convolution for each doubling of the grid, and logits of every pixel."""
        net = SETR(1, 2, 32, 16, 16, 1, 2, 8, 24, head="pup").eval()
        kernels = [module.kernel_size for module in net.decoder.modules() if isinstance(module, nn.Conv2d)]
        assert kernels == [(3, 3)] * 4 + [(1, 1)]
        features = torch.randn(1, 16, 2, 2)
        assert net.decoder(features).shape == (1, 2, 32, 32)
        torch.testing.assert_close(net.decoder(3 * features + 1), net.decoder(features), rtol=1e-3, atol=1e-4)

    def test_deep_supervision(self) -> None:
        net = SETR(1, 2, 16, 4, 16, 6, 2, 8, 24, head="pup", deep_supervision=True)
        x = torch.randn(2, 1, 13, 16)
        assert [tuple(output.shape) for output in net.train()(x)] == [(2, 2, 13, 16)] * 5
        assert net.eval()(x).shape == (2, 2, 13, 16)

    @torch.no_grad()
    def test_analysis(self) -> None:
        net = SETR(1, 2, 16, 4, 16, 3, 2, 8, 24).eval()
        x = torch.randn(2, 1, 16, 12)
        assert [tuple(features.shape) for features in net.features(x)] == [(2, 16, 4, 3)] * 4
        assert [tuple(maps.shape) for maps in net.attention(x)] == [(2, 2, 12, 12)] * 3

    @torch.no_grad()
    def test_odd_sizes_do_not_shift_the_image(self) -> None:
        """An image that is not a multiple of the patch size is filled up at its end; the output is cut again."""
        net = SETR(1, 2, (20, 24), 4, 16, 1, 2, 8, 24, block="vit").eval()
        x = torch.randn(1, 1, 20, 24)
        x[..., 22:] = x[..., 21:22]
        x[..., 18:, :] = x[..., 17:18, :]
        assert torch.equal(net(x[..., :18, :22]), net(x)[..., :18, :22])

    @pytest.mark.parametrize("patch_size", [1, 2, 4, 8, 16])
    @torch.no_grad()
    def test_patch_sizes(self, patch_size: int) -> None:
        net = SETR(1, 2, 32, patch_size, 8, 1, 1, 8, 8).eval()
        assert net(torch.randn(1, 1, 32, 16)).shape == (1, 2, 32, 16)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"patch_size": 0}, "patch_size must be a whole number of at least 1, got 0"),
            ({"patch_size": 6}, "patch_size must be a power of two, got 6"),
            ({"hidden_size": 30}, "hidden_size must be a multiple of 4, got 30"),
            ({"num_layers": 0}, "num_layers must be a whole number of at least 1, got 0"),
            ({"out_channels": 0}, "out_channels must be a whole number of at least 1, got 0"),
            ({"head": "mla"}, "head must be one of light, pup, got 'mla'"),
            ({"img_size": 0, "block": "vit"}, r"img_size must hold 2 whole numbers of at least 1, got \(0, 0\)"),
            (
                {"img_size": (8, 8, 8), "block": "vit"},
                r"img_size must hold 2 whole numbers of at least 1, got \(8, 8, 8\)",
            ),
        ],
    )
    def test_wrong_arguments(self, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SETR(**{"in_channels": 1, "out_channels": 2, "img_size": 16, **arguments})


class TestConvFormerUNet:
    @pytest.mark.parametrize("block", NAMES)
    def test_deep_supervision(self, block: str) -> None:
        net = ConvFormerUNet(2, 1, 4, (4, 6, 8, 10), 1, (0, 0, 1, 1), 4, block, deep_supervision=True)
        x = torch.randn(2, 1, 24, 40)
        outputs = net.train()(x)
        assert [tuple(output.shape) for output in outputs] == [(2, 4, 24, 40), (2, 4, 12, 20), (2, 4, 6, 10)]
        assert net.eval()(x).shape == (2, 4, 24, 40)

    def test_one_output_without_deep_supervision(self) -> None:
        net = ConvFormerUNet(2, 1, 4, (4, 6, 8), 1, (0, 0, 1), 4)
        assert net.train()(torch.randn(2, 1, 24, 40)).shape == (2, 4, 24, 40)

    def test_is_small(self) -> None:
        with torch.device("meta"):
            assert sum(p.numel() for p in ConvFormerUNet().parameters()) < 8e6

    @torch.no_grad()
    def test_single_pixels(self) -> None:
        net = ConvFormerUNet(2, 1, 2, (4, 6, 8, 10), 1, (0, 0, 1, 1), 4).eval()
        for size in ((1, 1), (1, 7), (2, 3)):
            assert net(torch.randn(1, 1, *size)).shape == (1, 2, *size)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"channels": (8,), "num_layers": (1,)}, r"channels must name at least two scales, got \(8,\)"),
            ({"num_layers": (0, 1)}, r"num_layers must hold one number for each of the 3 channels, got \(0, 1\)"),
            ({"num_layers": (0, -1, 1)}, r"num_layers must hold numbers of at least 0, got \(0, -1, 1\)"),
            ({"grid_sizes": (8,)}, r"grid_sizes must hold one number for each of the 3 channels, got \(8,\)"),
            ({"num_convs": 0}, "num_convs must be a whole number of at least 1, got 0"),
            ({"head_dim": 0}, "head_dim must be a whole number of at least 1, got 0"),
            ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
            ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
            ({"in_channels": 0}, "in_channels must be a whole number of at least 1, got 0"),
        ],
    )
    def test_wrong_arguments(self, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ConvFormerUNet(**{"channels": (4, 6, 8), "num_layers": (0, 0, 1), **arguments})


def test_odd_sizes_do_not_shift_the_features(randomise: Randomise) -> None:
    """Without attention, what lies far from the far border cannot know the image's size."""
    net = randomise(ConvFormerUNet(2, 1, 3, channels=(4, 4, 4, 4), num_layers=(0, 0, 0, 0))).eval()
    x = torch.randn(1, 1, 128, 144)
    with torch.no_grad():
        whole, odd = net(x), net(x[..., :121, :131])
    assert odd.shape == (1, 3, 121, 131)
    assert relative_error(odd[..., :60, :70], whole[..., :60, :70]) < 1e-5


def test_windowed_net_in_double_precision() -> None:
    net = Windowed(nn.Conv2d(1, 1, 1), [(0.0, 80.0)]).double()
    assert net(torch.randn(1, 1, 2, 2, dtype=torch.float64)).dtype == torch.float64


def test_dropout_of_a_windowed_net_is_that_of_its_network() -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Dropout2d(0.0))
    windows = [(0.0, 80.0), (0.0, 1000.0)]
    Windowed(network, windows)
    assert network[1].p == 0.0
    Windowed(network, windows, dropout=0.2)
    assert network[1].p == 0.2
