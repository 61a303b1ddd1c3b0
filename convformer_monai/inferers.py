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

from convformer_monai.transforms.depth import averaged, slice_positions, with_neighbours

__all__ = ["AutocastInferer", "PhotoInferer", "SliceBatchInferer", "has_fast_bf16"]

CERTAIN = 20.0  # score of the first class where the network does not run
STEP = 32
USUAL_SPACING_MM = 5.0
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
    """Runs a 2-D network on the slices of (B, T, X, Y, Z).

    Args:
        slice_batch_size: slices that go through the network at once; bounds the memory.
        amp: bfloat16 autocast with channels-last: ``None`` where the hardware has it, ``True`` or ``False`` to force.
        flips: average the class probabilities over the four in-plane flips (4 times the work); the output then is their
            logarithm, so a softmax over the classes gives probabilities in either case.
        distances: slices that the network sees as channels, by their distance along Z in mm, e.g. ``(-5, 0, 5)``; see
            :func:`convformer_monai.transforms.depth.slice_positions`.
        also_alone: average the class probabilities with those of each slice shown as its own neighbour, where there are
            several slices (twice the work); the output then is a logarithm, as with ``flips``.
        slab: thickness in mm over which thinner slices are averaged first, so that they are as smooth as thick ones; 0
            for none.
        foreground: run the network only within the box that holds all voxels above this value, in whole steps of 32
            pixels; beyond it the first class is sure. ``None`` for everywhere.
    """

    def __init__(
        self,
        slice_batch_size: int = 16,
        amp: bool | None = None,
        flips: bool = False,
        distances: Sequence[float] = (0.0,),
        also_alone: bool = False,
        slab: float = 0.0,
        foreground: float | None = None,
    ) -> None:
        super().__init__()
        if slice_batch_size < 1:
            raise ValueError(f"slice_batch_size must be at least 1, got {slice_batch_size}")
        self.slice_batch_size = int(slice_batch_size)
        self.amp = amp
        self.flips = flips
        self.distances = tuple(float(distance) for distance in distances)
        self.also_alone = also_alone
        self.slab = slab
        self.foreground = foreground

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Segments all slices.

        Args:
            inputs: (B, T, X, Y, Z): T phases, slices along the last axis; a MetaTensor tells their distance, else it is
                taken for 5 mm.
            network: (N, C, X, Y), C the number of ``distances``, to (N, K, X, Y) logits; of a sequence of outputs (deep
                supervision) the first counts.
            args: passed on to the network.
            kwargs: passed on to the network.

        Returns:
            (B, T * K, X, Y, Z) float32 scores, phase-major: channel ``t * K + k`` is class ``k`` of phase ``t``.

        Raises:
            ValueError: if the input has not five axes.
        """
        if inputs.ndim != 5:
            raise ValueError(f"inputs must be (B, T, X, Y, Z), got {tuple(inputs.shape)}")
        spacing = _slice_spacing(inputs)
        volume = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        batch, phases, width, height, depth = volume.shape
        amp = has_fast_bf16(volume.device) if self.amp is None else self.amp
        volumes = rearrange(volume, "b t x y z -> (b t) x y z")
        rows, columns = foreground_box(volumes, self.foreground)
        stacks = [_Stack(one, spacing, self.distances, self.slab) for one in volumes[:, rows, columns]]
        scores: torch.Tensor | None = None
        for start in range(0, len(stacks) * depth, self.slice_batch_size):
            index = torch.arange(start, min(start + self.slice_batch_size, len(stacks) * depth))
            chunk = torch.cat(
                [stacks[one].slices(index[index // depth == one] % depth) for one in _within(index, depth)]
            )
            chunk = chunk.contiguous(memory_format=torch.channels_last if amp else torch.contiguous_format)
            with torch.autocast(volume.device.type, dtype=torch.bfloat16, enabled=amp):
                part = self._scores(chunk, network, *args, **kwargs)
                if self.also_alone and depth > 1:
                    middle = chunk.shape[1] // 2
                    alone = self._scores(chunk[:, middle : middle + 1].expand_as(chunk), network, *args, **kwargs)
                    part = _log_of_mean([part.softmax(1), alone.softmax(1)])
            if scores is None:
                scores = part.new_zeros((batch * phases, part.shape[1], width, height, depth))
                if self.foreground is not None:
                    scores[:, 0] = CERTAIN
            index = index.to(part.device)
            scores[index // depth, :, rows, columns, index % depth] = part  # (N, K, x, y) in (B T, K, X, Y, Z)
        assert scores is not None
        return scores.reshape(batch, -1, width, height, depth)  # (B, T K, X, Y, Z), no copy

    def network_input(self, image: MetaTensor, number: int) -> torch.Tensor:
        """What the network sees of a slice, but for the box of the foreground.

        Args:
            image: (T, X, Y, Z), of which the first phase is taken.
            number: of the slice along Z.

        Returns:
            (1, C, X, Y).
        """
        stack = _Stack(image.as_tensor()[0], _slice_spacing(image), self.distances, self.slab)
        return stack.slices(torch.tensor([number]))

    def _scores(self, chunk: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Returns logits, or the log of the flip-averaged probabilities, of (N, C, X, Y)."""
        if not self.flips:
            return _first(network(chunk, *args, **kwargs)).float()
        logits = (_first(network(chunk.flip(axes), *args, **kwargs)).float().flip(axes) for axes in FLIPS)
        return _log_of_mean([one.softmax(dim=1) for one in logits])


def _log_of_mean(probabilities: Sequence[torch.Tensor]) -> torch.Tensor:
    """The logarithm of the mean of class probabilities (N, K, X, Y), finite."""
    total = sum(probabilities[1:], probabilities[0])
    return (total / len(probabilities)).clamp_min(torch.finfo(torch.float32).tiny).log()


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


class _Stack:
    """Slices of a volume (X, Y, Z) with their neighbours, made when they are asked for."""

    def __init__(self, volume: torch.Tensor, spacing: float, distances: Sequence[float], slab: float) -> None:
        self.volume = averaged(volume, round(slab / spacing)) if slab else volume
        self.positions = slice_positions(volume.shape[2], spacing, distances)

    def slices(self, index: torch.Tensor) -> torch.Tensor:
        """(N, C, X, Y) of slice numbers (N)."""
        return with_neighbours(self.volume, self.positions[index])


def _within(index: torch.Tensor, depth: int) -> range:
    """The volumes to which consecutive slices belong."""
    return range(int(index[0]) // depth, int(index[-1]) // depth + 1)


def _slice_spacing(inputs: torch.Tensor) -> float:
    """Distance between slices in mm."""
    if not isinstance(inputs, MetaTensor):
        return USUAL_SPACING_MM
    return float(torch.as_tensor(inputs.affine).reshape(-1, 4, 4)[0, :3, 2].norm())


def foreground_box(volumes: torch.Tensor, above: float | None) -> tuple[slice, slice]:
    """The smallest box of whole steps of 32 pixels that holds what is bright in (N, X, Y, Z); all, if nothing is.

    Args:
        volumes: (N, X, Y, Z).
        above: what bright means; ``None`` gives the whole plane.
    """
    whole = slice(0, volumes.shape[1]), slice(0, volumes.shape[2])
    if above is None:
        return whole
    bright = (volumes > above).any(dim=3).any(dim=0)
    if not bool(bright.any()):
        return whole
    x, y = (_span(bright.any(dim=axis)) for axis in (1, 0))
    return x, y


def _span(bright: torch.Tensor) -> slice:
    """Grows the extent of what is bright to a multiple of :data:`STEP`, as far as there is room."""
    places = bright.nonzero()
    first, last, size = int(places[0]), int(places[-1]) + 1, len(bright)
    missing = -(last - first) % STEP
    first = max(0, first - missing // 2)
    last = min(size, first + -(-(last - first) // STEP) * STEP)
    return slice(max(0, min(first, last - STEP)), last)


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
        """The network's output for ``inputs`` (N, C, X, Y), which may be kept in half precision."""
        amp = has_fast_bf16(inputs.device) if self.amp is None else self.amp
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=amp):
            return super().__call__(inputs.float(), network, *args, **kwargs)
