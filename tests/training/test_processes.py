"""A training process of several ends only after Gloo's threads had time to let go of their tensors."""

import time

import pytest
import torch.distributed as dist

from convformer_monai.training import leave_process_group
from convformer_monai.training.processes import GLOO_SECONDS


def test_gloo_gets_its_time_before_the_group_is_left(tmp_path, monkeypatch):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    waited = []

    def sleep(seconds):
        assert dist.is_initialized()
        waited.append(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    leave_process_group()
    assert waited == [GLOO_SECONDS]
    assert not dist.is_initialized()


def test_a_process_in_no_group_is_told_so():
    with pytest.raises(ValueError, match="[Pp]rocess group"):
        leave_process_group()
