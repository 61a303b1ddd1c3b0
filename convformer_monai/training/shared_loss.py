"""Losses of a batch that several processes share, so that their mean gradient is that of the whole batch.

DistributedDataParallel takes the mean of the processes' gradients. For a loss that is a mean over pictures, of which
each process has as many, that is the gradient of the whole batch. A Dice loss of whole batches (MONAI's ``batch=True``)
is no such mean: its sums must run over all processes first, as in nnU-Net (Isensee et al., Nature Methods 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from monai.networks import one_hot
from torch import Tensor, nn

from convformer_monai.training.processes import rank_and_size

__all__ = ["MeanOfProcesses", "SharedDiceCELoss"]


class SharedDiceCELoss(nn.Module):
    """MONAI's ``DiceCELoss(to_onehot_y=True, softmax=True, batch=True)`` of the pictures of all processes.

    The gradient is that of the whole batch once DistributedDataParallel has taken its mean; the cross entropy is a mean
    over pictures, and stays that of the own ones.

    Args:
        smooth: is added to numerator and denominator of the Dice.
    """

    def __init__(self, smooth: float = 1e-5) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss of (B, K, *spatial) logits and (B, 1, *spatial) labels."""
        truth = one_hot(label, num_classes=logits.shape[1])
        probability = logits.softmax(1)
        axes = [0, *range(2, logits.ndim)]
        parts = [(truth * probability).sum(axes), (truth + probability).sum(axes)]
        both, either = _of_all(torch.stack(parts))  # each (K,)
        dice = 1 - (2 * both + self.smooth) / (either + self.smooth)
        loss: Tensor = dice.mean() + F.cross_entropy(logits, label[:, 0].long())
        return loss


class MeanOfProcesses(nn.Module):
    """A loss whose value is the mean of all processes, for logs, with the gradient of the own pictures.

    Args:
        loss: takes what the network returns, and labels (B, 1, *spatial).
    """

    def __init__(self, loss: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Any, label: Tensor) -> Tensor:
        """The loss, a scalar."""
        loss = self.loss(logits, label)
        size = rank_and_size()[1]
        if size == 1:
            return loss
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        return loss + (mean / size - loss.detach())


def _of_all(sums: Tensor) -> Tensor:
    """Sums over all processes, whose gradient counts the own share once for each process: the mean is taken later."""
    size = rank_and_size()[1]
    if size == 1:
        return sums
    total = sums.detach().clone()
    dist.all_reduce(total)
    own = sums * size
    return total + (own - own.detach())
