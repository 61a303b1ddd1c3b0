import pytest
import torch
from monai.data import MetaTensor

from convformer_monai.errors import InputRefused
from convformer_monai.training import SliceBatches, SliceDataset, slices


def volume(case: dict) -> dict:
    """A volume whose voxels and labels say which case and slice they are of."""
    number, depth = case["number"], case["depth"]
    image = torch.zeros(1, 20, 30, depth) + 100 * number + torch.arange(depth)
    label = torch.zeros(1, 20, 30, depth) + number
    return {"image": MetaTensor(image), "label": MetaTensor(label)}


def dataset() -> SliceDataset:
    cases = [{"number": 1, "depth": 4}, {"number": 2, "depth": 7}]
    return SliceDataset(cases, volume, canvas=(24, 24))


def test_all_slices_are_there_padded_and_cropped():
    made = dataset()
    assert len(made) == 11
    assert made.images.shape == made.labels.shape == (11, 1, 24, 24)
    assert type(made.images) is torch.Tensor
    assert made[5]["image"][0, 12, 12] == 201
    assert made[5]["label"][0, 12, 12] == 2
    assert made[5]["image"][0, 0, 0] == 200, "padding is the volume's minimum"
    assert made[5]["label"][0, 0, 0] == 0


def test_batches_cover_an_epoch_once_in_an_order_that_changes():
    batches = SliceBatches(dataset(), batch_size=5, seed=1)
    epochs = [torch.cat([batch["image"][:, 0, 12, 12] for batch in batches]) for _ in range(2)]
    assert len(batches) == 2
    assert all(len(epoch.unique()) == 10 for epoch in epochs)
    assert not torch.equal(*epochs)


def test_an_epoch_may_show_each_slice_several_times():
    batches = SliceBatches(dataset(), batch_size=5, seed=1, of_cases=5)
    (seen,) = [torch.cat([batch["image"][:, 0, 12, 12] for batch in batches])]
    assert len(batches) == 5 and len(seen) == 25
    assert all(len(seen[start : start + 11].unique()) == 11 for start in (0, 11))


def test_other_label_values_are_refused():
    cases = [{"number": 2, "depth": 3, "label": "a_gt.nii.gz"}]
    assert len(SliceDataset(cases, volume, canvas=(24, 24), structures=2)) == 3
    with pytest.raises(InputRefused, match=r"a_gt.nii.gz holds the values 2; 0 to 1 are what is learned"):
        SliceDataset(cases, volume, canvas=(24, 24), structures=1)


def test_resumed_batches_go_on_in_the_same_order():
    first, second = (SliceBatches(dataset(), batch_size=5, seed=1) for _ in range(2))
    list(first)
    second.load_state_dict(first.state_dict())
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one["image"], other["image"])


def test_processes_share_an_epoch_without_overlap():
    parts = []
    for rank in range(2):
        batches = SliceBatches(dataset(), batch_size=2, seed=1)
        batches.rank, batches.world_size = rank, 2
        assert len(batches) == 2
        parts.append(torch.cat([batch["image"][:, 0, 12, 12] for batch in batches]))
    assert len(torch.cat(parts).unique()) == 8


def test_fewer_slices_than_processes_are_refused(monkeypatch):
    monkeypatch.setattr(slices, "rank_and_size", lambda: (1, 12))
    with pytest.raises(InputRefused, match="11 pictures are too few for 12 processes"):
        SliceBatches(dataset(), batch_size=1)
    monkeypatch.setattr(slices, "rank_and_size", lambda: (1, 4))
    assert [len(batch["image"]) for batch in SliceBatches(dataset(), batch_size=5)] == [2], "as many in each process"


def test_fewer_slices_than_a_batch_make_one_batch():
    batches = SliceBatches(dataset(), batch_size=64)
    assert [len(batch["image"]) for batch in batches] == [11]


def test_photographs_keep_colours_and_bytes():
    def photo(case: dict) -> dict:
        pixels = torch.zeros(3, 20, 30, dtype=torch.uint8) + torch.tensor([10, 20, case["number"]]).view(3, 1, 1)
        return {"image": MetaTensor(pixels), "label": MetaTensor(torch.ones(1, 20, 30))}

    pictures = SliceDataset([{"number": 200}, {"number": 255}], photo, canvas=(24, 24), dtype=torch.uint8)
    assert pictures.images.shape == (2, 3, 24, 24) and pictures.images.dtype == torch.uint8
    assert pictures[1]["image"][:, 12, 12].tolist() == [10, 20, 255]
