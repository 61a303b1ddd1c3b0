"""All sources of head CT as one pool: labels, folds, neighbours, painted blood, hard negatives, a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image
from torch import nn

from convformer_monai.bundle import Bundle
from convformer_monai.errors import InputRefused
from convformer_monai.training import HardNegatives, HeadCTPool, KnownPixelsLoss, MixedBatches, PaintedBlood
from convformer_monai.training.painting import RenderedHeads
from convformer_monai.training.unknown import UNKNOWN
from convformer_monai.transforms.depth import slice_positions, with_neighbours

SIDE = 200
SOURCES = {"expert": {"window": [0, 80]}}


def disc(radius: float, centre: tuple[float, float] = (100.0, 100.0)) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2


def head(blood: np.ndarray | None = None) -> np.ndarray:
    """A slice in Hounsfield units: skull, brain, and blood in it."""
    values = np.full((SIDE, SIDE), -1000.0)
    values[disc(75)] = 900.0
    values[disc(68)] = 32.0
    if blood is not None:
        values[blood] = 65.0
    return values


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Expert slices of ten patients (one mask incomplete), a head with and one without blood, label maps."""
    folder = tmp_path_factory.mktemp("ich")
    lists: dict[str, list[dict[str, Any]]] = {"expert": [], "heads": [], "cq500_shapes": []}
    for number in range(10):
        blood = disc(12, (90.0 + 2 * number, 110.0))
        grey = np.clip(head(blood), 0, 80) * 255 / 80
        Image.fromarray(grey.round().astype(np.uint8).T).save(folder / f"e{number}.png")
        mask = blood if number else disc(3, (90.0, 110.0))
        Image.fromarray((mask.T * 255).astype(np.uint8)).save(folder / f"e{number}_mask.png")
        entry = {"id": f"p{number}_centre", "patient": f"p{number}", "source": "bhsd", "spacing": 1.0}
        entry |= {"image": f"e{number}.png", "label": f"e{number}_mask.png", "mask_complete": number > 0}
        lists["expert"].append(entry)
    for name, blood_slices in (("p1", [2]), ("q", [])):
        slices = [head(disc(12) if z in blood_slices else None) for z in range(6)]
        volume = nib.Nifti1Image(np.stack(slices, -1).astype(np.int16), np.diag([-1.0, -1.0, 5.0, 1.0]))
        volume.header.set_xyzt_units("mm")
        nib.save(volume, folder / f"{name}.nii.gz")
        about = {"blood_slices": blood_slices, "expert_slices": {"up15mm": None}}
        lists["heads"].append({"id": name, "patient": name, "image": f"{name}.nii.gz", **about})
    for number in range(4):
        colours = np.zeros((SIDE, SIDE, 3), np.uint8)
        colours[disc(75)], colours[disc(68)] = (255, 255, 255), (0, 255, 0)
        colours[disc(10, (60.0, 100.0))] = (255, 0, 0)
        Image.fromarray(colours.transpose(1, 0, 2)).save(folder / f"CT{number}.png")
        lists["cq500_shapes"].append({"patient": f"CT{number}", "shape": f"CT{number}.png"})
    (folder / "datalist.json").write_text(json.dumps(lists))
    return folder


@pytest.fixture(scope="module")
def pool(data: Path) -> HeadCTPool:
    options = {"image_keys": ["image", "label"], "image_modes": ["bilinear", "nearest"]}
    resample = Bundle("hemorrhage").get("resampling", overrides=options)
    return HeadCTPool(data, ["expert", "heads", "missing"], SOURCES, resample)


def test_labels_say_what_is_known(pool: HeadCTPool) -> None:
    ids = pool.ids.tolist()
    assert len(ids) == 10 + 12
    values = {name: torch.unique(pool.labels[ids.index(name)]).tolist() for name in ("p0_centre", "p1_centre", "p1/2")}
    assert values == {"p0_centre": [0, 1, UNKNOWN], "p1_centre": [0, 1], "p1/2": [0, UNKNOWN]}
    assert [bool(pool.free[ids.index(f"p1/{z}")]) for z in range(6)] == [True, False, False, False, True, True]
    assert pool.free[[ids.index(f"q/{z}") for z in range(6)]].all()


def test_neighbours_are_the_slices_beside_and_a_slice_alone_is_repeated(pool: HeadCTPool) -> None:
    ids = pool.ids.tolist()
    alone, middle, last = (pool.neighbours[ids.index(name)] for name in ("p3_centre", "q/2", "q/5"))
    assert alone[0] == alone[1] == alone[2]
    assert middle.tolist() == [middle[1] - 1, middle[1], middle[1] + 1] and last[1] == last[2]


def test_a_patient_is_in_one_fold_whichever_the_list(pool: HeadCTPool) -> None:
    assert len({int(fold) for fold, name in zip(pool.folds, pool.patients, strict=True) if name == "p1"}) == 1
    shares = {"expert/bhsd": 1.0, "heads": 1.0}
    fold = int(pool.folds[0])
    train, held_out = pool.part(shares, True, fold), pool.part(shares, True, int(pool.folds[1]), held_out=True)
    assert not {pool.patients[i] for i in train.indices} & set(pool.patients[pool.folds == fold])
    assert all(pool.complete[i] for i in held_out.indices)
    assert len(pool.part({"expert": 1.0}, None)) == 10  # all groups of the section, with blood and without
    with pytest.raises(ValueError, match="leave no slice of gold"):
        pool.part({"gold": 1.0}, True)


def test_the_cache_holds_the_same(pool: HeadCTPool, data: Path, tmp_path: Path) -> None:
    options = {"image_keys": ["image", "label"], "image_modes": ["bilinear", "nearest"]}
    resample = Bundle("hemorrhage").get("resampling", overrides=options)
    made = [HeadCTPool(data, ["expert"], SOURCES, resample, cache=str(tmp_path / "pool.pt")) for _ in range(2)]
    assert torch.equal(made[0].slices, made[1].slices) and made[0].groups.tolist() == made[1].groups.tolist()


def test_a_pool_in_files_holds_the_same_and_draws_the_same(pool: HeadCTPool, data: Path, tmp_path: Path) -> None:
    options = {"image_keys": ["image", "label"], "image_modes": ["bilinear", "nearest"]}
    resample = Bundle("hemorrhage").get("resampling", overrides=options)
    given = (data, ["expert", "heads", "missing"], SOURCES, resample)
    for _ in range(2):  # made, then found
        stored = HeadCTPool(*given, cache_dir=str(tmp_path))
        assert not isinstance(stored.slices, torch.Tensor)
        for name in ("ids", "groups", "patients", "folds", "blood", "free", "complete"):
            assert getattr(stored, name).tolist() == getattr(pool, name).tolist()
        assert torch.equal(stored.neighbours, pool.neighbours) and torch.equal(stored.shapes, pool.shapes)
        drawn = []
        for one in (pool, stored):
            torch.manual_seed(3)
            drawn.append(one.part({"expert": 1.0, "heads": 1.0}, None).draw(9))
        assert torch.equal(drawn[0]["image"], drawn[1]["image"]) and torch.equal(drawn[0]["label"], drawn[1]["label"])
    with pytest.raises(InputRefused, match="give one of them"):
        HeadCTPool(*given, cache=str(tmp_path / "pool.pt"), cache_dir=str(tmp_path))


def test_slices_that_are_drawn_more_often_are_so_after_a_restart(pool: HeadCTPool) -> None:
    part, again = (pool.part({"heads": 1.0}, False) for _ in range(2))
    part.weights[2] *= 8
    again.load_state_dict(part.state_dict())
    assert torch.allclose(again.weights, part.weights) and not torch.allclose(again.weights, again.base)
    fewer = pool.part({"expert": 1.0}, None)
    fewer.load_state_dict(part.state_dict())
    assert torch.equal(fewer.weights, fewer.base), "of other slices"


def test_silver_masks_fill_marked_slices(data: Path, tmp_path: Path) -> None:
    mask = np.zeros((SIDE, SIDE, 6), np.uint8)
    mask[..., 2][disc(12)] = 1
    mask[..., 4][disc(12)] = 1  # not marked by the radiologists
    nib.save(nib.Nifti1Image(mask, np.diag([-1.0, -1.0, 5.0, 1.0])), tmp_path / "p1.nii.gz")
    options = {"image_keys": ["image", "label"], "image_modes": ["bilinear", "nearest"]}
    resample = Bundle("hemorrhage").get("resampling", overrides=options)
    pool = HeadCTPool(data, ["heads"], SOURCES, resample, silver_dir=str(tmp_path))
    assert [int((label == 1).sum()) for label in pool.labels[:6]] == [0, 0, int(disc(12).sum()), 0, 0, 0]


def test_painted_and_rendered_blood_is_bright_and_inside(pool: HeadCTPool) -> None:
    free = pool.part({"heads": 1.0}, False)
    for source in (PaintedBlood(free, pool.maps()), RenderedHeads(pool.maps())):
        batch = source.draw(6)
        image, label = batch["image"].float(), batch["label"][:, 0] > 0
        assert image.shape == (6, 3, 256, 256) and torch.equal(image[:, 0], image[:, 2])
        assert label.any()
        assert 40 < float(image[:, 1][label].mean()) < 90


def test_without_maps_slices_are_drawn_as_they_are(pool: HeadCTPool, caplog: pytest.LogCaptureFixture) -> None:
    blood = PaintedBlood(pool.part({"heads": 1.0}, False), pool.maps()[:0])
    assert "no blood is painted" in caplog.text and not (blood.draw(4)["label"] == 1).any()


def test_painted_blood_reaches_into_real_neighbours(pool: HeadCTPool) -> None:
    torch.manual_seed(0)
    free = pool.part({"heads": 1.0}, False)
    blood = PaintedBlood(free, pool.maps())
    pool.slices += 0.5 * (torch.arange(len(pool.slices), device=pool.slices.device) % 2)[:, None, None]
    try:
        batch = blood.draw(8)
    finally:
        pool.slices -= 0.5 * (torch.arange(len(pool.slices), device=pool.slices.device) % 2)[:, None, None]
    image, label = batch["image"].float(), batch["label"][:, 0] > 0
    inside = [((image[:, place] > 42) & (image[:, place] < 95)).flatten(1).sum(1) for place in range(3)]
    assert not torch.equal(inside[0], inside[1]) and not torch.equal(inside[2], inside[1])
    assert label.flatten(1).any(1).all()


def test_batches_hold_each_source_as_often_as_asked(pool: HeadCTPool) -> None:
    free, blood = pool.part({"heads": 1.0}, False), pool.part({"expert/bhsd": 1.0}, True)
    batches = MixedBatches([blood, free], [0.6, 0.4], 5, 4)
    drawn = list(batches)
    assert len(drawn) == len(batches) == 4
    for batch in drawn:
        found = (batch["label"] == 1).flatten(1).any(1).tolist()
        assert found == [True] * 3 + [False] * 2
    assert MixedBatches([blood, free, free, blood], [5, 5, 2, 0], 4, 1).counts == [2, 2]
    with pytest.raises(ValueError, match="shares must be"):
        MixedBatches([blood], [0], 5, 4)


def test_slices_that_are_wrong_are_drawn_more_often(pool: HeadCTPool) -> None:
    free = pool.part({"heads": 1.0}, False)

    class FindsBloodInTheFirst(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wrong = (x[:, :1, 0, 0] == first).float()[..., None, None].expand(-1, 1, *x.shape[2:])
            return torch.cat([1 - 2 * wrong, 2 * wrong], 1)

    images = pool.slices[pool.neighbours[free.indices][:, 1]]
    images[:, 0, 0] = torch.arange(len(free)).to(images.dtype) - 1000
    pool.slices[pool.neighbours[free.indices][:, 1]] = images
    first = -1000.0
    net = FindsBloodInTheFirst()
    hard = HardNegatives(free, net, strength=8.0)
    hard._look(None)  # type: ignore[arg-type]
    ratio = free.weights / free.base
    assert int((ratio > 7).sum()) >= 1 and int((ratio < 1.1).sum()) >= 1 and net.training


def test_unknown_pixels_have_no_loss_and_no_gradient() -> None:
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    label = torch.zeros(1, 1, 4, 4)
    label[..., :2] = UNKNOWN
    loss = KnownPixelsLoss(lambda x, y: nn.functional.cross_entropy(x, y[:, 0].long()))
    loss(logits, label).backward()
    assert logits.grad is not None
    assert float(logits.grad[..., :2].abs().max()) == 0 and float(logits.grad[..., 2:].abs().min()) > 0


def test_depth_is_interpolated_in_millimetres() -> None:
    volume = torch.arange(5.0).expand(2, 2, 5)
    positions = slice_positions(5, 2.0, (-5, 0, 5))
    assert positions[2].tolist() == [0.0, 2.0, 4.0] and positions[0].tolist() == [0.0, 0.0, 2.5]
    assert with_neighbours(volume, positions[:1])[0, :, 0, 0].tolist() == [0.0, 0.0, 2.5]
    assert slice_positions(3, 5.1, (-5, 0, 5))[1].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.slow
def test_the_recipe_trains(pool: HeadCTPool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.excepthook", None)
    heads = {int(fold) for fold, name in zip(pool.folds, pool.patients, strict=True) if name == "q"}
    fold = next(int(fold) for fold in pool.folds[1:10] if int(fold) not in heads)
    bundle = Bundle("hemorrhage")
    options = {"dataset_dir": str(data), "output_dir": str(tmp_path / "run"), "device": "cpu", "amp": False}
    options |= {
        "max_epochs": 1,
        "epoch_length": 2,
        "crop": [64, 64],
        "hard_interval": 1,
        "batch_size": 12,
        "fold": fold,
    }
    options["network_def#overrides"] = {"network_def#network#channels": [4, 8, 8, 32, 32]}
    file, root = str(bundle.path("train")), str(bundle.root)
    run = ConfigWorkflow(config_file=file, workflow_type="infer", bundle_root=root, **options)
    run.initialize()
    run.run()
    assert (tmp_path / "run" / "best.pt").is_file()
