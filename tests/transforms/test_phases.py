"""From class scores of all phases to labels on the native grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged
from nifti_files import SHORT_AXIS, affine, restored, save

import convformer_monai.transforms.phases as phases_module
from convformer_monai.readers import SeriesReader
from convformer_monai.transforms import InPlaneOrientationd, InPlaneSpacingd, InvertPhasesd, ResizeToAread
from convformer_monai.transforms.geometry import SLICES


@pytest.fixture
def preprocessing() -> Compose:
    return Compose(
        [
            LoadImaged("image", reader=SeriesReader),
            EnsureChannelFirstd("image"),
            InPlaneOrientationd("image"),
            InPlaneSpacingd("image", (1.5, 1.5)),
        ]
    )


def discs(phases: int) -> np.ndarray:
    """(X, Y, Z, T) labels 0-2: rings that grow from phase to phase and differ between slices."""
    x, y, z = np.indices((48, 40, 4))
    radius = np.hypot((x - 26) * 1.1, (y - 17) * 1.3)
    edges = [np.where(radius < 8 + t + 2 * z, 2, np.where(radius < 13 + t + 2 * z, 1, 0)) for t in range(phases)]
    return np.stack(edges, axis=-1).astype(np.int16)


def scores_of(image: MetaTensor) -> torch.Tensor:
    """Scores that a perfect network would give for an image whose intensities are the labels."""
    classes = torch.arange(3).view(1, 3, 1, 1, 1)
    return (-30 * (image.as_tensor()[:, None] - classes).abs()).flatten(0, 1)


@pytest.mark.parametrize("phases", [1, 3])
@pytest.mark.parametrize(("order", "flips"), [((0, 1, 2), ()), ((2, 0, 1), (0, 2)), ((1, 2, 0), (1,))])
def test_labels_come_back_to_their_voxels(
    tmp_path: Path, preprocessing: Compose, phases: int, order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    labels = discs(phases)
    data, matrix = restored(labels, affine((1.1, 1.3, 8.0), SHORT_AXIS), order, flips)
    case = preprocessing({"image": str(save(tmp_path / "x.nii.gz", data, matrix))})
    assert case["image"].shape[0] == phases
    case["pred"] = scores_of(case["image"])
    result = InvertPhasesd("pred", preprocessing)(case)["pred"]
    assert result.dtype == torch.uint8 and result.shape == (phases, *data.shape[:3])
    np.testing.assert_allclose(result.affine, matrix, atol=1e-5)
    assert (result.numpy() == np.moveaxis(data, -1, 0)).mean() > 0.97  # all but the outlines


def test_survives_batching(tmp_path: Path, preprocessing: Compose) -> None:
    case = preprocessing({"image": str(save(tmp_path / "x.nii.gz", discs(2), affine((1.1, 1.3, 8.0))))})
    batch = list_data_collate([case])
    batch["pred"] = scores_of(batch["image"][0])[None]
    single = InvertPhasesd("pred", preprocessing)({**case, "pred": scores_of(case["image"])})["pred"]
    result = InvertPhasesd("pred", preprocessing)(decollate_batch(batch)[0])["pred"]
    np.testing.assert_array_equal(result.numpy(), single.numpy())
    assert int(result.meta["nifti"]["qform_code"]) == 1


def test_probabilities_are_interpolated_not_labels(tmp_path: Path, preprocessing: Compose) -> None:
    """Where a voxel lies between two pixels, the surer one decides."""
    path = save(tmp_path / "x.nii.gz", np.zeros((30, 4, 2), np.int16), affine((0.5, 1.5, 8.0)))
    case = preprocessing({"image": str(path)})
    probability = torch.zeros(2, *case["image"].shape[1:])
    probability[1, :5], probability[1, 5:] = 0.9, 0.4
    probability[0] = 1 - probability[1]
    case["pred"] = probability.log()
    labels = InvertPhasesd("pred", preprocessing)(case)["pred"].numpy()[0, :, 0, 0]
    edge = 14 + 1.5 * 2 * (0.9 - 0.5) / 0.5 / 0.5 * 0.5  # from the last sure pixel's centre, 3 voxels to the next
    assert labels.sum() == pytest.approx(edge, abs=1.01) and labels.sum() > 15


def test_slices_are_not_blended(tmp_path: Path, preprocessing: Compose) -> None:
    data = np.zeros((20, 20, 5), np.int16)
    data[..., 2] = 1
    case = preprocessing({"image": str(save(tmp_path / "x.nii.gz", data, affine((1.1, 1.3, 8.0), SHORT_AXIS)))})
    case["pred"] = scores_of(case["image"])
    np.testing.assert_array_equal(InvertPhasesd("pred", preprocessing)(case)["pred"].numpy()[0], data)


def test_memory_is_one_phase(tmp_path: Path, preprocessing: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    case = preprocessing({"image": str(save(tmp_path / "x.nii.gz", discs(5)))})
    seen = []
    original = Invertd.__call__

    def spy(self: Invertd, data: dict) -> dict:
        seen.append(tuple(data["pred"].shape))
        return original(self, data)

    monkeypatch.setattr(Invertd, "__call__", spy)
    InvertPhasesd("pred", preprocessing)({**case, "pred": scores_of(case["image"])})
    assert len(seen) == 5 and {shape[0] for shape in seen} == {3}


@pytest.mark.parametrize(
    ("order", "flips"), [((0, 1, 2), ()), ((2, 0, 1), (0, 2)), ((1, 2, 0), (1,)), ((0, 1, 2), (2,))]
)
@pytest.mark.parametrize("probabilities", [False, True])
def test_deep_volumes_come_back_a_few_slices_at_a_time(
    tmp_path: Path,
    preprocessing: Compose,
    monkeypatch: pytest.MonkeyPatch,
    order: tuple[int, ...],
    flips: tuple[int, ...],
    probabilities: bool,
) -> None:
    """The same voxels and the same metadata, whichever way the file stores the slices."""
    labels = np.random.default_rng(0).integers(0, 3, (14, 12, 2 * SLICES + 3)).astype(np.int16)
    data, matrix = restored(labels, affine((1.1, 1.3, 4.0), SHORT_AXIS), order, flips)
    case = preprocessing({"image": str(save(tmp_path / "x.nii.gz", data, matrix))})
    case["pred"] = scores_of(case["image"]) / 20
    invert, seen, original = InvertPhasesd("pred", preprocessing, probabilities=probabilities), [], Invertd.__call__

    def spy(self: Invertd, given: dict) -> dict:
        seen.append(tuple(given["pred"].shape))
        return original(self, given)

    monkeypatch.setattr(Invertd, "__call__", spy)
    few = invert(case)["pred"]
    assert sum(shape[-1] for shape in seen if shape[0]) == labels.shape[2]
    assert max(shape[-1] for shape in seen if shape[0]) == SLICES
    monkeypatch.setattr(phases_module, "SLICES", 1000)
    whole = invert(case)["pred"]
    assert torch.equal(few.as_tensor(), whole.as_tensor()) and torch.equal(few.affine, whole.affine)
    assert few.meta.keys() == whole.meta.keys() and few.shape == (2 if probabilities else 1, *data.shape)


def test_is_known_as_invertd_and_named_in_configs() -> None:
    config = {"pre": {"_target_": "Compose"}, "post": {"_target_": "convformer_monai.transforms.InvertPhasesd"}}
    config["post"] |= {"keys": "pred", "orig_keys": "image", "transform": "@pre"}
    assert isinstance(ConfigParser(config).get_parsed_content("post"), Invertd)


def test_channels_must_fit_the_phases(tmp_path: Path, preprocessing: Compose) -> None:
    case = preprocessing({"image": str(save(tmp_path / "x.nii.gz", discs(2)))})
    with pytest.raises(ValueError, match="7 channels"):
        InvertPhasesd("pred", preprocessing)({**case, "pred": torch.zeros(7, 3, 3, 3)})


def test_photograph_is_one_phase_of_three_channels() -> None:
    resize = ResizeToAread("image", area=30 * 40)
    image = resize({"image": MetaTensor(torch.zeros(3, 60, 80, dtype=torch.uint8))})["image"]
    scores = torch.zeros(2, *image.shape[1:])
    scores[1, :, :20] = 5
    labels = InvertPhasesd("pred", resize, image_channels=3)({"image": image, "pred": scores})["pred"]
    assert labels.shape == (1, 60, 80) and labels.dtype == torch.uint8
    assert labels[0, :, :38].all() and not labels[0, :, 42:].any()


def test_of_equal_scores_the_first_class_wins() -> None:
    resize = ResizeToAread("image", area=20 * 20)
    image = resize({"image": MetaTensor(torch.zeros(1, 20, 20))})["image"]
    scores = torch.zeros(3, 20, 20)
    scores[1:, 5] = 2
    scores[2, 7] = 1
    labels = InvertPhasesd("pred", resize)({"image": image, "pred": scores})["pred"][0]
    assert (labels[5] == 1).all() and (labels[7] == 2).all() and not labels[6].any()
