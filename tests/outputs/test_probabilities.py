"""Maps of probabilities, beside the masks that come of the same scores."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from convformer_monai.bundle import Bundle
from convformer_monai.cohort import segment_cases
from convformer_monai.errors import InputRefused
from convformer_monai.outputs.writer import Options
from convformer_monai.phantoms import cardiac_phantom, dermoscopy_phantom
from convformer_monai.readers import read_series
from convformer_monai.readers.cases import find_cases
from convformer_monai.segmenter import Segmenter


def test_of_a_volume(tmp_path: Path) -> None:
    image, _ = cardiac_phantom(shape=(96, 96, 3), spacing=(1.8, 1.8, 10.0)).save(tmp_path, "x")
    out = tmp_path / "out"
    assert segment_cases(image, out, "cardiac", Options(probabilities=True), device="cpu", quiet=True).exit_code == 0
    found, mask = nib.load(out / "x_prob.nii.gz"), nib.load(out / "x_seg.nii.gz")
    assert found.header.get_data_dtype() == np.uint8 and np.array_equal(found.affine, mask.affine)
    values = found.get_fdata()
    assert 0 <= values.min() < 0.01 and 0.99 < values.max() <= 1 + 1e-6  # float32 in the header
    heart = np.asarray(mask.dataobj) > 0
    assert (values[heart] > 0.25).all()  # the best of four classes
    assert np.mean((values > 0.5) == heart) > 0.99
    with pytest.raises(InputRefused, match="holds no image"):  # the results are no images to segment again
        find_cases(out)


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
