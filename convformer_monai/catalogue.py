"""Where the bundles are. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

from convformer_monai.errors import InputRefused

__all__ = ["BUNDLES", "bundle_path"]

BUNDLES = {
    "cardiac": "cardiac_mri_convformer_segmentation",
    "dermoscopy": "dermoscopy_convformer_segmentation",
    "hemorrhage": "ct_hemorrhage_convformer_segmentation",
}
PLACE = "CONVFORMER_BUNDLES"


def bundle_path(bundle: str | Path) -> Path:
    """Finds a bundle.

    Args:
        bundle: short name (see :data:`BUNDLES`) or the path of a bundle's folder. Bundles with a short name are looked
            for in ``$CONVFORMER_BUNDLES``, then in ``bundles`` beside the package, where a clone has them.

    Returns:
        Its folder.

    Raises:
        InputRefused: if there is no such bundle.
    """
    if str(bundle) not in BUNDLES:
        path = Path(bundle).expanduser()
        if not (path / "configs" / "inference.json").is_file():
            raise InputRefused(
                "BUNDLE_NOT_FOUND",
                f"{bundle} is no bundle: give {', '.join(BUNDLES)}, or a folder that holds configs/inference.json",
            )
        return path
    beside = Path(__file__).resolve().parents[1] / "bundles"
    for place in [*([Path(os.environ[PLACE])] if os.environ.get(PLACE) else []), beside]:
        if (place / BUNDLES[str(bundle)]).is_dir():
            return place / BUNDLES[str(bundle)]
    raise InputRefused(
        "BUNDLE_NOT_FOUND",
        f"the bundle {BUNDLES[str(bundle)]} is not here: clone the repository and set {PLACE} to its folder 'bundles'",
    )
