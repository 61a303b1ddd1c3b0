"""Batch norm over the pictures of all processes, on any device.

torch's ``SyncBatchNorm`` does it on GPUs alone. :class:`SharedBatchNorm` is the same arithmetic in torch's operations:
each process sends mean and variance of its pictures, and they are combined as in Chan et al., "Updating formulae and a
pairwise algorithm for computing sample variances" (1979); the gradient needs two more sums. One collective each.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from convformer_monai.training.processes import rank_and_size

__all__ = ["SharedBatchNorm", "share_batch_norm"]


class _Normalise(torch.autograd.Function):
    """``(x - mean) / std``, with the mean and standard deviation (C,) of all processes' pictures."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, invstd: Tensor, count: int) -> Tensor:
        shape = [1, -1] + [1] * (x.ndim - 2)
        normed = (x - mean.view(shape)) * invstd.view(shape)
        ctx.save_for_backward(normed, invstd)
        ctx.count = count
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        normed, invstd = ctx.saved_tensors
        axes = [0, *range(2, normed.ndim)]
        shape = [1, -1] + [1] * (normed.ndim - 2)
        sums = torch.stack([gradient.sum(axes), (gradient * normed).sum(axes)])  # (2, C)
        dist.all_reduce(sums)
        level, slope = (sums / ctx.count).view(2, *shape)
        return (gradient - level - normed * slope) * invstd.view(shape), None, None, None


class SharedBatchNorm(_BatchNorm):
    """``torch.nn.BatchNorm`` that, in training, takes its statistics over the pictures of all processes.

    Same parameters, buffers and arguments. In evaluation, and in a single process, it is torch's own.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.ndim}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalises ``(B, C, *spatial)``."""
        size = rank_and_size()[1]
        if not self.training or size == 1:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        axes = [0, *range(2, x.ndim)]
        with torch.no_grad():
            variance, mean = torch.var_mean(x, axes, correction=0)
            count = torch.full_like(mean, x.numel() / x.shape[1])
            own = torch.stack([mean, variance, count])  # (3, C)
            parts = [torch.empty_like(own) for _ in range(size)]
            dist.all_gather(parts, own)
            means, variances, counts = torch.stack(parts, 1)  # each (processes, C)
            total = counts.sum(0)
            mean = (means * counts).sum(0) / total
            variance = ((variances + (means - mean) ** 2) * counts).sum(0) / total
            self._track(mean, variance, total)
        invstd = torch.rsqrt(variance + self.eps)
        normed: Tensor = _Normalise.apply(x, mean, invstd, int(total[0]))  # type: ignore[no-untyped-call]
        if self.affine:
            shape = [1, -1] + [1] * (x.ndim - 2)
            normed = torch.addcmul(self.bias.view(shape), normed, self.weight.view(shape))
        return normed.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Updates the running statistics, whose variance is the unbiased one."""
        if not self.track_running_stats or self.num_batches_tracked is None:
            return
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), momentum)


def share_batch_norm(network: nn.Module, device: str | torch.device) -> nn.Module:
    """Replaces each batch norm of a network by one over the pictures of all processes.

    Args:
        network: is changed in place, unless it is a batch norm itself.
        device: where it will train: on CUDA torch's ``SyncBatchNorm`` takes the place, elsewhere our own.

    Returns:
        The network, with the parameters, buffers and keys that it had.
    """
    if torch.device(device).type == "cuda":
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return synchronised
    if isinstance(network, _BatchNorm) and not isinstance(network, SharedBatchNorm):
        norm = SharedBatchNorm(
            network.num_features, network.eps, network.momentum, network.affine, network.track_running_stats
        )
        norm.load_state_dict(network.state_dict(), assign=True)
        return norm.train(network.training)
    for name, child in network.named_children():
        setattr(network, name, share_batch_norm(child, device))
    return network
