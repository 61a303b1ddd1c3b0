"""Intensity windows in front of a network: CT in Hounsfield units in, one channel a window and slice to the network.

Radiologists read CT through windows: blood against brain in a narrow one, blood against bone in a wider one, fractures
and calcifications in a bone window. As a part of the network, the windows are exported with it, and a volume is held
once, in Hounsfield units, whatever their number. Ours; not from the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convformer_monai.networks.blocks.csa import at_least_float32

__all__ = ["Windowed"]


class Windowed(nn.Module):
    """A network behind intensity windows.

    Args:
        network: takes ``len(windows) * C`` channels.
        windows: ``(low, high)`` of each, in the unit of the image; mapped to -1..1, what lies beyond is clipped.
        dropout: probability for all dropout layers of the network, as MONAI Label sets it for its epistemic scores;
            ``None`` leaves them as they are.

    Raises:
        ValueError: a window is empty, or there is none.
    """

    def __init__(self, network: nn.Module, windows: Sequence[Sequence[float]], dropout: float | None = None) -> None:
        super().__init__()
        if not windows or any(len(window) != 2 or window[0] >= window[1] for window in windows):
            raise ValueError(f"windows must be pairs (low, high) with low < high, got {windows}")
        for module in network.modules():
            if dropout is not None and isinstance(module, nn.Dropout | nn.Dropout2d | nn.Dropout3d):
                module.p = dropout
        self.network = network
        self.windows = [(float(low), float(high)) for low, high in windows]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """``(B, C, *spatial)`` to what the network makes of ``(B, len(windows) * C, *spatial)``, window-major."""
        channels: list[Tensor] = []
        for low, high in self.windows:
            channels.append(((at_least_float32(x) - low) * (2.0 / (high - low)) - 1.0).clamp(-1.0, 1.0))
        return self.network(torch.cat(channels, dim=1))  # type: ignore[no-any-return]
