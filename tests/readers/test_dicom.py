"""DICOM series that must be read: each voxel's value tells its place, so any wrong order, flip or scale shows."""

import base64
import json
import logging
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_checks import OBLIQUE, check_frames, check_linear, check_private, check_values, lps, read_series
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from convformer_monai.phantoms.dicom import (
    Identity,
    SliceStack,
    classic_series,
    linear_series,
    localizer,
    save_dataset,
    save_series,
)

STACKS = {
    "axial": SliceStack.regular(),
    "oblique": OBLIQUE,
    "sagittal": SliceStack.regular(angles=(0, 90, 0)),
    "feet first": SliceStack.regular(angles=(180, 0, 0)),
    "stacked downwards": OBLIQUE.reversed(),
    "isotropic": SliceStack.regular(spacing=(1, 1, 1)),
    "coarse": SliceStack.regular(shape=(33, 40, 4), spacing=(2.0, 0.6, 12.0), angles=(5, 6, 7)),
    "overlapping": SliceStack.regular(spacing=(0.8, 1.1, 0.4)),
}
SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
)


def upwards(stack: SliceStack) -> SliceStack:
    """The stack as the reader orders it: along the normal."""
    along = stack.positions @ stack.normal
    return stack if along[-1] >= along[0] else stack.reversed()


@pytest.mark.parametrize("name", STACKS)
def test_geometry(tmp_path: Path, name: str) -> None:
    save_series(linear_series(STACKS[name]), tmp_path)
    check_linear(read_series(tmp_path), upwards(STACKS[name]))


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_modality(tmp_path: Path, modality: str) -> None:
    save_series(linear_series(OBLIQUE, modality=modality), tmp_path)
    series = read_series(tmp_path, modality=modality)
    assert series.modality == modality and series.spacing_known and not series.is_photo and not series.warnings
    check_linear(series, OBLIQUE)


@pytest.mark.parametrize("name", STACKS)
def test_geometry_is_that_of_simpleitk(tmp_path: Path, name: str) -> None:
    save_series(linear_series(STACKS[name]), tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    theirs = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(theirs.GetDirection()).reshape(3, 3) * theirs.GetSpacing()
    affine[:3, 3] = theirs.GetOrigin()
    series = read_series(tmp_path)
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ series.affine, affine, atol=1e-3)
    np.testing.assert_array_equal(series.image[0].numpy(), sitk.GetArrayFromImage(theirs).transpose(2, 1, 0))


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_transfer_syntax(tmp_path: Path, syntax: UID, modality: str) -> None:
    save_series(linear_series(OBLIQUE, modality=modality), tmp_path, transfer_syntax=syntax)
    check_linear(read_series(tmp_path), OBLIQUE)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_negative_stored_values(tmp_path: Path, syntax: UID) -> None:
    stack = SliceStack.regular(first=(-120.0, -110.0, -50.0))  # about -2000 HU
    datasets = linear_series(stack)
    assert datasets[0].PixelRepresentation == 1
    save_series(datasets, tmp_path, transfer_syntax=syntax)
    series = read_series(tmp_path)
    assert series.image.min() < -1024
    check_values(series)


def test_htj2k(tmp_path: Path) -> None:
    """Nothing in the project encodes it, so the encoded slices of the default stack are kept beside this file."""
    streams = json.loads(Path(__file__).with_name("htj2k_slices.json").read_text())
    for number, (dataset, stream) in enumerate(zip(linear_series(), streams, strict=True)):
        dataset.PixelData = encapsulate([base64.b64decode(stream)])
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
        save_dataset(dataset, tmp_path / f"{number}.dcm")
    check_linear(read_series(tmp_path), SliceStack.regular())


def renumber(datasets: list[Dataset], numbers: list[int] | None) -> list[Dataset]:
    for index, dataset in enumerate(datasets):
        if numbers is None:
            del dataset.InstanceNumber
        else:
            dataset.InstanceNumber = numbers[index]
    return datasets


def shuffled(datasets: list[Dataset]) -> list[Dataset]:
    return random.Random(3).sample(datasets, len(datasets))


def jittered(datasets: list[Dataset]) -> list[Dataset]:
    rng = np.random.default_rng(0)
    for dataset in datasets:
        noisy = np.array(dataset.ImageOrientationPatient, dtype=float) + rng.uniform(-1e-5, 1e-5, 6)
        dataset.ImageOrientationPatient = [f"{value:.9f}" for value in noisy]
    return datasets


def setting(**attributes: object) -> Callable[[list[Dataset]], list[Dataset]]:
    def change(datasets: list[Dataset]) -> list[Dataset]:
        for dataset in datasets:
            for keyword, value in attributes.items():
                setattr(dataset, keyword, value)
        return datasets

    return change


HARMLESS: dict[str, Callable[[list[Dataset]], list[Dataset]]] = {
    "numbers reversed": lambda series: renumber(series, list(range(7, 0, -1))),
    "numbers shuffled": lambda series: renumber(series, [4, 2, 7, 1, 6, 3, 5]),
    "numbers equal": lambda series: renumber(series, [1] * 7),
    "numbers missing": lambda series: renumber(series, None),
    "files shuffled": shuffled,
    "orientation jitter": jittered,
    "slice location wrong": setting(SliceLocation="1.0"),
    "thickness wrong": setting(SliceThickness="9.0", SpacingBetweenSlices="9.0"),
    "inverted display": setting(PhotometricInterpretation="MONOCHROME1"),
    "window": setting(WindowCenter="40", WindowWidth="80"),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS.keys())
def test_harmless(tmp_path: Path, change: Callable[[list[Dataset]], list[Dataset]]) -> None:
    save_series(change(linear_series(OBLIQUE)), tmp_path)
    check_linear(read_series(tmp_path), OBLIQUE)


@pytest.mark.parametrize("name", ["{:04d}", "IM{}.IMA", "{:d}.1.2.840", "Größe ☢ {}.dcm", "a b {} [1] $x @y #z.dcm"])
def test_file_names(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "Ordner mit Ümläuten 心臓 $HOME @x"
    save_series(linear_series(OBLIQUE), folder, name=name)
    check_linear(read_series(folder), OBLIQUE)


def test_gantry_tilt(tmp_path: Path) -> None:
    stack = SliceStack.regular(tilt=18)
    save_series(linear_series(stack), tmp_path)
    series = read_series(tmp_path)
    check_linear(series, stack)
    assert abs(series.affine[:3, 1] @ series.affine[:3, 2]) > 0.5, "sheared"


def test_uneven_slices_resampled(tmp_path: Path) -> None:
    stack = SliceStack.regular(angles=(20, -15, 40), gaps=(2.5, 2.5, 2.5, 5, 5, 5))
    save_series(linear_series(stack), tmp_path)
    check_resampled(tmp_path, stack)


def test_tilted_uneven_slices_resampled(tmp_path: Path) -> None:
    stack = SliceStack.regular(tilt=18, gaps=(4, 4, 4, 1.2, 7, 7))
    save_series(linear_series(stack), tmp_path)
    check_resampled(tmp_path, stack)


def check_resampled(folder: Path, stack: SliceStack) -> None:
    """Values between slices are linear in the place, so that interpolation keeps them."""
    series = read_series(folder, resample_uneven=True)
    check_values(series)
    check_frames(series)
    assert len(series.frames[0]) == stack.shape[2]
    assert any(frame.slice_index % 1 for frame in series.frames[0])
    assert series.warnings, "the user should know that slices are not the scanner's"
    last = lps(series.affine, np.array([0, 0, series.image.shape[3] - 1.0]))
    step = np.linalg.norm(series.affine[:3, 2])
    assert np.linalg.norm(last - stack.positions[-1]) <= step + 1e-3, "the whole stack is covered"
    direction = stack.positions[-1] - stack.positions[0]
    sheared = series.affine[:3, 2] * [-1, -1, 1] / step
    np.testing.assert_allclose(sheared, direction / np.linalg.norm(direction), atol=1e-4)


def test_resampling_leaves_even_slices(tmp_path: Path) -> None:
    save_series(linear_series(OBLIQUE), tmp_path)
    check_linear(read_series(tmp_path, resample_uneven=True), OBLIQUE)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless, JPEG2000Lossless], ids=lambda s: s.keyword)
def test_padding_becomes_air(tmp_path: Path, syntax: UID) -> None:
    volume = OBLIQUE.linear_volume()
    x, y = np.meshgrid(np.linspace(-1, 1, 36), np.linspace(-1, 1, 32), indexing="ij")
    outside = np.hypot(x, y) > 1
    volume[outside] = np.nan
    datasets = classic_series(volume, OBLIQUE, modality="CT", padding=-2000)
    save_series(datasets, tmp_path, transfer_syntax=syntax)
    image = read_series(tmp_path).image[0].numpy()
    assert ((image[outside] >= -1024) & (image[outside] <= -1000)).all(), "air, not -3024 HU"
    assert np.abs(image[~outside] - volume[~outside]).max() <= 1


def test_identical_copies_are_dropped(tmp_path: Path) -> None:
    paths = save_series(linear_series(OBLIQUE), tmp_path)
    for number, path in enumerate(paths):
        shutil.copy(path, tmp_path / f"copy{number}")
    check_linear(read_series(tmp_path), OBLIQUE)


@pytest.mark.parametrize("series", [1, 99], ids=["in the series", "in a series of its own"])
def test_localizer_is_left_out(tmp_path: Path, series: int) -> None:
    save_series([localizer(OBLIQUE, identity=Identity(series=series)), *linear_series(OBLIQUE)], tmp_path)
    check_linear(read_series(tmp_path), OBLIQUE)


def test_other_files_are_left_out(tmp_path: Path) -> None:
    save_series(linear_series(OBLIQUE), tmp_path)
    (tmp_path / "LICENSE.txt").write_text("Anyone may read this.")
    (tmp_path / "Thumbs.db").write_bytes(bytes(5000))
    (tmp_path / ".DS_Store").write_bytes(b"Bud1")
    check_linear(read_series(tmp_path), OBLIQUE)


def test_series_is_picked(tmp_path: Path) -> None:
    other = SliceStack.regular(shape=(34, 40, 5))
    save_series(linear_series(OBLIQUE), tmp_path, name="a{}")
    save_series(linear_series(other, identity=Identity(series=2)), tmp_path, name="b{}")
    check_linear(read_series(tmp_path, series_uid=Identity(series=1).uid("series")), OBLIQUE)
    check_linear(read_series(tmp_path, series_uid=Identity(series=2).uid("series")), other)


@pytest.mark.parametrize("modality", ["PT", ("CT", "PT"), None])
def test_modality_allowed(tmp_path: Path, modality: str | tuple[str, ...] | None) -> None:
    save_series(linear_series(OBLIQUE, modality="PT", slope=1.7), tmp_path)
    check_linear(read_series(tmp_path, modality=modality), OBLIQUE)


def test_nothing_of_the_patient_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stack = SliceStack.regular(tilt=18, gaps=(4, 4, 4, 1.2, 7, 7))
    caplog.set_level(logging.DEBUG)
    save_series([*linear_series(stack), localizer(stack)], tmp_path)
    series = read_series(tmp_path, resample_uneven=True)
    check_private(caplog.text)
    check_private(repr(replace(series, image=None)))
    check_private(repr(series.image.meta) + repr(series.image.applied_operations))
