"""The blocks and the encoder that stacks them."""

from __future__ import annotations

import math

import pytest
import torch
from contract import Case, Contract, Randomise, relative_error
from torch import nn

from convformer_monai.networks import BLOCKS, Encoder, IdentityBlock, PatchEmbedding, PoolingStem, ViTBlock
from convformer_monai.networks.blocks.attention import SelfAttention
from convformer_monai.networks.blocks.pooling import stem_channels
from convformer_monai.networks.registry import lookup

NAMES = sorted(BLOCKS.names)
OTHER_SIZES = {2: ((7, 5), (1, 6), (40, 37)), 3: ((3, 4, 2), (5, 1, 1), (6, 9, 17))}
SIZES = {2: (8, 6), 3: (4, 3, 5)}


def block(name: str, spatial_dims: int, **arguments: object) -> nn.Module:
    return lookup(BLOCKS, name)(spatial_dims, 12, 2, 16, mlp_dim=20, **arguments)


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def spatial_dims(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def case(name: str, spatial_dims: int) -> Case:
    return Case(lambda: block(name, spatial_dims), 12, 12, SIZES[spatial_dims], OTHER_SIZES[spatial_dims])


class TestBlock(Contract):
    """The contract of all nets and blocks, and what blocks have besides."""

    def test_attention(self, case: Case, name: str, net: nn.Module) -> None:
        if name == "conv":
            with pytest.raises(NotImplementedError, match="conv"):
                net.attention(case.input())
            return
        for size in (case.size, *case.other_sizes[:2]):
            tokens = math.prod(size)
            maps = net.attention(case.input(size=size))
            assert maps.shape == (2, 2, tokens, tokens) and maps.isfinite().all()
            if name in ("vit", "layerscale"):
                torch.testing.assert_close(maps.sum(-1), torch.ones(2, 2, tokens))

    @torch.no_grad()
    def test_attention_of_some_tokens(self, case: Case, name: str, net: nn.Module) -> None:
        if name == "conv":
            return
        x = case.input()
        queries = torch.tensor([math.prod(case.size) - 1, 0, 7])
        net.mixer.budget = 500  # of Re-attention and Refiner: the queries lie in different chunks
        torch.testing.assert_close(net.attention(x, queries), net.attention(x)[:, :, queries])

    def test_same_arguments(self, name: str, spatial_dims: int) -> None:
        """A configuration may change the block's name alone."""
        net = block(
            name,
            spatial_dims,
            alpha=0.6,
            initial_sigma=(0.05, 0.3),
            grid_size=16,
            qkv_kernel_size=1,
            norm_first=True,
            final_activation=False,
            dropout_rate=0.5,
        )
        x = torch.randn(2, 12, *SIZES[spatial_dims])
        assert net(x).shape == x.shape
        assert not torch.equal(net(x), net(x))  # dropout acts
        with pytest.raises((TypeError, ValueError), match="alhpa"):
            block(name, spatial_dims, alhpa=0.6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be a whole number of at least 1, got 0"),
        ({"head_dim": -3}, "head_dim must be a whole number of at least 1, got -3"),
        ({"mlp_dim": 0}, "mlp_dim must be a whole number of at least 1, got 0"),
        ({"dropout_rate": 1.5}, "dropout_rate must be at least 0 and below 1, got 1.5"),
    ],
)
def test_wrong_arguments(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lookup(BLOCKS, name)(**{"spatial_dims": 2, "in_channels": 4, "num_heads": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.003}, "alpha must be above 0.003, got 0.003"),
        ({"initial_sigma": (0.1, 0.5)}, r"initial_sigma must lie within \(0.003, alpha=0.4\), got \(0.1, 0.5\)"),
        ({"initial_sigma": ()}, "initial_sigma must lie within"),
        ({"grid_size": 0}, "grid_size must be a whole number of at least 1, got 0"),
        ({"qkv_kernel_size": 2}, "kernel_size must be odd, got 2"),
    ],
)
def test_wrong_arguments_of_convformer(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lookup(BLOCKS, "convformer")(2, 4, 2, **arguments)


def test_unknown_name() -> None:
    with pytest.raises(
        ValueError,
        match="block must be one of conv, convformer, identity, layerscale, reattention, refiner, vit, got 'none'",
    ):
        Encoder(2, 8, 1, 2, block="none")


@torch.no_grad()
def test_encoder(name: str, randomise: Randomise) -> None:
    net = randomise(Encoder(2, 8, 2, 2, 8, name)).eval()
    x = torch.randn(2, 8, 6, 5)
    features = net.features(x)
    assert len(features) == 2 and torch.equal(features[-1], net(x))
    assert torch.equal(features[0], net.layers[0](x))
    if name != "conv":
        maps = net.attention(x)
        assert len(maps) == 2
        assert torch.equal(maps[1], net.layers[1].attention(features[0]))


def test_encoder_without_layers() -> None:
    with pytest.raises(ValueError, match="num_layers must be a whole number of at least 1, got 0"):
        Encoder(2, 8, 0, 2)


@torch.no_grad()
def test_vit_mixes_by_its_maps(randomise: Randomise) -> None:
    """Blocks that change the maps override one method; the fused path and the maps must agree."""

    class ByMaps(SelfAttention):
        def mix(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self.maps(q, k) @ v

    class Block(ViTBlock):
        attention_class = ByMaps

    fused = randomise(ViTBlock(2, 12, 3, 8), scale=3.0).eval()
    by_maps = Block(2, 12, 3, 8).eval()
    by_maps.load_state_dict(fused.state_dict())
    x = torch.randn(2, 12, 7, 6)
    assert relative_error(fused(x), by_maps(x)) < 1e-5


def test_conv_control_has_the_parameters_of_convformer() -> None:
    def parameters(name: str, **arguments: object) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in lookup(BLOCKS, name)(2, 160, 5, 32, **arguments).parameters())

    for arguments in ({}, {"qkv_kernel_size": 1}):
        assert parameters("conv", **arguments) == pytest.approx(parameters("convformer", **arguments), rel=0.01)


@torch.no_grad()
def test_identity_control_mixes_nothing(randomise: Randomise) -> None:
    """A change of one pixel reaches no further than the 3x3 convolution of the values."""
    net = randomise(IdentityBlock(2, 4, 2, 8)).eval()
    x = torch.randn(1, 4, 9, 9)
    changed = x.clone()
    changed[:, :, 4, 4] += 1
    differs = (net(x) - net(changed)).abs().amax((0, 1)) > 0
    assert differs[3:6, 3:6].any() and differs.sum() == differs[3:6, 3:6].sum()


class TestPoolingStem:
    @torch.no_grad()
    def test_sizes(self, randomise: Randomise) -> None:
        stem = randomise(PoolingStem(2, 3, (4, 6, 8, 5))).eval()
        assert stem(torch.randn(2, 3, 32, 16)).shape == (2, 5, 4, 2)
        assert stem(torch.randn(2, 3, 37, 50)).shape == (2, 5, 5, 7)
        assert stem(torch.randn(2, 3, 1, 3)).shape == (2, 5, 1, 1)

    def test_published_channels(self) -> None:
        assert stem_channels(8, 512) == (64, 128, 256, 512)
        assert stem_channels(1, 512) == (512,)

    def test_wrong_arguments(self) -> None:
        with pytest.raises(ValueError, match="channels must name at least one stage"):
            PoolingStem(2, 1, ())
        for size in (0, 6, -8):
            with pytest.raises(ValueError, match=f"patch_size must be a power of two, got {size}"):
                stem_channels(size, 32)


class TestPatchEmbedding:
    @torch.no_grad()
    def test_position_embedding_fits_any_grid(self, spatial_dims: int) -> None:
        stem = PatchEmbedding(spatial_dims, 1, 6, 4, (3,) * spatial_dims).eval()
        stem.project.weight.zero_()
        stem.project.bias.zero_()
        assert torch.equal(stem(torch.randn(1, 1, *(12,) * spatial_dims)), stem.position)
        stem.position.copy_(torch.ones_like(stem.position))
        larger = stem(torch.randn(2, 1, *(17,) * spatial_dims))
        torch.testing.assert_close(larger, torch.ones(2, 6, *(5,) * spatial_dims))

    @torch.no_grad()
    def test_incomplete_patches_repeat_the_border(self) -> None:
        stem = PatchEmbedding(2, 1, 6, 4, (2, 2)).eval()
        x = torch.randn(1, 1, 8, 6)
        filled = torch.cat([x, x[..., -1:], x[..., -1:]], -1)
        assert torch.equal(stem(x), stem(filled))

    def test_wrong_arguments(self) -> None:
        with pytest.raises(ValueError, match=r"grid must hold 2 whole numbers of at least 1, got \(4, 4, 4\)"):
            PatchEmbedding(2, 1, 6, 4, (4, 4, 4))
        with pytest.raises(ValueError, match="patch_size must be a whole number of at least 1, got 0"):
            PatchEmbedding(2, 1, 6, 0, (4, 4))


@pytest.mark.parametrize("name", ["reattention", "refiner"])
def test_recomputed_maps(name: str, spatial_dims: int, randomise: Randomise, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomputing the maps of large grids in the backward pass changes neither gradients nor batch statistics."""

    def train() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        net = randomise(block(name, spatial_dims)).train()
        torch.manual_seed(1)
        net(torch.randn(2, 12, *SIZES[spatial_dims])).square().sum().backward()
        return {key: p.grad for key, p in net.named_parameters()}, dict(net.named_buffers())

    expected_gradients, expected_buffers = train()
    monkeypatch.setattr("convformer_monai.networks.blocks.refined.RECOMPUTE_ABOVE", 1)
    gradients, buffers = train()
    for key, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[key], gradient)
    assert buffers and all(torch.equal(buffers[key], value) for key, value in expected_buffers.items())


@pytest.mark.parametrize("name", ["reattention", "refiner"])
@torch.no_grad()
def test_maps_in_parts(name: str, spatial_dims: int, randomise: Randomise, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making some rows of the maps at a time equals the maps times the values."""
    monkeypatch.setattr("convformer_monai.networks.blocks.refined.CHUNK_ON_CPU", 1000)
    mixer = randomise(block(name, spatial_dims)).eval().mixer
    q, k, v = torch.randn(3, 2, 2, 48, 16)
    assert relative_error(mixer.mix(q, k, v), mixer.maps(q, k) @ v) < 1e-5


def test_layer_scale_starts_small() -> None:
    net = block("layerscale", 2)
    x = torch.randn(2, 12, 5, 5)
    assert 0 < (net(x) - x).abs().max() < 1e-2
    assert torch.equal(net.scale1.weight, torch.full((12,), 1e-4))
    with pytest.raises(ValueError, match="initial_scale must be above 0, got 0"):
        block("layerscale", 2, initial_scale=0)
