"""Maps of probabilities, beside the masks that come of the same scores."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from monai.transforms import LoadImage
from PIL import Image

from convformer_monai.bundle import Bundle
from convformer_monai.cohort import segment_cases
from convformer_monai.errors import InputRefused
from convformer_monai.outputs.probabilities import probability_image
from convformer_monai.outputs.writer import Options
from convformer_monai.phantoms import cardiac_phantom, dermoscopy_phantom, head_ct_phantom
from convformer_monai.readers import read_series
from convformer_monai.readers.cases import find_cases
from convformer_monai.segmenter import Segmenter


def test_class_axis_of_a_volume(tmp_path: Path) -> None:
    image, _ = cardiac_phantom(shape=(96, 96, 3), spacing=(1.8, 1.8, 10.0)).save(tmp_path, "x")
    out = tmp_path / "out"
    assert segment_cases(image, out, "cardiac", Options(probabilities=True), device="cpu", quiet=True).exit_code == 0
    found, mask = nib.load(out / "x_prob.nii.gz"), nib.load(out / "x_seg.nii.gz")
    assert found.header.get_data_dtype() == np.uint8 and np.array_equal(found.affine, mask.affine)
    assert found.shape == (96, 96, 3, 1, 3)
    values, labels = found.get_fdata()[..., 0, :], np.asarray(mask.dataobj)
    assert 0 <= values.min() < 0.01 and 0.99 < values.max() <= 1 + 1e-6  # float32 in the header
    assert values.sum(axis=-1).max() < 1.01
    background = 1 - values.sum(axis=-1, keepdims=True)
    best = np.concatenate([background, values], axis=-1).argmax(axis=-1)
    assert np.mean(best == labels) > 0.99
    for label in (1, 2, 3):
        assert np.mean(values[labels == label][:, label - 1]) > 0.8
    with pytest.raises(InputRefused, match="holds no image"):  # results are not segmented again
        find_cases(out)


def test_itk_and_monai_read_the_class_axis(tmp_path: Path) -> None:
    series = read_series(cardiac_phantom(shape=(20, 16, 4), spacing=(8.0, 8.0, 10.0)).save(tmp_path, "x")[0])
    values = np.random.default_rng(0).integers(0, 256, (3, 1, 20, 16, 4), dtype=np.uint8)
    path = tmp_path / "x_prob.nii.gz"
    probability_image(values, series).to_filename(path)
    read = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))  # (structures, phases, Z, Y, X)
    np.testing.assert_allclose(read.transpose(0, 1, 4, 3, 2), values / 255, atol=1e-6)
    loaded = LoadImage(image_only=True, ensure_channel_first=True)(path)
    np.testing.assert_allclose(np.squeeze(loaded.numpy()), values[:, 0] / 255, atol=1e-6)


def test_several_phases(tmp_path: Path) -> None:
    image, _ = cardiac_phantom(shape=(64, 64, 2), spacing=(2.4, 2.4, 10.0), num_phases=3).save(tmp_path, "x")
    segment_cases(image, tmp_path / "out", "cardiac", Options(probabilities=True), device="cpu", quiet=True)
    values = nib.load(tmp_path / "out" / "x_prob.nii.gz").get_fdata()
    labels = np.asarray(nib.load(tmp_path / "out" / "x_seg.nii.gz").dataobj)
    assert values.shape == (64, 64, 2, 3, 3)
    for phase in range(3):
        heart = labels[..., phase] > 0
        assert np.mean((values[..., phase, :].sum(axis=-1) > 0.5) == heart) > 0.98
    segment_cases(image, tmp_path / "es", "cardiac", Options(probabilities=True, phase="es"), device="cpu", quiet=True)
    one = nib.load(tmp_path / "es" / "x_prob.nii.gz").get_fdata()
    assert one.shape == (64, 64, 2, 1, 3) and any(np.array_equal(one[..., 0, :], values[..., p, :]) for p in range(3))


def test_one_structure_has_no_class_axis(tmp_path: Path) -> None:
    image, _ = head_ct_phantom(shape=(96, 96, 4), spacing=(2.3, 2.3, 8.0)).save(tmp_path, "x")
    segment_cases(image, tmp_path / "out", "hemorrhage", Options(probabilities=True), device="cpu", quiet=True)
    found = nib.load(tmp_path / "out" / "x_prob.nii.gz")
    mask = np.asarray(nib.load(tmp_path / "out" / "x_seg.nii.gz").dataobj) > 0
    assert found.shape == (96, 96, 4)
    assert not mask.any() or found.get_fdata()[mask].min() > 0.15  # the bundle's threshold is 0.2


def test_of_a_photograph(tmp_path: Path) -> None:
    image, _ = dermoscopy_phantom(size=(160, 120)).save(tmp_path, "x")
    segment_cases(image, tmp_path / "out", "dermoscopy", Options(probabilities=True), device="cpu", quiet=True)
    values = np.asarray(Image.open(tmp_path / "out" / "x_prob.png"))
    lesion = np.asarray(Image.open(tmp_path / "out" / "x_seg.png")) > 0
    assert values.shape == lesion.shape and np.mean((values > 127) == lesion) > 0.98


def test_without_being_asked_for_there_is_none(tmp_path: Path) -> None:
    image, _ = cardiac_phantom(shape=(64, 64, 2), spacing=(2.4, 2.4, 10.0)).save(tmp_path, "x")
    segment_cases(image, tmp_path / "out", "cardiac", Options(), device="cpu", quiet=True)
    assert not list((tmp_path / "out").glob("*_prob*"))


def test_a_bundle_without_the_step_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = cardiac_phantom(shape=(64, 64, 2), spacing=(2.4, 2.4, 10.0)).save(tmp_path, "x")
    config = Bundle("cardiac").read("inference")
    del config["native_probabilities"]
    monkeypatch.setattr(Bundle, "read", lambda *_: config)
    segmenter = Segmenter("cardiac", "cpu")
    with pytest.raises(InputRefused, match="no native_probabilities"):
        segmenter.run(read_series(image), probabilities=True)
