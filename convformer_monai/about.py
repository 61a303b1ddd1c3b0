"""What is installed: versions, devices, bundles, and networks. Only :func:`about_networks` imports anything heavy."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from convformer_monai import __version__
from convformer_monai.bundle import BUNDLES, NOT_STATED, Bundle
from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["about", "about_networks", "as_text", "bundle_path", "networks_as_text"]

CHANNELS = (1, 4)  # of image and result, for which the networks' parameters are counted
COUNTED_BLOCKS = ("vit", "convformer")
PACKAGES = ("torch", "monai", "numpy", "nibabel", "SimpleITK", "pydicom", "highdicom")


def about(bundle: str | None = None) -> dict[str, Any]:
    """Tells versions and bundles.

    Args:
        bundle: short name or folder of one bundle; ``None`` for all that have a short name.

    Raises:
        InputRefused: if the bundle asked for is not there.
    """
    names = list(BUNDLES) if bundle is None else [bundle]
    return {
        "convformer_monai": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "bundles": [_about_bundle(name, must_exist=bundle is not None) for name in names],
    }


def bundle_path(bundle: str) -> str:
    """The folder of a bundle, for other programs.

    Args:
        bundle: short name or folder.

    Raises:
        InputRefused: if it is not there, or a zip, which has no folder.
    """
    found = Bundle(bundle)
    if found.unpacked:
        raise InputRefused(RefusalCode.BUNDLE_NOT_FOUND, f"{bundle} is a zip; unpack it, and give its folder")
    return str(found.root.resolve())


def as_text(content: dict[str, Any]) -> str:
    """Lays :func:`about` out for reading."""
    lines = [f"convformer_monai {content['convformer_monai']}, Python {content['python']}"]
    lines += [f"  {name:10} {number or 'not installed'}" for name, number in content["packages"].items()]
    for bundle in content["bundles"]:
        if "folder" not in bundle:
            lines += ["", f"{bundle['name']}: not found; set CONVFORMER_BUNDLES to the folder that holds it"]
            continue
        metrics = ", ".join(f"{key} {value}" for key, value in bundle["eval_metrics"].items())
        lines += [
            "",
            f"{bundle['name']}: {bundle['title']}, version {bundle['version']}",
            f"  task     {bundle['task']}",
            f"  input    {bundle['input']}",
            f"  output   {bundle['output']}",
            f"  measured {metrics or 'nothing yet'}",
            f"  weights  SHA-256 {bundle['weights_sha256'][:16]}...",
            f"  folder   {bundle['folder']}",
            f"  use      {bundle['intended_use']}",
            f"  licence  of the code {bundle['licence']['code']}; of the weights {bundle['licence']['weights']}",
        ]
    return "\n".join(lines)


def about_networks() -> dict[str, Any]:
    """Tells which networks and blocks there are, and how large the networks are; no memory is taken for them."""
    import torch

    from convformer_monai.networks import BLOCKS, NETS, PRESETS, make_net

    def parameters(net: str, block: str, preset: str) -> int:
        with torch.device("meta"):
            return sum(one.numel() for one in make_net(net, *CHANNELS, block, preset).parameters())

    return {
        "convformer_monai": __version__,
        "in_channels": CHANNELS[0],
        "out_channels": CHANNELS[1],
        "nets": [
            {
                "name": name,
                "description": NETS.components[name].description,
                "presets": {
                    preset: {block: parameters(name, block, preset) for block in COUNTED_BLOCKS}
                    for preset in PRESETS[name]
                },
            }
            for name in NETS.names
        ],
        "blocks": [{"name": name, "description": BLOCKS.components[name].description} for name in BLOCKS.names],
    }


def networks_as_text(content: dict[str, Any]) -> str:
    """Lays :func:`about_networks` out for reading."""
    width = max(len(one["name"]) for one in (*content["nets"], *content["blocks"]))
    lines = [
        f"Networks, with million parameters of their presets for {content['in_channels']} channel and "
        f"{content['out_channels']} classes:"
    ]
    for net in content["nets"]:
        lines.append(f"  {net['name']:{width}}  {net['description']}")
        for preset, counts in net["presets"].items():
            numbers = ", ".join(f"{block} {count / 1e6:.1f}" for block, count in counts.items())
            lines.append(f"  {'':{width}}  {preset:8}  {numbers}")
    lines += ["", "Blocks, of which each network can be made:"]
    lines += [f"  {block['name']:{width}}  {block['description']}" for block in content["blocks"]]
    return "\n".join(lines)


def _about_bundle(name: str, must_exist: bool) -> dict[str, Any]:
    try:
        bundle = Bundle(name)
    except InputRefused:
        if must_exist:
            raise
        return {"name": name}
    metadata = bundle.metadata
    return {
        "name": name,
        "title": bundle.name,
        "version": bundle.version,
        "task": metadata.get("task", NOT_STATED),
        "input": metadata.get("image_classes", NOT_STATED),
        "output": metadata.get("label_classes", NOT_STATED),
        "eval_metrics": metadata.get("eval_metrics", {}),
        "intended_use": metadata.get("intended_use", NOT_STATED),
        "licence": bundle.licence(),
        "weights_sha256": metadata.get("weights_sha256", ""),
        "folder": str(bundle.root),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
