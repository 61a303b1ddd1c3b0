"""What is installed: versions, devices, bundles. Imports nothing heavy."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from convformer_monai import __version__
from convformer_monai.catalogue import BUNDLES, bundle_path
from convformer_monai.errors import InputRefused

__all__ = ["about", "as_text"]

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
        ]
    return "\n".join(lines)


def _about_bundle(name: str, must_exist: bool) -> dict[str, Any]:
    try:
        folder = bundle_path(name)
    except InputRefused:
        if must_exist:
            raise
        return {"name": name}
    metadata = _metadata(folder)
    return {
        "name": name,
        "title": metadata.get("name", folder.name),
        "version": metadata.get("version", "unknown"),
        "task": metadata.get("task", "not stated"),
        "input": metadata.get("image_classes", "not stated"),
        "output": metadata.get("label_classes", "not stated"),
        "eval_metrics": metadata.get("eval_metrics", {}),
        "intended_use": metadata.get("intended_use", "not stated"),
        "weights_sha256": metadata.get("weights_sha256", ""),
        "folder": str(folder),
    }


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputRefused("BUNDLE_UNUSABLE", f"{folder} has no readable configs/metadata.json: {error}") from error
    return content


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
