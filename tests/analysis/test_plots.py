"""The figures show what they were given."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from convformer_monai.analysis import HeadField, LayerCollapse, PixelAttention
from convformer_monai.analysis.plots import draw_attention, draw_collapse, draw_receptive_fields, new_figure, to_png
from convformer_monai.analysis.scene import Scene
from convformer_monai.errors import InputRefused

SIZE = (48, 64)  # X, Y


def scene(photo: bool = False) -> Scene:
    picture = np.full((*SIZE[::-1], 3) if photo else SIZE[::-1], 0.5, np.float32)
    mask = np.zeros((2 * SIZE[1], 2 * SIZE[0]), np.float32)
    mask[40:60, 30:50] = 1
    images = torch.zeros(1, 3 if photo else 1, *SIZE)
    return Scene(images, (20.0, 25.0), (1.5, 1.5), (10, 12), 3, 9, {}, None, picture, mask)


WHOLE = ((0.0, 48.0), (0.0, 64.0))


def attention(layers: int, heads: int) -> list[PixelAttention]:
    return [PixelAttention(f"layer{n}", (2, 3), torch.randn(heads, 6, 8), WHOLE) for n in range(layers)]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


@pytest.mark.parametrize("photo", [False, True])
@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (2, 3), (5, 2)])
def test_a_panel_for_each_head_of_each_layer(layers: int, heads: int, photo: bool) -> None:
    figure = draw_attention(scene(photo), attention(layers, heads), "the title")
    panels = titles(figure)
    assert panels[0] == "pixel, and the bundle's mask" and len(panels) == 1 + layers * (1 + heads)
    assert panels[1 :: heads + 1] == [f"layer {n + 1}: mean" for n in range(layers)]
    assert "the title" in figure.get_suptitle() and "blue: negative" in figure.get_supxlabel()
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in figure.axes[1].lines]
    assert set(marks) == {(20.5, 25.5)}, "pixels are areas"
    to_png(figure)


def test_layers_with_fewer_heads_leave_a_gap() -> None:
    figure = draw_attention(scene(), [*attention(1, 2), *attention(1, 4)], "")
    assert titles(figure)[1:].count("head 2") == 2 and titles(figure).count("head 4") == 1


def test_of_many_layers_and_heads_some_are_shown_and_it_says_so() -> None:
    figure = draw_attention(scene(), attention(24, 16), "")
    assert len(titles(figure)) == 1 + 12 * 9
    assert "Shown: 12 of 24 layers, 8 of 16 heads" in figure.get_supxlabel()
    assert {"layer 1: mean", "layer 24: mean", "head 1", "head 16"} <= set(titles(figure))


def test_colours_and_places_of_weights() -> None:
    maps = torch.zeros(1, 6, 8)
    maps[0, 1, 2], maps[0, 4, 5] = 2.0, -1.0
    figure = draw_attention(scene(), [PixelAttention("", (0, 0), maps, ((-8, 52), (0, 80)))], "")
    _, overlay = figure.axes[2].images
    colours = overlay.get_array()
    assert colours.shape == (8, 6, 4) and overlay.get_extent() == [-8, 52, 80, 0]
    assert colours[2, 1, 3] == pytest.approx(0.9) and colours[2, 1, 0] > colours[2, 1, 2], "strong and warm"
    assert 0 < colours[5, 4, 3] < 0.9 and colours[5, 4, 2] > colours[5, 4, 0], "weaker and blue"
    assert np.count_nonzero(colours[..., 3]) == 2
    assert "negative" in figure.get_supxlabel()
    figure = draw_attention(scene(), [PixelAttention("", (0, 0), maps.abs(), WHOLE)], "")
    assert "negative" not in figure.get_supxlabel()


def test_panels_show_the_part_that_is_attended_to() -> None:
    maps = torch.zeros(1, 6, 8)
    maps[0, 2, 3] = maps[0, 3, 3] = 1
    axes = draw_attention(scene(), [PixelAttention("", (0, 0), maps, WHOLE)], "").axes[1]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert 0 < left <= 16 and 32 <= right < 48 and 0 < top <= 24 and 32 <= bottom < 64
    assert (bottom - top) / (right - left) == pytest.approx(64 / 48)


def layer(**measures: object) -> LayerCollapse:
    return LayerCollapse("x", "ViTBlock", (4, 4), None, **{"token_similarity": 0.5, "token_rank": 3.0, **measures})  # type: ignore[arg-type]


def test_curves() -> None:
    given = {"heads": 2, "rows": 16, "signed": True, "head_similarity": -0.5, "entropy": 0.25, "attention_rank": 7.0}
    figure = draw_collapse([layer(**given, patch_similarity=0.1), layer(**given, layer_similarity=0.9)], "the title")
    alike, spread, rank = figure.axes
    curves = {line.get_label(): list(line.get_ydata()) for axes in figure.axes for line in axes.lines}
    assert curves["features of two tokens"] == [0.5, 0.5] and curves["attention in two heads"] == [-0.5, -0.5]
    assert curves["attention of two tokens"][0] == 0.1 and np.isnan(curves["attention of two tokens"][1])
    assert curves["attention"] == [0.25, 0.25] and curves["most that maps can have"] == [16, 16]
    assert alike.get_ylim()[0] < -0.5 and "|weights|" in spread.get_title() and rank.get_yscale() == "log"
    assert "|weights|" not in draw_collapse([layer(entropy=1.0, signed=False)], "").axes[1].get_title()


def test_layers_without_attention() -> None:
    figure = draw_collapse([layer(), layer()], "")
    assert [text.get_text() for text in figure.axes[1].texts] == ["these layers have no attention"]
    assert [line.get_label() for line in figure.axes[2].lines] == ["features of tokens"]
    to_png(figure)


def test_receptive_fields() -> None:
    def field(name: str, head: int, width: float) -> HeadField:
        return HeadField(name, head, (6, 8), 0.1, (1, 1), (2, 2), None, (1, 1), (width, 2 * width), None, 9.0)

    fields = [field("a", 0, 10.0), field("a", 1, 20.0), field("b", 0, 6.0)]
    image, strip = draw_receptive_fields(scene(), fields, "the title").axes
    assert [(patch.width, patch.height) for patch in image.patches] == [(10, 20), (20, 40), (6, 12)]
    assert all(patch.center == (20.5, 25.5) for patch in image.patches)
    dots = [dots.get_offsets()[:, 1].tolist() for dots in strip.collections]
    assert dots == [[15, 30], [9]]
    assert [axis.get_ylabel() for axis in strip.child_axes] == ["mm"]


def test_png_of_fewer_levels() -> None:
    figure = new_figure(3, 2)
    figure.set_layout_engine("none")  # it would move what is drawn twice
    figure.subplots().imshow(np.random.default_rng(0).random((40, 40, 3)))
    exact = io.BytesIO()
    figure.savefig(exact, format="png")
    with Image.open(io.BytesIO(to_png(figure))) as picture, Image.open(exact) as original:
        levels = np.asarray(picture, dtype=int)
        assert picture.size == (300, 200) and picture.mode == "RGB" and levels.max() == 255
        assert np.abs(levels - np.asarray(original.convert("RGB"), dtype=int)).max() <= 2
        assert len(np.unique(levels)) <= 65


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputRefused, match=r"^error\[MISSING_PACKAGE\]: .*pip install 'convformer_monai\[train\]'$"):
        new_figure(1, 1)
