"""Attention maps that are changed after the softmax, some rows at a time.

Re-attention and Refiner need the maps themselves, ``heads * N * N`` numbers a layer and image, where plain attention
needs none. Here:

* In evaluation batch norm is a fixed function of each entry, so a few rows are made at a time, in the processor's
  cache, and multiplied with the values: the peak memory does not grow with N^2, and the result is the same.
* In training batch norm takes its statistics over the whole maps, so these are made at once; those of a large grid are
  recomputed in the backward pass, so that one layer's maps are held at a time and not all layers'.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convformer_monai.networks.blocks.attention import SelfAttention, softmax_maps
from convformer_monai.networks.blocks.mixing import CHUNK, CHUNK_ON_CPU, RECOMPUTE_ABOVE


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms of ``module`` leave their running statistics as the first pass has updated them.

    They go on computing with them, at momentum 0: the backward pass must find the same tensors in both passes.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, (nn.BatchNorm2d, nn.BatchNorm3d))]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


class RefinedAttention(SelfAttention):
    """Self-attention whose maps are a function of all heads' softmax maps: what its subclasses define in ``refine``.

    Convolutions and batch norms of the maps are of the net's own ``spatial_dims``, with an axis of length 1 in 3-D:
    a net with weights of 2-D and 3-D convolutions cannot be brought to channels-last.

    Args:
        in_channels: channels of input and output, C.
        num_heads: attention heads.
        head_dim: channels of a head, d.
        dropout_rate: dropout on the output.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self, in_channels: int, num_heads: int, head_dim: int, dropout_rate: float = 0.0, spatial_dims: int = 2
    ) -> None:
        super().__init__(in_channels, num_heads, head_dim, dropout_rate, spatial_dims)
        self.budget = CHUNK_ON_CPU  # numbers held at a time
        self.widening = 1  # numbers held for each entry of the maps
        self.halo = 0  # rows before and after a row that it depends on

    def refine(self, maps: Tensor, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of the changed maps.

        Args:
            maps: rows of the softmax maps, those needed and ``halo`` more on each side, as far as there are any:
                ``(B, heads, rows, M)``, in 3-D ``(B, heads, 1, rows, M)``.
            start: first row needed, among those given.
            stop: row after the last one needed.

        Raises:
            NotImplementedError: the subclass does not define it.
        """
        raise NotImplementedError

    def rows(self, q: Tensor, k: Tensor, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of the maps of all queries and keys: ``(B, heads, stop - start, M)``."""
        first, last = max(0, start - self.halo), min(q.shape[2], stop + self.halo)
        maps = softmax_maps(q[:, :, first:last], k)
        if self.spatial_dims == 3:
            return self.refine(maps.unsqueeze(2), start - first, stop - first).squeeze(2)
        return self.refine(maps, start - first, stop - first)

    def maps(self, q: Tensor, k: Tensor) -> Tensor:
        return self.rows(q, k, 0, q.shape[2])

    def map_rows(self, q: Tensor, k: Tensor, queries: Tensor) -> Tensor:
        tokens = q.shape[2]
        chunk = max(1, self.budget // (q.shape[0] * self.num_heads * k.shape[2] * self.widening))
        chosen = q.new_empty(q.shape[0], self.num_heads, len(queries), k.shape[2])
        for start in range(0, tokens, chunk):
            stop = min(start + chunk, tokens)
            here = (queries >= start) & (queries < stop)
            if here.any():
                chosen[:, :, here] = self.rows(q, k, start, stop)[:, :, queries[here] - start]
        return chosen

    def _mix_rows(self, q: Tensor, k: Tensor, v: Tensor, start: int, stop: int) -> Tensor:
        """The output of the queries ``start`` to ``stop``: ``(B, heads, stop - start, d)``."""
        return torch.matmul(self.rows(q, k, start, stop), v)

    @torch.jit.unused
    def _mix_rows_and_recompute(self, q: Tensor, k: Tensor, v: Tensor, start: int, stop: int) -> Tensor:
        """The same, holding no maps for the backward pass."""
        mixed: Tensor = checkpoint(
            self._mix_rows,
            q,
            k,
            v,
            start,
            stop,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _statistics_kept(self)),
        )
        return mixed

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tokens = q.shape[2]
        row = self.num_heads * k.shape[2] * self.widening  # numbers
        budget, recompute = self.budget, False
        if not torch.jit.is_scripting():
            if torch.compiler.is_compiling() or torch.jit.is_tracing():
                budget = CHUNK  # the batch may be dynamic, so it is left out of account
            else:
                recompute = torch.is_grad_enabled() and q.shape[0] * tokens * row > RECOMPUTE_ABOVE
                budget = (budget if q.is_cpu else CHUNK) // q.shape[0]
        chunk = tokens if self.training else max(1, budget // row)
        parts: list[Tensor] = []
        for start in range(0, tokens, chunk):
            stop = min(start + chunk, tokens)
            if torch.jit.is_scripting():
                parts.append(self._mix_rows(q, k, v, start, stop))
            elif recompute:
                parts.append(self._mix_rows_and_recompute(q, k, v, start, stop))
            else:
                parts.append(self._mix_rows(q, k, v, start, stop))
        return torch.cat(parts, dim=2)
