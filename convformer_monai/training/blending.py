"""The mean of a network's weights before and after a fine-tuning.

A fine-tuning for one thing gives up another; between the two networks the weights can be mixed, and the mixture keeps
most of both (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

__all__ = ["blend_weights"]

logger = logging.getLogger(__name__)

BLENDED = "blended.pt"


def blend_weights(before: object, after: object, share: float = 0.5) -> Path:
    """Writes ``blended.pt`` beside the second file.

    Args:
        before: file of a state dict.
        after: likewise, of the same network.
        share: of the second, from 0 to 1.

    Returns:
        The file written.

    Raises:
        ValueError: if the two do not fit together, or the share is out of its range.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    first, second = (torch.load(str(path), map_location="cpu", weights_only=True) for path in (before, after))
    shapes = [{key: value.shape for key, value in state.items()} for state in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{before} and {after} are weights of different networks")
    mixed = {
        key: torch.lerp(first[key].float(), value.float(), share) if value.is_floating_point() else value
        for key, value in second.items()
    }
    path = Path(str(after)).with_name(BLENDED)
    torch.save(mixed, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)
    logger.info("%g of %s and %g of %s: %s", 1 - share, before, share, after, path)
    return path
