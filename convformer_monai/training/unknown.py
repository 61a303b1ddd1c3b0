"""Pixels of which nobody knows what they are: a label value that takes no part in the loss.

Published masks of hemorrhage are incomplete in known places (a kind of blood that a source left out), and some slices
are known to show blood but have no mask. Their pixels are labelled :data:`UNKNOWN`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["UNKNOWN", "KnownPixelsLoss"]

UNKNOWN = 255
CERTAIN = 20.0  # difference of logits: a probability of 1 - 2e-9


class KnownPixelsLoss(nn.Module):
    """A segmentation loss that sees unknown pixels as background which the network is sure of, without a gradient.

    Args:
        loss: takes logits (B, K, *spatial) and labels (B, 1, *spatial), e.g. MONAI's ``DiceCELoss``.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss of (B, K, *spatial) logits and (B, 1, *spatial) labels."""
        unknown = label == UNKNOWN
        logits = logits.float()
        background = torch.zeros_like(logits)
        background[:, 0] = CERTAIN
        known = torch.where(unknown, background, logits)
        return self.loss(known, torch.where(unknown, torch.zeros_like(label), label))
