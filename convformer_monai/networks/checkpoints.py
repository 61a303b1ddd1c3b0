"""Published ConvFormer weights to ours, and back.

The published code (Lin et al., MICCAI 2023, arXiv 2309.05674) numbers the parts of its nets. The tables below are the
whole correspondence: of names, and of the two tensors that are held in another layout here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor

from convformer_monai.networks.blocks import (
    ConvFormerBlock,
    LayerScaleBlock,
    ReAttentionBlock,
    RefinerBlock,
    ViTBlock,
)
from convformer_monai.networks.encoder import Encoder
from convformer_monai.networks.nets import SETR

# Published name, ours; {n} stands for a number, the same one in both; the first row that fits counts.
VIT_NAMES = (
    ("layers.{n}.0.norm", "layers.{n}.norm1"),
    ("layers.{n}.0.fn.to_qkv", "layers.{n}.mixer.to_qkv"),
    ("layers.{n}.0.fn.to_out.0", "layers.{n}.mixer.project"),
    ("layers.{n}.1.norm", "layers.{n}.norm2"),
    ("layers.{n}.1.fn.net", "layers.{n}.mlp"),
)
# Of one block:
BLOCK_NAMES: dict[type, tuple[tuple[str, str], ...]] = {
    ConvFormerBlock: (
        ("layers.{n}.0.headsita", "layers.{n}.mixer.theta"),
        ("layers.{n}.0.to_qkv", "layers.{n}.mixer.to_qkv"),
        ("layers.{n}.0.to_out", "layers.{n}.mixer.project"),
        ("layers.{n}.1.net.0", "layers.{n}.cffn.expand.0"),
        ("layers.{n}.1.net.1", "layers.{n}.cffn.expand.1"),
        ("layers.{n}.1.net.3", "layers.{n}.cffn.project.0"),
        ("layers.{n}.1.net.4", "layers.{n}.cffn.project.1"),
    ),
    ViTBlock: VIT_NAMES,
    LayerScaleBlock: (
        *VIT_NAMES,
        ("gamma_1", "layers.{n}.scale1.weight"),  # one pair, shared over all layers
        ("gamma_2", "layers.{n}.scale2.weight"),
    ),
    ReAttentionBlock: (
        *VIT_NAMES,
        ("layers.{n}.0.fn.reatten_matrix", "layers.{n}.mixer.transform"),
        ("layers.{n}.0.fn.var_norm", "layers.{n}.mixer.norm"),
    ),
    RefinerBlock: (
        *VIT_NAMES,
        ("layers.{n}.0.fn.DLA.conv_exp", "layers.{n}.mixer.expand"),
        ("layers.{n}.0.fn.DLA.bn1", "layers.{n}.mixer.expand_norm"),
        ("layers.{n}.0.fn.DLA.depth_sep_conv", "layers.{n}.mixer.depthwise"),
        ("layers.{n}.0.fn.DLA.bn2", "layers.{n}.mixer.depthwise_norm"),
        ("layers.{n}.0.fn.DLA.conv_pro", "layers.{n}.mixer.reduce"),
        ("layers.{n}.0.fn.DLA.bn3", "layers.{n}.mixer.reduce_norm"),
        ("layers.{n}.0.fn.adapt_bn", "layers.{n}.mixer.norm"),
    ),
}
# Of the rest of SETR, in which the blocks' names follow "transformer." there and "encoder." here:
SETR_NAMES = (
    ("cnn_encoder.inc.single_conv", "stem.stages.0"),
    ("cnn_encoder.down{n}.maxpool_conv.1.single_conv.0", "stem.stages.{n}.1"),
    ("cnn_encoder.down{n}.maxpool_conv.1.single_conv.1", "stem.stages.{n}.2"),
    ("to_patch_embedding.1", "stem.project"),
    ("pos_embedding", "stem.position"),
    ("decoder.0", "decoder.0.0"),
    ("decoder.1", "decoder.0.1"),
    ("decoder.4", "decoder.2.0"),
    ("decoder.5", "decoder.2.1"),
    ("decoder.8", "decoder.4"),
)
# Published layout, ours, of the tensors that differ in it (our names).
LAYOUTS = {
    "stem.project.weight": ("c (h w i)", "c i h w"),
    "stem.position": ("b (h w) c", "b c h w"),
}


def _names(net: SETR | Encoder) -> dict[str, str]:
    """For each of the net's names the published one.

    Raises:
        ValueError: the net is of a kind that was not published.
    """
    if not isinstance(net, (SETR, Encoder)):
        raise ValueError(f"net must be a SETR or an Encoder, got a {type(net).__name__}")
    block = type((net.encoder if isinstance(net, SETR) else net).layers[0])
    if block not in BLOCK_NAMES:
        published = ", ".join(known.__name__ for known in BLOCK_NAMES)
        raise ValueError(f"net must be made of one of the published blocks {published}, got {block.__name__}")
    rows = BLOCK_NAMES[block]
    if isinstance(net, SETR):
        rows = (*((f"transformer.{theirs}", f"encoder.{ours}") for theirs, ours in rows), *SETR_NAMES)
    names = {}
    for name in net.state_dict():
        for theirs, ours in rows:
            match = re.fullmatch(re.escape(ours).replace(r"\{n\}", r"(?P<n>\d+)") + r"(?P<rest>(\..+)?)", name)
            if match:
                names[name] = theirs.replace("{n}", match.groupdict().get("n", "")) + match["rest"]
                break
        else:
            raise ValueError(f"net must be as published: its {name} has no counterpart there")
    return names


def convert_published_state_dict(state_dict: Mapping[str, Tensor], net: SETR | Encoder) -> dict[str, Tensor]:
    """The state dict that ``net`` loads strictly, from a published one.

    Args:
        state_dict: of the published SETR or transformer encoder, with the same sizes and block as ``net``. A prefix
            ``module.``, left by data-parallel training, is dropped.
        net: our net.

    Returns:
        Our names and layouts, in the order of ``net.state_dict()``; tensors may share memory with those given.

    Raises:
        ValueError: ``state_dict`` is not that of the published counterpart of ``net``, or ``net`` has none.
    """
    given = {name.removeprefix("module."): value for name, value in state_dict.items()}
    names = _names(net)
    missing = sorted(set(names.values()) - set(given))
    unexpected = sorted(set(given) - set(names.values()))
    if missing or unexpected:
        raise ValueError(
            "state_dict is not that of the published net: "
            f"{len(missing)} names are missing{_few(missing)}, {len(unexpected)} are unknown{_few(unexpected)}"
        )
    converted = {}
    for name, own in net.state_dict().items():
        value = given[names[name]]
        theirs, ours = LAYOUTS.get(name, ("...", "..."))
        published_shape = rearrange(own, f"{ours} -> {theirs}").shape
        if value.shape != published_shape:
            raise ValueError(
                f"state_dict[{names[name]!r}] must have shape {tuple(published_shape)} for this net, "
                f"got {tuple(value.shape)}"
            )
        sizes = {"h": own.shape[-2], "w": own.shape[-1]} if name in LAYOUTS else {}
        converted[name] = rearrange(value, f"{theirs} -> {ours}", **sizes)
    return converted


def to_published_state_dict(net: SETR | Encoder) -> dict[str, Tensor]:
    """The state dict of ``net`` with published names and layouts: inverse of :func:`convert_published_state_dict`.

    Args:
        net: our net.

    Returns:
        What the published code loads strictly; tensors may share memory with those of ``net``.

    Raises:
        ValueError: ``net`` is of a kind that was not published, or what is shared there over all layers differs here.
    """
    names = _names(net)
    converted: dict[str, Tensor] = {}
    for name, value in net.state_dict().items():
        theirs, ours = LAYOUTS.get(name, ("...", "..."))
        value = rearrange(value, f"{ours} -> {theirs}")
        if not torch.equal(converted.setdefault(names[name], value), value):
            raise ValueError(f"net must have equal {name} in all layers: published weights share {names[name]}")
    return converted


def _few(names: list[str]) -> str:
    """`` (a, b, c, ...)``: the first names, or nothing if there are none."""
    if not names:
        return ""
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
