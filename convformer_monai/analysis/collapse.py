"""Attention collapse in numbers: how alike tokens, rows, heads and layers of a network are.

In transformers trained on few images, attention maps of deep layers become nearly the same for every token (Zhou et
al., DeepViT, arXiv 2103.11886; Lin et al., ConvFormer, MICCAI 2023, arXiv 2309.05674). Measured here, for each layer:

* tokens: the mean cosine between the features of two tokens, and the effective rank of the features of all (Roy and
  Vetterli, "The effective rank", EUSIPCO 2007: the exponential of the entropy of the singular values);
* attention maps: the mean cosine between the rows of two tokens, between two heads, and between a head and the same
  head of the layer before (as DeepViT measures it); the entropy of a row; the effective rank of a map.

ConvFormer's maps are signed and their rows do not sum to 1, and those of Re-attention and Refiner are not probabilities
either. Cosines and ranks take any map as it is. The entropy is that of the row's absolute values, divided by their sum;
for softmax maps that is the usual one.

Of more than 256 tokens the rows of some are measured, which are spread evenly over the grid, and always the same; the
rank of a map, which depends on the number of its rows, is that of these rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from convformer_monai.analysis.layers import Visit, attention_rows, visit

MAX_QUERIES = 256
MAX_TOKENS = 4096  # whose features are compared
MAX_WINDOWS = 16  # of an image, a layer
MAX_NUMBERS = 2**20  # of the rows of a head that are held at a time


@dataclass(frozen=True)
class LayerCollapse:
    """How far a layer has collapsed, over the images (and windows) measured.

    What does not exist is None: attention of a layer without it, heads of one that has a single one, a layer before the
    first or one before of another grid.

    Attributes:
        layer: path of the module in the network.
        block: its class.
        grid: tokens along each axis.
        stride: pixels of the network's input that a token spans, one an axis, if known.
        token_similarity: mean cosine between the output features of two tokens, -1 to 1; 1 if all are alike.
        token_rank: effective rank of the output features, 1 to the number of channels or tokens.
        heads: attention heads.
        rows: rows of each map that were measured.
        signed: whether a map has negative entries.
        patch_similarity: mean cosine between the attention of two tokens (rows of a map).
        head_similarity: mean cosine between the attention of one token in two heads.
        layer_similarity: mean cosine between the attention of one token in this layer and the one before, same head.
        entropy: mean entropy of a row of absolute values over the logarithm of its length, 0 (one key) to 1 (all).
        attention_rank: mean effective rank of the maps' measured rows, 1 (all alike) to ``rows``.
    """

    layer: str
    block: str
    grid: tuple[int, ...]
    stride: tuple[float, ...] | None
    token_similarity: float | None
    token_rank: float | None
    heads: int | None = None
    rows: int | None = None
    signed: bool | None = None
    patch_similarity: float | None = None
    head_similarity: float | None = None
    layer_similarity: float | None = None
    entropy: float | None = None
    attention_rank: float | None = None


MEASURES = (
    "token_similarity",
    "token_rank",
    "patch_similarity",
    "head_similarity",
    "layer_similarity",
    "entropy",
    "attention_rank",
)


def measure_collapse(net: nn.Module, images: Tensor, max_queries: int = MAX_QUERIES) -> list[LayerCollapse]:
    """Measures every transformer layer of a network.

    Images are taken one at a time and layers one after the other; of the windows of a Patcher up to 16 an image are
    measured, spread evenly. So the memory needed besides the network's own does not grow with either.

    Args:
        net: any network with registered blocks; it is left in the mode that it had.
        images: ``(B, C, *spatial)``, on the network's device.
        max_queries: rows of each attention map that are measured.

    Returns:
        One for each layer, in the order in which they run, averaged over the images; empty if there are no blocks.

    Raises:
        ValueError: an argument is out of its range.
    """
    if max_queries < 1:
        raise ValueError(f"max_queries must be at least 1, got {max_queries}")
    if not len(images):
        raise ValueError("images must hold at least one image, got none")
    measured = [_measure_image(net, image, max_queries) for image in images.split(1)]
    return [_average(layers) for layers in zip(*measured, strict=True)]


def _measure_image(net: nn.Module, image: Tensor, max_queries: int) -> list[LayerCollapse]:
    layers: list[LayerCollapse] = []
    before: list[Tensor] = []
    location: object = None

    def act(layer: Visit) -> None:
        nonlocal before, location
        grid = tuple(layer.x.shape[2:])
        chosen = spread((len(layer.x),), MAX_WINDOWS).tolist()
        most = max(1, min(max_queries, MAX_NUMBERS // math.prod(grid)))
        queries = spread(grid, most).to(layer.x.device)
        maps = [attention_rows(layer.module, layer.x[i : i + 1], queries) for i in chosen]
        now = [one[0].cpu() for one in maps if one is not None]  # (heads, Q, M) each
        here = (grid, layer.stride, layer.windows)
        comparable = here == location and [one.shape for one in now] == [one.shape for one in before]
        parts = [
            LayerCollapse(
                layer.name,
                type(layer.module).__name__,
                grid,
                layer.stride,
                **_of_features(layer.output[i], grid),
                **(_of_maps(now[n], before[n] if comparable else None) if now else {}),
            )
            for n, i in enumerate(chosen)
        ]
        layers.append(_average(parts))
        before, location = now, here

    visit(net, image, act)
    return layers


def _of_features(features: Tensor, grid: tuple[int, ...]) -> dict[str, Any]:
    """Measures the tokens of a feature map ``(C, *grid)``."""
    tokens = features.flatten(1).cpu()[:, spread(grid, MAX_TOKENS)].T.double()  # (N, C)
    return {"token_similarity": _number(mean_cosine(tokens)), "token_rank": _number(effective_rank(tokens))}


def _of_maps(maps: Tensor, before: Tensor | None) -> dict[str, Any]:
    """Measures attention maps ``(heads, Q, M)``, beside those of the layer before."""
    maps = maps.double()
    return {
        "heads": maps.shape[0],
        "rows": maps.shape[1],
        "signed": bool((maps < 0).any()),
        "patch_similarity": _number(mean_cosine(maps)),
        "head_similarity": _number(mean_cosine(maps.transpose(0, 1))),
        "layer_similarity": None if before is None else _number(cosine(maps, before.double())),
        "entropy": _number(entropy(maps)),
        "attention_rank": _number(effective_rank(maps)),
    }


def mean_cosine(vectors: Tensor) -> Tensor:
    """Mean cosine between two different vectors of a set.

    The sum of all cosines is the squared length of the sum of the unit vectors, so no pair is looked at. Vectors of
    length 0 have no direction and are left out.

    Args:
        vectors: ``(..., n, d)``, sets of n vectors.

    Returns:
        ``(...)``; NaN where fewer than two vectors are left.
    """
    lengths = vectors.norm(dim=-1, keepdim=True)
    count = (lengths > 0).sum((-2, -1))
    total = (vectors / lengths.where(lengths > 0, torch.inf)).sum(-2).square().sum(-1)  # of n^2 cosines
    return (total - count) / (count * (count - 1))  # type: ignore[no-any-return]


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine between vectors ``(..., d)`` and their counterparts: ``(...)``; NaN where one has length 0."""
    return (first * second).sum(-1) / (first.norm(dim=-1) * second.norm(dim=-1))  # type: ignore[no-any-return]


def entropy(rows: Tensor) -> Tensor:
    """Entropy of the absolute values of rows ``(..., M)`` over its maximum, log M.

    Returns:
        ``(...)``; NaN of a row of zeros, or if M is 1.
    """
    if rows.shape[-1] == 1:
        return rows.new_full(rows.shape[:-1], torch.nan)
    shares = rows.abs() / rows.abs().sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1) / math.log(rows.shape[-1])  # type: ignore[no-any-return]


def effective_rank(matrix: Tensor) -> Tensor:
    """Effective rank after Roy and Vetterli: the exponential of the entropy of the singular values over their sum.

    Args:
        matrix: ``(..., n, d)`` float64: the singular values are found as roots of the eigenvalues of the smaller Gram
            matrix, of which half of the digits are right.

    Returns:
        ``(...)``, between 1 and the smaller size; NaN of a matrix of zeros.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        matrix = matrix.transpose(-1, -2)
    values = torch.linalg.eigvalsh(matrix @ matrix.transpose(-1, -2)).clamp_min(0).sqrt()
    shares = values / values.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()  # type: ignore[no-any-return]


def spread(grid: Sequence[int], most: int) -> Tensor:
    """Chooses tokens evenly over a grid: as many along each axis as keep its share of ``most``.

    Args:
        grid: tokens along each axis.
        most: how many at most, at least 1.

    Returns:
        Their numbers in row-major order, all tokens if there are no more than ``most``.
    """
    tokens = torch.arange(math.prod(grid)).reshape(tuple(grid))
    if tokens.numel() <= most:
        return tokens.flatten()
    counts = [1] * len(grid)
    while True:  # one more along the axis that is thinned out most, while there is room
        axis = max(range(len(grid)), key=lambda a: grid[a] / counts[a])
        counts[axis] += 1
        if math.prod(counts) > most:
            counts[axis] -= 1
            break
    for axis, (size, count) in enumerate(zip(grid, counts, strict=True)):
        middles = ((torch.arange(count) + 0.5) * size / count).long()  # the middles of equal parts
        tokens = tokens.index_select(axis, middles)
    return tokens.flatten()


def _number(values: Tensor) -> float | None:
    """The mean of what is a number among the values."""
    mean = float(values.nanmean())
    return None if math.isnan(mean) else mean


def _average(parts: Sequence[LayerCollapse]) -> LayerCollapse:
    """The same layer over several images or windows."""
    values = {field.name: getattr(parts[0], field.name) for field in fields(LayerCollapse)}
    for name in MEASURES:
        known = [getattr(part, name) for part in parts if getattr(part, name) is not None]
        values[name] = sum(known) / len(known) if known else None
    values["signed"] = None if parts[0].signed is None else any(part.signed for part in parts)
    return LayerCollapse(**values)
