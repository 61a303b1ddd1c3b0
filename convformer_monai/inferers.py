"""Slice-wise inference: every slice of every phase through a 2-D network, in batches of whole slices.

MONAI's ``SliceInferer`` slides a window of fixed size over each slice and batches windows of one volume. Our networks
take slices of any size, and a cine is a batch of volumes, so there is no window to slide and nothing to blend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer

__all__ = ["AutocastInferer", "PhotoInferer", "SliceBatchInferer", "has_fast_bf16"]

FLIPS: tuple[tuple[int, ...], ...] = ((), (-2,), (-1,), (-2, -1))


def has_fast_bf16(device: torch.device) -> bool:
    """Tells whether the hardware computes in bfloat16 natively (elsewhere it is emulated, ten times slower).

    Args:
        device: where the network runs.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


class SliceBatchInferer(Inferer):
    """Runs a 2-D network of one input channel on the slices of (B, T, X, Y, Z).

    Args:
        slice_batch_size: slices that go through the network at once; bounds the memory.
        amp: bfloat16 autocast with channels-last: ``None`` where the hardware has it, ``True`` or ``False`` to force.
        flips: average the class probabilities over the four in-plane flips (4 times the work); the output then is their
            logarithm, so a softmax over the classes gives probabilities in either case.
    """

    def __init__(self, slice_batch_size: int = 16, amp: bool | None = None, flips: bool = False) -> None:
        super().__init__()
        if slice_batch_size < 1:
            raise ValueError(f"slice_batch_size must be at least 1, got {slice_batch_size}")
        self.slice_batch_size = int(slice_batch_size)
        self.amp = amp
        self.flips = flips

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Segments all slices.

        Args:
            inputs: (B, T, X, Y, Z): T phases, slices along the last axis.
            network: (N, 1, X, Y) to (N, K, X, Y) logits; of a sequence of outputs (deep supervision) the first counts.
            args: passed on to the network.
            kwargs: passed on to the network.

        Returns:
            (B, T * K, X, Y, Z) float32 scores, phase-major: channel ``t * K + k`` is class ``k`` of phase ``t``.

        Raises:
            ValueError: if the input has not five axes.
        """
        if inputs.ndim != 5:
            raise ValueError(f"inputs must be (B, T, X, Y, Z), got {tuple(inputs.shape)}")
        volume = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        batch, phases, width, height, depth = volume.shape
        amp = has_fast_bf16(volume.device) if self.amp is None else self.amp
        slices = rearrange(volume, "b t x y z -> (b t z) 1 x y")
        scores: torch.Tensor | None = None
        for start in range(0, len(slices), self.slice_batch_size):
            chunk = slices[start : start + self.slice_batch_size].contiguous()
            if amp:
                chunk = chunk.contiguous(memory_format=torch.channels_last)
            with torch.autocast(volume.device.type, dtype=torch.bfloat16, enabled=amp):
                part = self._scores(chunk, network, *args, **kwargs)
            if scores is None:
                scores = part.new_empty((batch * phases, part.shape[1], width, height, depth))
            index = torch.arange(start, start + len(part), device=part.device)
            scores[index // depth, :, :, :, index % depth] = part  # (N, K, X, Y) to its places in (B T, K, X, Y, Z)
        assert scores is not None
        return scores.reshape(batch, -1, width, height, depth)  # (B, T K, X, Y, Z), no copy

    def _scores(self, chunk: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Returns logits, or the log of the flip-averaged probabilities, of (N, 1, X, Y)."""
        if not self.flips:
            return _first(network(chunk, *args, **kwargs)).float()
        total: torch.Tensor | None = None
        for axes in FLIPS:
            logits = _first(network(chunk.flip(axes), *args, **kwargs)).float()
            probabilities = logits.softmax(dim=1).flip(axes)
            total = probabilities if total is None else total + probabilities
        assert total is not None
        return (total / len(FLIPS)).clamp_min(torch.finfo(torch.float32).tiny).log()


class PhotoInferer(SliceBatchInferer):
    """Runs a network on whole photographs (B, C, X, Y), ``slice_batch_size`` of them at once."""

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Segments photographs.

        Args:
            inputs: (B, C, X, Y).
            network: (B, C, X, Y) to (B, K, X, Y) logits; of a sequence of outputs (deep supervision) the first counts.
            args: passed on to the network.
            kwargs: passed on to the network.

        Returns:
            (B, K, X, Y) float32 scores.

        Raises:
            ValueError: if the input has not four axes.
        """
        if inputs.ndim != 4:
            raise ValueError(f"inputs must be (B, C, X, Y), got {tuple(inputs.shape)}")
        photos = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        amp = has_fast_bf16(photos.device) if self.amp is None else self.amp
        parts = []
        for chunk in photos.split(self.slice_batch_size):
            if amp:
                chunk = chunk.contiguous(memory_format=torch.channels_last)
            with torch.autocast(photos.device.type, dtype=torch.bfloat16, enabled=amp):
                parts.append(self._scores(chunk, network, *args, **kwargs))
        return torch.cat(parts)


def _first(output: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


class AutocastInferer(SimpleInferer):
    """The whole batch at once, in bfloat16 where the hardware has it; for training.

    MONAI's trainer autocasts for CUDA only.

    Args:
        amp: ``None`` where the hardware computes in bfloat16, ``True`` or ``False`` to force.
    """

    def __init__(self, amp: bool | None = None) -> None:
        super().__init__()
        self.amp = amp

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The network's output for ``inputs`` (N, C, X, Y)."""
        amp = has_fast_bf16(inputs.device) if self.amp is None else self.amp
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=amp):
            return super().__call__(inputs, network, *args, **kwargs)
