"""Pictures of what the transformer layers do: attention over the image, collapse along the layers, receptive fields."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convformer_monai.analysis.attention import PixelAttention
from convformer_monai.analysis.collapse import LayerCollapse
from convformer_monai.analysis.receptive_field import HeadField
from convformer_monai.analysis.scene import Scene
from convformer_monai.errors import InputRefused, RefusalCode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_attention", "draw_collapse", "draw_receptive_fields", "new_figure", "to_png"]

DPI = 100
PANEL = 1.2  # inches
MAX_LAYERS, MAX_HEADS = 12, 8  # shown; evenly chosen of more
OPACITY = 0.9
DIMMED = 0.7  # brightness of the image below the weights
WEAKEST, MARGIN = 0.1, 0.08  # shown are all entries above this share of the strongest, and some of the image around
LUMINANCE = (0.299, 0.587, 0.114)
POSITIVE, NEGATIVE = ("#ff8c1a", "#ffe45c"), ("#1e90ff", "#9be7ff")  # weaker and strongest weights
MARK = "#39ff14"
OUTLINE = "#ffffff"
CURVES = {  # colour-blind safe (Okabe and Ito)
    "token_similarity": ("features of two tokens", "#000000", "o"),
    "patch_similarity": ("attention of two tokens", "#d55e00", "s"),
    "head_similarity": ("attention in two heads", "#0072b2", "^"),
    "layer_similarity": ("attention, layer before", "#009e73", "D"),
}


def new_figure(width: float, height: float) -> Figure:
    """Makes an empty figure, in inches, without a window or any global state.

    Raises:
        InputRefused: ``MISSING_PACKAGE`` if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InputRefused(
            RefusalCode.MISSING_PACKAGE, f"the figures need {error.name}: pip install 'convformer_monai[train]'"
        ) from error
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")


def to_png(figure: Figure) -> bytes:
    """The figure as PNG, in 64 levels a colour: two thirds of the size, and no difference to see."""
    from PIL import Image

    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, format="png")
    with Image.open(whole) as picture:
        fewer = picture.convert("RGB").point(lambda level: min(255, (level + 2) // 4 * 4))
        fewer.save(small, format="PNG", optimize=True)
    return small.getvalue()


def draw_attention(scene: Scene, attention: Sequence[PixelAttention], title: str) -> Figure:
    """Draws what the chosen pixel attends to: the mean over heads and each head, layer by layer, over the image.

    Layers are rows, or columns where there are more of them than of heads. Each panel is scaled to its strongest entry.

    Args:
        scene: the image.
        attention: of its pixel, in at least one layer.
        title: of the figure.
    """
    layers = _some(len(attention), MAX_LAYERS)
    most = max(len(layer.maps) for layer in attention)
    heads = _some(most, MAX_HEADS)
    tall = len(layers) > len(heads) + 1
    rows, columns = (len(heads) + 1, len(layers)) if tall else (len(layers), len(heads) + 1)
    big = min(2, rows)
    aspect = float(np.clip(scene.images.shape[3] / scene.images.shape[2], 0.4, 2.5))
    figure = new_figure((columns + big) * PANEL + 0.4, rows * (PANEL * aspect + 0.22) + 0.8)
    figure.suptitle(title, fontsize=9)
    grid = figure.add_gridspec(rows, columns + big)
    part = _part(scene, [attention[layer] for layer in layers])
    _show_whole(figure.add_subplot(grid[:big, :big]), scene, part)
    grey = scene.picture if scene.picture.ndim == 2 else scene.picture @ np.array(LUMINANCE, np.float32)
    for i, layer in enumerate(layers):
        for j, head in enumerate([None, *heads]):
            axes = figure.add_subplot(grid[j, i + big] if tall else grid[i, j + big])
            axes.set_axis_off()
            if head is not None and head >= len(attention[layer].maps):
                continue
            maps = attention[layer].maps.numpy()
            _show(axes, scene, DIMMED * grey)
            _lay_over(axes, attention[layer], maps.mean(0) if head is None else maps[head])
            _mark(axes, scene, size=5)
            axes.set(xlim=part[:2], ylim=part[2:])
            axes.set_title(f"layer {layer + 1}: mean" if head is None else f"head {head + 1}", fontsize=7, pad=2)
    _note_attention(figure, attention, len(layers), len(heads), most)
    return figure


def _note_attention(figure: Figure, attention: Sequence[PixelAttention], layers: int, heads: int, most: int) -> None:
    """Writes below the panels what the colours mean, and what was left out."""
    signed = any(bool((layer.maps < 0).any()) for layer in attention)
    words = "Orange to yellow: positive weight" + ("; blue: negative. " if signed else ". ")
    words += "Opaque and bright: the strongest entry of its panel; clear: none."
    if layers < len(attention) or heads < most:
        words += f" Shown: {layers} of {len(attention)} layers, {heads} of {most} heads."
    figure.supxlabel(words, fontsize=8)


def draw_collapse(layers: Sequence[LayerCollapse], title: str) -> Figure:
    """Draws the measures of collapse along the layers.

    Args:
        layers: of the network, in their order.
        title: of the figure.
    """
    figure = new_figure(11, 3.9)
    figure.suptitle(title, fontsize=9)
    alike, spread, rank = figure.subplots(1, 3)
    for name, (label, colour, marker) in CURVES.items():
        _curve(alike, layers, name, label, colour, marker)
    alike.set(title="How alike (mean cosine); 1: collapsed", ylim=(min(-0.1, *_values(layers, CURVES)) - 0.05, 1.05))
    alike.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    alike.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    absolute = "of |weights| " if any(layer.signed for layer in layers) else ""
    _curve(spread, layers, "entropy", "attention", "#d55e00", "s")
    spread.set(title=f"Entropy of a row {absolute}/ log N; 1: all tokens alike", ylim=(-0.05, 1.05))
    _curve(rank, layers, "attention_rank", "attention maps", "#d55e00", "s")
    _curve(rank, layers, "token_rank", "features of tokens", "#000000", "o")
    numbers = range(1, len(layers) + 1)
    rows = [layer.rows or np.nan for layer in layers]
    if not np.isnan(rows).all():
        rank.plot(numbers, rows, "--", color="#d55e00", linewidth=0.8, alpha=0.7, label="most that maps can have")
    rank.set(title="Effective rank; 1: collapsed", yscale="log")
    rank.set_ylim(bottom=0.9)
    rank.yaxis.set_major_formatter("{x:g}")
    for axes in (alike, spread, rank):
        axes.set_xlabel("layer")
        axes.set_xticks(list(numbers) if len(layers) <= 12 else list(range(1, len(layers) + 1, len(layers) // 8)))
        axes.set_xlim(0.5, len(layers) + 0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=8)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7, frameon=False)
        else:
            axes.text(0.5, 0.5, "these layers have no attention", ha="center", transform=axes.transAxes, fontsize=8)
    return figure


def draw_receptive_fields(scene: Scene, fields: Sequence[HeadField], title: str) -> Figure:
    """Draws the full width at half maximum of each head: around the pixel, and along the layers.

    Args:
        scene: the image.
        fields: of its heads, at least one.
        title: of the figure.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Ellipse

    layers = list(dict.fromkeys(field.layer for field in fields))
    colours = colormaps["plasma"](np.linspace(0.25, 0.95, len(layers)))
    aspect = float(np.clip(scene.images.shape[3] / scene.images.shape[2], 0.4, 2.0))
    figure = new_figure(10.5, 4.4 * max(aspect, 0.8) + 0.7)
    figure.suptitle(title, fontsize=9)
    image, strip = figure.subplots(1, 2)
    _show(image, scene, scene.picture)
    centre = (scene.pixel[0] + 0.5, scene.pixel[1] + 0.5)
    strip.set(
        xlabel="layer", title="Each dot is a head (mean of both axes)", ylabel="FWHM, pixels of the network's input"
    )
    for number, layer in enumerate(layers):
        heads = [field for field in fields if field.layer == layer and field.fwhm_pixels is not None]
        widths = [float(np.mean(field.fwhm_pixels or (np.nan,))) for field in heads]
        positions = number + 1 + np.linspace(-0.25, 0.25, len(heads)) if len(heads) > 1 else [number + 1.0] * len(heads)
        strip.scatter(positions, widths, color=colours[number], edgecolor="black", linewidth=0.5, s=36, zorder=3)
        for field in heads:
            assert field.fwhm_pixels is not None
            line = {"fill": False, "edgecolor": colours[number], "linewidth": 1.3, "alpha": 0.9}
            image.add_patch(Ellipse(centre, field.fwhm_pixels[0], field.fwhm_pixels[1], **line))
    _mark(image, scene, size=8)
    image.set_title("Where each head's Gaussian is above half of its peak", fontsize=9)
    strip.title.set_fontsize(9)
    strip.set_xticks(range(1, len(layers) + 1))
    strip.set_xlim(0.4, len(layers) + 0.6)
    strip.set_ylim(bottom=0)
    strip.grid(axis="y", color="0.9")
    strip.spines["top"].set_visible(False)
    strip.tick_params(labelsize=8)
    if scene.spacing_mm is not None and np.isclose(*scene.spacing_mm, rtol=0.02):
        mm = float(np.mean(scene.spacing_mm))
        second = strip.secondary_yaxis("right", functions=(lambda pixels: pixels * mm, lambda width: width / mm))
        second.set_ylabel("mm")
        second.tick_params(labelsize=8)
    else:
        strip.spines["right"].set_visible(False)
    return figure


def _part(scene: Scene, attention: Sequence[PixelAttention]) -> tuple[float, float, float, float]:
    """The part of the image that shows all entries of some strength, of its shape: left, right, bottom, top."""
    image = scene.images.shape[2:]
    spans = [[position, position + 1.0] for position in scene.pixel]
    for layer in attention:
        strength = layer.maps.abs()
        strong = (strength > WEAKEST * strength.amax((1, 2), keepdim=True)).any(0).numpy()
        for axis, span in enumerate(spans):
            positions = np.flatnonzero(strong.any(axis=1 - axis))
            (start, stop), count = layer.box[axis], strong.shape[axis]
            if len(positions):
                span[0] = min(span[0], start + (stop - start) * float(positions[0]) / count)
                span[1] = max(span[1], start + (stop - start) * float(positions[-1] + 1) / count)
    share = max((span[1] - span[0]) / size for span, size in zip(spans, image, strict=True)) + MARGIN
    edges = []
    for span, size in zip(spans, image, strict=True):
        width = min(1.0, share) * size
        start = float(np.clip((span[0] + span[1] - width) / 2, 0, size - width))
        edges.append((start, start + width))
    return (*edges[0], edges[1][1], edges[1][0])


def _show_whole(axes: Axes, scene: Scene, part: tuple[float, float, float, float]) -> None:
    """Shows the image with the pixel, the mask's outline, and the part that other panels show."""
    _show(axes, scene, scene.picture)
    if scene.mask.any():
        level = min(0.5, float(scene.mask.max()) / 2)  # also of a mask that is smaller than a pixel here
        axes.contour(scene.mask, [level], colors=OUTLINE, linewidths=1.0, extent=_extent(scene, flipped=True))
    left, right, bottom, top = part
    axes.plot([left, right, right, left, left], [bottom, bottom, top, top, bottom], ":", color=OUTLINE, linewidth=0.8)
    _mark(axes, scene, size=9)
    axes.set_title("pixel, and the bundle's mask", fontsize=8)


def _some(count: int, most: int) -> list[int]:
    """Up to ``most`` of the numbers from 0, evenly, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def _extent(scene: Scene, flipped: bool = False) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of the image in pixels of the network's input, y downwards."""
    width, height = scene.images.shape[2:]
    return (0, width, 0, height) if flipped else (0, width, height, 0)


def _show(axes: Axes, scene: Scene, picture: NDArray[np.float32]) -> None:
    extent = _extent(scene)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="bilinear")
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.set_axis_off()


def _mark(axes: Axes, scene: Scene, size: float) -> None:
    """Marks the chosen pixel."""
    position = ([scene.pixel[0] + 0.5], [scene.pixel[1] + 0.5])
    axes.plot(*position, "+", color="black", markersize=size + 1.5, markeredgewidth=2.6)
    axes.plot(*position, "+", color=MARK, markersize=size, markeredgewidth=1.3)


def _lay_over(axes: Axes, layer: PixelAttention, values: NDArray[np.float32]) -> None:
    """Lays a map over the image: the stronger an entry, the more opaque and the brighter."""
    (left, right), (top, bottom) = layer.box
    axes.imshow(_coloured(values.T), extent=(left, right, bottom, top), interpolation="nearest", zorder=1)


def _coloured(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """RGBA of signed weights, (Y, X, 4)."""
    from matplotlib.colors import to_rgb

    strength = np.minimum(np.abs(values) / max(float(np.abs(values).max()), 1e-30), 1)
    result = np.zeros((*values.shape, 4))
    for here, (weak, strong) in ((values >= 0, POSITIVE), (values < 0, NEGATIVE)):
        share = strength[here][:, None]
        result[here, :3] = (1 - share) * np.array(to_rgb(weak)) + share * np.array(to_rgb(strong))
    result[..., 3] = OPACITY * strength**0.7
    return result


def _curve(axes: Axes, layers: Sequence[LayerCollapse], name: str, label: str, colour: str, marker: str) -> None:
    values = [getattr(layer, name) for layer in layers]
    if any(value is not None for value in values):
        numbers = range(1, len(layers) + 1)
        known = [np.nan if value is None else value for value in values]
        axes.plot(numbers, known, color=colour, marker=marker, markersize=4.5, linewidth=1.4, label=label)


def _values(layers: Sequence[LayerCollapse], names: Any) -> list[float]:
    """All values that there are of some measures."""
    return [getattr(layer, name) for layer in layers for name in names if getattr(layer, name) is not None]
