"""Losses, batch norm and small decisions that several processes share, beside one process with the whole batch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import in_processes
from monai.losses import DeepSupervisionLoss, DiceCELoss
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from convformer_monai.networks import ConvFormerUNet
from convformer_monai.training import MeanOfProcesses, SharedDiceCELoss, own_part, share_batch_norm
from convformer_monai.training.batch_norm import SharedBatchNorm
from convformer_monai.training.processes import of_all, of_first_process, rank_and_size


def whole_batch() -> tuple[nn.Module, Tensor, Tensor]:
    """A network, four pictures that differ in brightness, and labels of three classes."""
    torch.manual_seed(0)
    net = ConvFormerUNet(2, 1, 3, channels=(4, 8, 12), num_layers=(0, 0, 1), head_dim=4)
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(4, 1, 32, 24, generator=generator) + torch.arange(4.0).view(4, 1, 1, 1)
    label = torch.randint(0, 3, (4, 1, 32, 24), generator=generator).float()
    label[0] = 0
    return net.double().train(), image.double(), label.double()


def result(net: nn.Module, loss: Tensor) -> dict[str, Any]:
    """The loss, the gradient, and the state after one step of training."""
    loss.backward()
    module = getattr(net, "module", net)
    gradient = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
    return {"loss": loss.detach(), "gradient": gradient, "state": module.state_dict()}


def share_one_step(batch_dice: bool) -> dict[str, Any]:
    net, image, label = whole_batch()
    rank, size = rank_and_size()
    shared = DistributedDataParallel(share_batch_norm(net, "cpu"))
    own = SharedDiceCELoss() if batch_dice else DiceCELoss(to_onehot_y=True, softmax=True)
    loss = MeanOfProcesses(DeepSupervisionLoss(own))(shared(image[rank::size]), label[rank::size])
    return result(shared, loss)


@pytest.mark.slow
@pytest.mark.parametrize("batch_dice", [True, False])
def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path: Path, batch_dice: bool) -> None:
    """Nothing but the order of the sums differs: the network's in double precision, the loss's in single."""
    net, image, label = whole_batch()
    loss = DeepSupervisionLoss(DiceCELoss(to_onehot_y=True, softmax=True, batch=batch_dice))
    whole = result(net, loss(net(image), label))
    first, second = in_processes(tmp_path, 2, share_one_step, batch_dice)
    assert torch.equal(first["gradient"], second["gradient"])
    assert float(first["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-6)
    assert float(whole["gradient"].norm()) > 0.1
    torch.testing.assert_close(first["gradient"], whole["gradient"], rtol=1e-6, atol=1e-8)
    assert list(first["state"]) == list(whole["state"])
    for name, value in whole["state"].items():
        torch.testing.assert_close(first["state"][name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_the_shared_loss_is_monais_in_one_process(size: tuple[int, int]) -> None:
    logits, label = torch.randn(3, 4, *size), torch.randint(0, 4, (3, 1, *size)).float()
    monais = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    torch.testing.assert_close(SharedDiceCELoss()(logits, label), monais(logits, label))


def test_batch_norm_is_torchs_in_one_process_and_in_evaluation() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3, affine=False))
    image = torch.randn(2, 2, 9, 9)
    expected = [net.train()(image), net.eval()(image)]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    shared = share_batch_norm(net, "cpu")
    assert [type(one) for one in shared][1:] == [SharedBatchNorm, SharedBatchNorm] and not shared[1].training
    assert list(shared.state_dict()) == list(state)
    assert torch.equal(shared(image), expected[1])
    assert torch.equal(shared.train()(image), expected[0])


def decide() -> tuple[float, list[float], list[int], list[int]]:
    rank, size = rank_and_size()
    numbers = of_all(torch.arange(5.0)[rank::size], 5)
    return of_first_process(7.0 + rank), numbers.tolist(), own_part([1, 2, 3]), own_part([4])


@pytest.mark.slow
def test_processes_decide_alike_and_divide_the_cases(tmp_path: Path) -> None:
    first, second = in_processes(tmp_path, 2, decide)
    assert first[:2] == second[:2] == (7.0, [0.0, 1.0, 2.0, 3.0, 4.0])
    assert (first[2], second[2]) == ([1, 3], [2])
    assert first[3] == second[3] == [4], "fewer cases than processes: each validates all, so the mean is the same"
    assert os.environ.get("RANK") is None and own_part([1, 2]) == [1, 2]
