"""Measures of collapse, on maps and features whose measures are known."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn

from convformer_monai.analysis import LayerCollapse, collapse, measure_collapse
from convformer_monai.analysis.collapse import MEASURES, cosine, effective_rank, entropy, mean_cosine, spread
from convformer_monai.networks import Encoder, ViTBlock, make_net


class TestMeanCosine:
    def test_known_values(self) -> None:
        e = torch.eye(4, dtype=torch.float64)
        assert mean_cosine(e) == pytest.approx(0, abs=1e-12)
        assert mean_cosine(e[[1, 1, 1]]) == pytest.approx(1)
        assert mean_cosine(torch.stack([e[0], -3 * e[0]])) == pytest.approx(-1)
        assert mean_cosine(torch.stack([e[0], 2 * e[0], e[1]])) == pytest.approx(1 / 3)

    def test_equals_the_mean_over_all_pairs(self) -> None:
        vectors = torch.randn(3, 6, 5, dtype=torch.float64)
        for one, result in zip(vectors, mean_cosine(vectors), strict=True):
            pairs = [torch.cosine_similarity(one[i], one[j], 0) for i in range(6) for j in range(i)]
            assert result == pytest.approx(float(torch.stack(pairs).mean()))

    def test_vectors_without_direction_are_left_out(self) -> None:
        e = torch.eye(3, dtype=torch.float64)
        assert mean_cosine(torch.stack([e[0], e[0], 0 * e[0]])) == pytest.approx(1)
        assert mean_cosine(torch.stack([e[0], 0 * e[0]])).isnan()
        assert mean_cosine(e[:1]).isnan()


class TestEntropy:
    def test_known_values(self) -> None:
        rows = torch.tensor([[1, 1, 1, 1], [0, 7, 0, 0], [1, 1, 0, 0]], dtype=torch.float64)
        torch.testing.assert_close(entropy(rows), torch.tensor([1, 0, 0.5], dtype=torch.float64))

    def test_signed_rows_count_by_their_size(self) -> None:
        rows = torch.tensor([[-1, 1, -1, 1], [-3, 0, 0, 0]], dtype=torch.float64)
        torch.testing.assert_close(entropy(rows), torch.tensor([1, 0], dtype=torch.float64))
        assert entropy(torch.zeros(1, 4)).isnan().all() and entropy(torch.ones(2, 1)).isnan().all()


class TestEffectiveRank:
    def test_known_values(self) -> None:
        e = torch.eye(9, dtype=torch.float64)
        assert effective_rank(e) == pytest.approx(9)
        assert effective_rank(-e[:5]) == pytest.approx(5)
        assert effective_rank(torch.ones(6, 4, dtype=torch.float64)) == pytest.approx(1, abs=1e-4)
        quarter = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
        assert effective_rank(torch.diag(torch.tensor([3.0, -1.0]).double())) == pytest.approx(quarter)
        assert effective_rank(0 * e).isnan()

    @pytest.mark.parametrize("shape", [(7, 20), (20, 7)])
    def test_equals_that_of_the_singular_values(self, shape: tuple[int, int]) -> None:
        matrix = torch.randn(2, *shape, dtype=torch.float64)
        shares = torch.linalg.svdvals(matrix)
        shares = shares / shares.sum(-1, keepdim=True)
        torch.testing.assert_close(effective_rank(matrix), (-(shares * shares.log()).sum(-1)).exp())


def test_cosine() -> None:
    first, second = torch.tensor([[1.0, 0], [1, 1], [0, 0]]), torch.tensor([[-2.0, 0], [1, 0], [1, 0]])
    assert cosine(first, second)[:2].tolist() == pytest.approx([-1, 0.5**0.5]) and cosine(first, second)[2].isnan()


class TestSpread:
    def test_all_if_there_are_few(self) -> None:
        assert spread((3, 4), 12).tolist() == list(range(12))

    @pytest.mark.parametrize("grid", [(32, 32), (26, 30), (128, 8), (5, 200), (9, 10, 11), (1000,)])
    @pytest.mark.parametrize("most", [1, 7, 256])
    def test_even(self, grid: tuple[int, ...], most: int) -> None:
        chosen = spread(grid, most)
        assert most / 2 < len(chosen) <= most and len(chosen.unique()) == len(chosen)
        assert torch.equal(chosen, chosen.sort().values)
        places = torch.stack(torch.unravel_index(chosen, grid)).double()
        middle = (torch.tensor(grid) - 1) / 2
        assert ((places.mean(1) - middle).abs() <= 1).all(), "no side of the grid is preferred"
        if most == 256 and max(grid) < 4 * min(grid):
            assert all(len(axis.unique()) > 3 for axis in places), "no axis is left out"


class Fixed(ViTBlock):
    """A layer with given attention maps ``(heads, N, N)`` and output ``(C, *grid)``."""

    def __init__(self, maps: Tensor, output: Tensor | None = None) -> None:
        super().__init__(2, 4, 1, 4)
        self.given, self.output = maps, output

    def forward(self, x: Tensor) -> Tensor:
        return x if self.output is None else self.output.expand_as(x)

    def attention(self, x: Tensor, queries: Tensor | None = None) -> Tensor:
        assert queries is not None
        return self.given[:, queries].expand(len(x), -1, -1, -1)


def measured(*layers: nn.Module, grid: tuple[int, int] = (4, 4), **arguments: int) -> list[LayerCollapse]:
    return measure_collapse(nn.Sequential(*layers), torch.randn(2, 4, *grid), **arguments)


class TestMeasureCollapse:
    def test_collapsed(self) -> None:
        _, layer = measured(*[Fixed(torch.full((3, 16, 16), 1 / 16), torch.ones(4, 4, 4)) for _ in range(2)])
        for name in ("token_similarity", "patch_similarity", "head_similarity", "layer_similarity", "entropy"):
            assert getattr(layer, name) == pytest.approx(1), name
        assert (layer.heads, layer.rows, layer.signed) == (3, 16, False)
        assert (layer.attention_rank, layer.token_rank) == (pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-4))

    def test_every_token_for_itself(self) -> None:
        one_hot = torch.eye(16)[:, :, None].transpose(0, 1)[:4].reshape(4, 4, 4)  # four tokens differ, others are 0
        layer = measured(Fixed(torch.eye(16).expand(2, 16, 16), one_hot))[0]
        assert (layer.patch_similarity, layer.entropy) == (pytest.approx(0, abs=1e-9), 0)
        assert (layer.head_similarity, layer.layer_similarity) == (pytest.approx(1), None)
        assert (layer.attention_rank, layer.token_rank) == (pytest.approx(16), pytest.approx(4))
        assert layer.token_similarity == pytest.approx(0, abs=1e-9)

    def test_signed(self) -> None:
        a = torch.randn(16, 16)
        layer = measured(Fixed(torch.stack([a, -2 * a])))[0]
        assert layer.signed and layer.head_similarity == pytest.approx(-1)
        signs = torch.tensor([1.0, -1]).repeat(8)
        layer = measured(Fixed((signs[:, None] * signs)[None]))[0]
        assert layer.entropy == pytest.approx(1) and layer.attention_rank == pytest.approx(1, abs=1e-4)
        assert layer.patch_similarity == pytest.approx(-1 / 15)  # of 120 pairs 56 are 1 and 64 are -1
        assert layer.head_similarity is None

    def test_layers_are_compared_where_they_can_be(self) -> None:
        alike, own = torch.full((1, 16, 16), 1 / 16), torch.eye(16)[None]
        first, second, more, coarse = measured(
            Fixed(alike),
            Fixed(own),
            Fixed(own.expand(2, -1, -1)),
            nn.Sequential(nn.AvgPool2d(2), Fixed(own[:, :4, :4])),
        )
        assert first.layer_similarity is None and second.layer_similarity == pytest.approx(0.25)
        assert more.layer_similarity is None and coarse.layer_similarity is None  # other heads; another grid
        assert [one.grid for one in (more, coarse)] == [(4, 4), (2, 2)] and coarse.stride == (2.0, 2.0)

    @pytest.mark.parametrize("block", ["convformer", "vit", "reattention", "refiner"])
    @torch.no_grad()
    def test_against_the_whole_maps(self, block: str, randomise: Callable[..., nn.Module]) -> None:
        net = randomise(Encoder(2, 8, 2, 2, 4, block)).eval()
        x = torch.randn(1, 8, 5, 6)
        maps, features = net.attention(x), net.features(x)
        result = measure_collapse(net, x)
        for n, layer in enumerate(result):
            a = maps[n][0].double()
            unit = a / a.norm(dim=-1, keepdim=True)
            rows = (unit @ unit.transpose(1, 2)).sum((1, 2)).sub(30).div(30 * 29).mean()
            assert layer.patch_similarity == pytest.approx(float(rows), abs=1e-5)
            assert layer.head_similarity == pytest.approx(float((unit[0] * unit[1]).sum(-1).mean()), abs=1e-5)
            p = a.abs() / a.abs().sum(-1, keepdim=True)
            assert layer.entropy == pytest.approx(float((-p * p.log()).nansum(-1).mean()) / math.log(30), abs=1e-5)
            assert layer.signed == bool((a < 0).any()) and (block != "convformer" or layer.signed)
            tokens = features[n][0].flatten(1).T.double()
            assert layer.token_rank == pytest.approx(float(effective_rank(tokens)), rel=1e-4)
        before = maps[0][0].double()
        together = torch.cosine_similarity(a, before, -1).mean()
        assert result[1].layer_similarity == pytest.approx(float(together), abs=1e-5)

    def test_controls(self) -> None:
        conv = measure_collapse(Encoder(2, 8, 1, 2, 4, "conv"), torch.randn(1, 8, 4, 4))[0]
        assert conv.token_similarity is not None and conv.token_rank is not None
        assert all(getattr(conv, name) is None for name in (*MEASURES[2:], "heads", "rows", "signed"))
        identity = measure_collapse(Encoder(2, 8, 1, 2, 4, "identity"), torch.randn(1, 8, 4, 4))[0]
        assert (identity.patch_similarity, identity.entropy, identity.rows) == (0, 0, 16)

    def test_images_are_averaged(self) -> None:
        net, x = make_net("SETR", 1, 2, "vit", "small"), torch.randn(2, 1, 32, 48)
        both, first, second = measure_collapse(net, x), measure_collapse(net, x[:1]), measure_collapse(net, x[1:])
        for layer, a, b in zip(both, first, second, strict=True):
            for name in MEASURES[:4]:
                assert getattr(layer, name) == pytest.approx((getattr(a, name) + getattr(b, name)) / 2)
        assert first[0].token_similarity != second[0].token_similarity

    def test_many_tokens_are_thinned_out_evenly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        net, x = Encoder(2, 4, 1, 2, 4), torch.randn(1, 4, 24, 24)
        whole = measure_collapse(net, x, max_queries=576)[0]
        some = measure_collapse(net, x)[0]
        assert (whole.rows, some.rows) == (576, 256)
        assert some.entropy == pytest.approx(whole.entropy, abs=0.02)
        assert some.head_similarity == pytest.approx(whole.head_similarity, abs=0.02)
        monkeypatch.setattr(collapse, "MAX_NUMBERS", 576 * 9)
        monkeypatch.setattr(collapse, "MAX_TOKENS", 100)
        assert measure_collapse(net, x)[0].rows == 9
        assert measure_collapse(net, x)[0].token_rank < whole.token_rank + 1e-9

    def test_some_windows_of_a_patcher(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(collapse, "MAX_WINDOWS", 2)
        layers = measure_collapse(make_net("Patcher", 1, 2, "convformer", "small"), torch.randn(1, 1, 64, 64))
        assert [layer.grid for layer in layers] == [(12, 12)] * 5 and all(layer.rows == 144 for layer in layers)
        assert layers[3].layer_similarity is not None  # the two layers of one stage
        assert layers[4].layer_similarity is None  # windows of the same grid, but of coarser tokens

    def test_json(self) -> None:
        layers = measure_collapse(make_net("ConvFormerUNet", 1, 2, "convformer", "small"), torch.zeros(1, 1, 16, 16))
        text = json.dumps([asdict(layer) for layer in layers], allow_nan=False)
        assert [one["layer"] for one in json.loads(text)] == ["encoder.3.2.layers.0", "encoder.4.2.layers.0"]
        assert layers[1].grid == (1, 1) and layers[1].token_similarity is None  # one token is like no other

    def test_nothing_to_measure(self) -> None:
        assert measure_collapse(nn.Conv2d(1, 1, 1), torch.randn(1, 1, 4, 4)) == []
        with pytest.raises(ValueError, match="max_queries must be at least 1, got 0"):
            measured(Fixed(torch.eye(16)[None]), max_queries=0)
        with pytest.raises(ValueError, match="images must hold at least one image"):
            measure_collapse(nn.Conv2d(1, 1, 1), torch.randn(0, 1, 4, 4))


@pytest.mark.slow
@pytest.mark.parametrize("block", ["convformer", "refiner", "vit"])
def test_a_full_size_network_needs_little_memory(block: str) -> None:
    program = (
        "import resource, torch\n"
        "from convformer_monai.analysis import measure_collapse\n"
        "from convformer_monai.networks import make_net\n"
        f"net, x = make_net('SETR', 1, 4, '{block}').eval(), torch.randn(1, 1, 256, 256)\n"
        "with torch.no_grad(): net(x)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "assert len(measure_collapse(net, x)) == 12\n"
        "print((peak() - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 500
