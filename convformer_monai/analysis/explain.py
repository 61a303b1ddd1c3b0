"""One image explained: what a network's transformer layers do with it, as figures and as numbers."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convformer_monai.analysis.attention import PixelAttention, attention_of_pixel
from convformer_monai.analysis.collapse import LayerCollapse, measure_collapse
from convformer_monai.analysis.plots import (
    draw_attention,
    draw_collapse,
    draw_receptive_fields,
    new_figure,
    to_png,
)
from convformer_monai.analysis.receptive_field import measure_receptive_fields
from convformer_monai.analysis.scene import Scene, make_scene
from convformer_monai.bundle import UNREADABLE, file_sha256, load_weights
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.networks import PatchEmbedding, Windowed, make_net
from convformer_monai.outputs.atomic import AtomicFiles, write_text
from convformer_monai.outputs.case import folder_for
from convformer_monai.outputs.report import describe, versions
from convformer_monai.readers import ImageSeries
from convformer_monai.readers.cases import find_cases, refuse_no_file
from convformer_monai.segmenter import Segmenter

__all__ = ["ExplainOptions", "explain", "read_pixel"]

logger = logging.getLogger(__name__)

SCHEMA, SCHEMA_VERSION = "convformer_monai.explanation", 1
ENDINGS = ("_attention.png", "_collapse.png", "_receptive_field.png", "_explain.json")
MEASURES = {
    "token_similarity": "mean cosine between the output features of two tokens",
    "token_rank": "effective rank (exponential of the entropy of the singular values) of the output features",
    "patch_similarity": "mean cosine between the attention of two tokens (rows of a map), signed as it is",
    "head_similarity": "mean cosine between the attention of one token in two heads",
    "layer_similarity": "mean cosine between the attention of one token in this layer and the one before, same head",
    "entropy": "entropy of the absolute values of a row, normalised to sum 1, over the logarithm of their number",
    "attention_rank": "effective rank of the measured rows of a map, signed as it is",
    "sigma": "standard deviation of a ConvFormer head's Gaussian, in fractions of the grid or the reference grid",
    "effective_tokens": "exponential of the entropy of the Gaussian's weights at the middle of the grid",
}


@dataclass(frozen=True)
class ExplainOptions:
    """What to explain of an image, and by which network.

    Attributes:
        net: another network than the bundle's own, a name in :data:`convformer_monai.networks.NETS`.
        block: of ``net``, a name in :data:`convformer_monai.networks.BLOCKS`; None for ``convformer``.
        preset: size of ``net``, see :data:`convformer_monai.networks.PRESETS`; None for ``small``.
        weights: state dict of ``net``; None leaves it untrained.
        slice: number of the slice, from 0 in the order of the image; None for the one with the largest mask.
        pixel: two numbers from 0, along the axes of the image; None for one within the mask.
        phase: of a cine, from 0; None for the first.
        series_uid: DICOM series to take.
        resample_uneven: see :func:`convformer_monai.readers.read_series`.
        overwrite: replace results that exist.
    """

    net: str | None = None
    block: str | None = None
    preset: str | None = None
    weights: Path | None = None
    slice: int | None = None
    pixel: tuple[int, int] | None = None
    phase: int | None = None
    series_uid: str | None = None
    resample_uneven: bool = False
    overwrite: bool = False

    def check(self) -> None:
        """Refuses what does not go together, before any work is done.

        Raises:
            InputRefused: naming the option and what is allowed.
        """
        if self.net is None:
            for name in ("block", "preset", "weights"):
                if getattr(self, name) is not None:
                    raise InputRefused(
                        RefusalCode.OPTION, f"--{name} describes another network than the bundle's; give --net too"
                    )


def explain(
    path: Path,
    output_dir: Path,
    bundle: str | Path = "cardiac",
    options: ExplainOptions | None = None,
    *,
    device: str = "auto",
    force_modality: bool = False,
) -> dict[str, Any]:
    """Explains an image: writes figures and numbers, all of them or none.

    Args:
        path: one image file, or a folder of one DICOM series.
        output_dir: gets ``<name>_attention.png`` (if a layer has attention), ``<name>_collapse.png``,
            ``<name>_receptive_field.png`` (if there are ConvFormer heads) and ``<name>_explain.json``.
        bundle: its reading and preprocessing are used, its network unless another is chosen, and its mask.
        options: see :class:`ExplainOptions`.
        device: see :func:`convformer_monai.segmenter.choose_device`.
        force_modality: take images of any modality.

    Returns:
        The numbers, as they were written.

    Raises:
        InputRefused: if the image, the bundle, an option or the place cannot be used; nothing is written then.
    """
    options = options or ExplainOptions()
    options.check()
    new_figure(1, 1)  # refused before the work if matplotlib is missing
    cases = find_cases(path)
    if len(cases) != 1:
        raise InputRefused(RefusalCode.SEVERAL_IMAGES, f"{path} holds {len(cases)} images; give one of them")
    base = folder_for(output_dir, cases[0].name)
    targets = {ending: base.with_name(base.name + ending) for ending in ENDINGS}
    for target in targets.values():
        if target.exists() and not options.overwrite:
            raise InputRefused(
                RefusalCode.EXISTS, f"{target} exists already; give --overwrite or another output folder"
            )
    segmenter = Segmenter(bundle, device, force_modality=force_modality)
    network, described = _network(segmenter, options)
    series = segmenter.read(
        cases[0].path,
        series_uid=options.series_uid,
        phase=options.phase or 0,
        resample_uneven=options.resample_uneven,
    )
    if series.is_photo and options.slice is not None:
        raise InputRefused(
            RefusalCode.OPTION, f"--slice {options.slice} is for volumes, and {path.name} is a photograph"
        )
    results = _analyse(segmenter, network, described, series, options)
    files = [targets[ending].name for ending in ENDINGS if ending in results.pictures or ending == ENDINGS[-1]]
    content = {**results.content, "files": files}
    with AtomicFiles(overwrite=options.overwrite) as transfer:
        for ending, picture in results.pictures.items():
            _write(targets[ending], picture, transfer)
        write_text(targets[ENDINGS[-1]], json.dumps(content, indent=2, allow_nan=False) + "\n", files=transfer)
    for ending in set(ENDINGS[:-1]) - set(results.pictures):
        targets[ending].unlink(missing_ok=True)  # of an earlier run, of another network
    for name in files:
        logger.info("wrote %s", base.with_name(name))
    return content


def read_pixel(text: str | None) -> tuple[int, int] | None:
    """Reads ``X,Y``.

    Raises:
        InputRefused: ``OPTION`` if it is anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text, re.ASCII)
    if match is None:
        raise InputRefused(
            RefusalCode.OPTION, f"--pixel {text!r} is not a pixel; give two whole numbers from 0, as 120,85"
        )
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class _Results:
    """What is to be written: numbers as JSON types, and pictures by the ending of their file's name."""

    content: dict[str, Any]
    pictures: dict[str, bytes]


def _analyse(
    segmenter: Segmenter, network: nn.Module, described: dict[str, Any], series: ImageSeries, options: ExplainOptions
) -> _Results:
    """Measures and draws.

    Raises:
        InputRefused: if the place is not in the image, or the network has nothing to measure.
    """
    started = time.perf_counter()
    mask = segmenter.run(series).labels.numpy()
    scene = make_scene(segmenter, series, mask, options.slice, options.pixel)
    images = scene.images.to(segmenter.device)
    layers = measure_collapse(network, images)
    if not layers:
        raise InputRefused(
            RefusalCode.NO_LAYERS, f"the network {described['name']} has no transformer layer to explain"
        )
    fields = measure_receptive_fields(network, images, scene.spacing_mm)
    attention = attention_of_pixel(network, images, scene.pixel)
    title = _title(segmenter, described, scene, series)
    figures = {"_collapse.png": draw_collapse(layers, title)}
    if attention:
        figures["_attention.png"] = draw_attention(scene, attention, title)
    if any(field.fwhm_pixels for field in fields):
        figures["_receptive_field.png"] = draw_receptive_fields(scene, fields, title)
    _log_layers(layers)
    content = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions("matplotlib"),
        "bundle": {
            "name": segmenter.bundle.name,
            "version": segmenter.bundle.version,
            "weights_sha256": segmenter.weights_sha256,
        },
        "network": described,
        "input": describe(series),
        "place": _location(scene, series),
        "measures": MEASURES,
        "layers": [asdict(layer) for layer in layers],
        "receptive_fields": [asdict(field) for field in fields],
        "attention": [_numbers(layer) for layer in attention],
        "device": str(segmenter.device),
        "seconds": round(time.perf_counter() - started, 3),
    }
    return _Results(content, {ending: to_png(figure) for ending, figure in figures.items()})


def _network(segmenter: Segmenter, options: ExplainOptions) -> tuple[nn.Module, dict[str, Any]]:
    """Returns the network to explain, and what it is, as JSON types."""
    if options.net is None:
        network = segmenter.network
        described = {"name": type(network).__name__, "trained": True, "weights_sha256": segmenter.weights_sha256}
        return network, {**described, "block": None, "preset": None, "parameters": _size(network)}
    windows = segmenter.network.windows if isinstance(segmenter.network, Windowed) else []
    channels = (segmenter.bundle.channels * max(1, len(windows)), segmenter.bundle.classes)
    block, preset = options.block or "convformer", options.preset or "small"
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # an untrained network is the same each time
            network = make_net(options.net, *channels, block, preset)
    except ValueError as error:
        raise InputRefused(RefusalCode.OPTION, f"--net {options.net} cannot be made: {error}") from error
    if windows:
        network = Windowed(network, windows)
    sha256 = None
    if options.weights is not None:
        if not options.weights.is_file():
            refuse_no_file(options.weights, "give the file of a state dict", RefusalCode.WEIGHTS_NOT_FOUND)
        _adopt_positions(network, options.weights)
        load_weights(network, options.weights)
        sha256 = file_sha256(options.weights)
    described = {"name": options.net, "trained": sha256 is not None, "weights_sha256": sha256}
    network = network.to(segmenter.device).eval()
    return network, {**described, "block": block, "preset": preset, "parameters": _size(network)}


def _adopt_positions(network: nn.Module, weights: Path) -> None:
    """Gives position embeddings the grid that they have in the weights, which depends on the training.

    Whatever is wrong with the file, ``load_weights`` will say.
    """
    with contextlib.suppress(*UNREADABLE):
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name, module in network.named_modules():
            if isinstance(module, PatchEmbedding):
                module.position = nn.Parameter(torch.empty_like(state.get(f"{name}.position"), dtype=torch.float32))


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _title(segmenter: Segmenter, described: dict[str, Any], scene: Scene, series: ImageSeries) -> str:
    name = described["name"]
    if described["block"]:
        name += f" ({described['block']}, {described['preset']})"
    words = f"{name}{'' if described['trained'] else ', untrained'}; bundle {segmenter.bundle.name}\n"
    if scene.slice is not None:
        words += f"slice {scene.slice} of 0 to {scene.slices - 1}, "
    if series.phases != (0,):
        words += f"phase {series.phases[0]}, "
    return words + f"pixel {scene.native_pixel[0]}, {scene.native_pixel[1]}"


def _location(scene: Scene, series: ImageSeries) -> dict[str, Any]:
    """What was looked at, on the image's grid and on the network's, as JSON types."""
    return {
        "phase": series.phases[0],
        "slice": scene.slice,
        "pixel": list(scene.native_pixel),
        "chosen": scene.chosen,
        "network_pixel": list(scene.pixel),
        "network_size": list(scene.images.shape[2:]),
        "network_spacing_mm": list(scene.spacing_mm) if scene.spacing_mm else None,
        "cut_at": list(scene.cut) if scene.cut else None,
    }


def _numbers(layer: PixelAttention) -> dict[str, Any]:
    """The attention of the pixel in a layer, as JSON types: for each head its sum and extremes."""
    heads = layer.maps.flatten(1)
    return {
        "layer": layer.layer,
        "token": list(layer.token),
        "box_pixels": [list(axis) for axis in layer.box],
        "sums": heads.sum(1).tolist(),
        "largest": heads.amax(1).tolist(),
        "smallest": heads.amin(1).tolist(),
    }


def _write(target: Path, content: bytes, transfer: AtomicFiles) -> None:
    transfer.write(target, lambda path: path.write_bytes(content), lambda path: path.read_bytes() == content)


def _log_layers(layers: list[LayerCollapse]) -> None:
    """Logs the similarities of each layer."""
    for layer in layers:
        known = {"tokens": layer.token_similarity, "attention": layer.patch_similarity, "heads": layer.head_similarity}
        alike = ", ".join(f"{name} {value:.2f}" for name, value in known.items() if value is not None)
        logger.info("%s: alike (1: collapsed): %s", layer.layer, alike or "nothing to compare")
