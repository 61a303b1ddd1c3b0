"""A network that needs no training: it reads the label off the grey value."""

import torch
from torch import Tensor, nn


class Oracle(nn.Module):
    """Takes each slice's darkest to brightest pixel as classes 0 to 3; every slice must hold both extremes."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, X, Y) to (N, 4, X, Y) logits."""
        low, high = x.amin(dim=(1, 2, 3), keepdim=True), x.amax(dim=(1, 2, 3), keepdim=True)
        levels = torch.arange(4, dtype=x.dtype, device=x.device).view(1, 4, 1, 1)
        return -100 * ((x - low) / (high - low) * 3 - levels) ** 2
