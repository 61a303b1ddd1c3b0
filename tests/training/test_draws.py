"""A picture gets the same random numbers, and the same augmentation, in however many processes a batch is shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from convformer_monai.training import (
    BatchAugmentation,
    BatchGeometry,
    DropNeighbours,
    GreyIntensity,
    HeadCTIntensity,
    MixedBatches,
    MovedNeighbours,
    PhotoArtefacts,
    PhotoColours,
    RenderedHeads,
    draws,
)
from convformer_monai.training import mixed_batches as mixing

CPU = torch.device("cpu")
GEOMETRY = BatchGeometry([[32, 40], [40, 32]], quarter_turns=0.5)
AUGMENTATIONS = {
    "cardiac": BatchAugmentation(GEOMETRY, [GreyIntensity(0.5)]),
    "dermoscopy": BatchAugmentation(GEOMETRY, [PhotoArtefacts(0.5, 0.5, 0.5, 0.5, 0.5), PhotoColours(0.5)]),
    "hemorrhage": BatchAugmentation(GEOMETRY, [HeadCTIntensity(strip=0.4), MovedNeighbours(), DropNeighbours()]),
}


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Makes this process one of several."""

    def become(rank: int, size: int) -> None:
        for module in (draws, mixing):
            monkeypatch.setattr(module, "rank_and_size", lambda: (rank, size))

    return become


def pictures(channels: int, count: int = 12) -> dict[str, Tensor]:
    """Pictures with a square; every third is alone, a slice whose neighbours are its copies."""
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(count, channels, 48, 44, generator=generator) * 20 + 30
    image[::3] = image[::3, :1]
    label = torch.zeros(count, 1, 48, 44, dtype=torch.uint8)
    for number in range(count):
        image[number, :, 10 + number : 25, 15:30] += 30
        label[number, :, 10 + number : 25, 15:30] = 1
    image[1::2, :, :4] = 900.0  # bone in some of them
    return {"image": image, "label": label}


@pytest.mark.parametrize(("name", "channels"), [("cardiac", 1), ("dermoscopy", 3), ("hemorrhage", 3)])
@pytest.mark.parametrize("size", [2, 3, 6])
def test_the_augmentation_of_a_picture_does_not_depend_on_the_processes(process, name, channels, size):
    augment, batch = AUGMENTATIONS[name], pictures(channels)

    def two_steps(rank: int, processes: int) -> list[Tensor]:
        process(rank, processes)
        torch.manual_seed(5)
        own = {key: value[rank::processes] for key, value in batch.items()}
        return [part for _ in range(2) for part in augment(own)]

    whole = two_steps(0, 1)
    assert not torch.equal(whole[0], whole[2])
    for rank in range(size):
        for alone, shared in zip(two_steps(rank, size), whole, strict=True):
            torch.testing.assert_close(alone, shared[rank::size], rtol=1e-5, atol=1e-3)


class Operations(TorchDispatchMode):
    """Counts torch's operations, each of which is a launch on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "channels"), [("cardiac", 1), ("dermoscopy", 3)])
def test_the_launches_of_an_augmentation_do_not_grow(process, name, channels):
    """Neither with the pictures of a process nor with the processes."""
    augment = AUGMENTATIONS[name]

    def launches(own: int, processes: int) -> int:
        process(0, processes)
        torch.manual_seed(5)
        batch = {key: value[:own] for key, value in pictures(channels, 32).items()}
        with Operations() as operations:
            augment(batch)
        return operations.count

    few = launches(8, 1)
    assert few > 50
    assert launches(32, 1) == pytest.approx(few, rel=0.02)
    assert launches(8, 4) == pytest.approx(few, rel=0.02)


class Numbered:
    """A source that draws single pixels, random numbers above its own number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def draw(self, count: int) -> dict[str, Tensor]:
        image = self.number + draws.uniform(0, 1, count, CPU)
        torch.rand(count)  # what depends on the pictures must not disturb the next source
        return {"image": image, "label": image.byte()}


@pytest.mark.parametrize("size", [2, 4])
def test_processes_share_the_pictures_of_each_source(process, size):
    """Of sources with 3, 3, 1 and 1 pictures some processes have none."""

    def batches(rank: int, processes: int) -> list[Tensor]:
        process(rank, processes)
        torch.manual_seed(5)
        sources = [Numbered(number) for number in range(4)]
        made = MixedBatches(sources, [5, 5, 2, 1], batch_size=8 // processes, length=3 * processes)
        return [batch["image"].flatten() for batch in made]

    whole = batches(0, 1)
    assert [int(number) for number in whole[0]] == [0, 0, 0, 1, 1, 1, 2, 3]
    for rank in range(size):
        for alone, shared in zip(batches(rank, size), whole, strict=True):
            assert torch.equal(alone, shared[rank::size])


def test_rendered_heads_are_the_same_in_all_processes(process):
    maps = torch.zeros(3, 32, 32, dtype=torch.uint8)
    maps[:, 4:28, 4:28] = 2
    maps[1, 10:20, 10:20] = 3

    def drawn(rank: int, processes: int) -> Tensor:
        process(rank, processes)
        torch.manual_seed(1)
        return RenderedHeads(maps).draw(4 // processes)["image"]

    whole = drawn(0, 1)
    for rank in range(2):
        assert torch.equal(drawn(rank, 2), whole[rank::2])


def test_numbers_for_other_rows_than_those_named_are_refused(process):
    process(0, 1)
    with draws.drawing_for(draws.Rows(5, torch.tensor([1, 4]))):
        assert len(draws.normal(2, CPU)) == 2
        with pytest.raises(ValueError, match="must be 2"):
            draws.normal(3, CPU)
