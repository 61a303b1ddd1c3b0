"""The DICOM phantoms: conform to the standard, and each stored value is what it should be by an independent reader."""

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.dataset import Dataset
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

from convformer_monai.cli import main
from convformer_monai.phantoms.dicom import (
    Identity,
    SliceStack,
    classic_series,
    enhanced_image,
    linear_enhanced,
    linear_series,
    linear_value,
    localizer,
    save_dataset,
    save_series,
)
from convformer_monai.phantoms.dicom.kinds import KINDS, write_kind
from convformer_monai.phantoms.dicom_photo import colour_chart, photograph_dataset

TILTED = SliceStack.regular(angles=(10, 20, 30), tilt=18)
SINGLE = ("enhanced-ct", "enhanced-mr", "dermoscopy")
SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
)


def padded_series() -> list[Dataset]:
    volume = TILTED.linear_volume()
    volume[:5] = np.nan
    return classic_series(volume, TILTED, modality="CT", padding=-2000)


CONFORM: dict[str, Dataset] = {
    "CT": linear_series(TILTED)[2],
    "CT padded": padded_series()[2],
    "MR": linear_series(TILTED, modality="MR")[2],
    "PET": linear_series(TILTED, modality="PT", slope=1.5)[2],
    "MR cine": linear_series(TILTED, modality="MR", phases=3)[4],
    "MR cine, a series a level": linear_series(TILTED, modality="MR", phases=3, series_per_level=True)[4],
    "CT localizer": localizer(TILTED),
    "MR localizer": localizer(TILTED, modality="MR"),
    "enhanced CT": linear_enhanced(TILTED, slopes=(1.0, 0.5)),
    "enhanced MR": linear_enhanced(TILTED, modality="MR"),
    "enhanced MR cine": linear_enhanced(TILTED, modality="MR", phases=3, order=range(20, -1, -1)),
    "photograph": photograph_dataset(),
    "photograph, JPEG": photograph_dataset(photometric="YBR_FULL_422", jpeg="ybr", pixel_spacing=0.05),
    "dermoscopic": photograph_dataset(dermoscopic=True),
    "dermoscopic, JPEG": photograph_dataset(photometric="YBR_FULL_422", jpeg="ybr", dermoscopic=True),
}


def errors(path: Path) -> list[str]:
    """What dicom3tools' checker calls an error (its exit code does not tell)."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy: apt-get install dicom3tools")
    run = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True)
    lines = (run.stdout + run.stderr).splitlines()
    assert any("Image" in line for line in lines), "it knows what the file is"
    return [line for line in lines if line.startswith("Error")]


@pytest.mark.parametrize("dataset", CONFORM.values(), ids=CONFORM.keys())
def test_conforms(tmp_path: Path, dataset: Dataset) -> None:
    assert errors(save_dataset(dataset, tmp_path / "a.dcm")) == []


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_conforms_in_every_transfer_syntax(tmp_path: Path, syntax: UID) -> None:
    path = save_dataset(linear_series()[0], tmp_path / "a.dcm", transfer_syntax=syntax)
    assert dcmread(path).file_meta.TransferSyntaxUID == syntax
    assert errors(path) == []


def test_the_checker_sees_errors(tmp_path: Path) -> None:
    dataset = linear_series()[0]
    del dataset.ImagePositionPatient
    assert errors(save_dataset(dataset, tmp_path / "a.dcm"))


@pytest.mark.parametrize("syntax", [*SYNTAXES, DeflatedExplicitVRLittleEndian], ids=lambda syntax: syntax.keyword)
def test_values_survive_every_transfer_syntax(tmp_path: Path, syntax: UID) -> None:
    datasets = linear_series(TILTED)
    paths = save_series(datasets, tmp_path, transfer_syntax=syntax)
    truth = TILTED.linear_volume()
    for level, path in enumerate(paths):
        stored = dcmread(path)
        assert stored.SOPInstanceUID == datasets[level].SOPInstanceUID
        assert np.abs(stored.pixel_array.T - 1024.0 - truth[..., level]).max() <= 0.5


def test_unknown_encoding(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError):
        save_dataset(linear_series()[0], tmp_path / "a.dcm", transfer_syntax=HTJ2KLossless)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_simpleitk_finds_each_value_in_its_place(tmp_path: Path, modality: str) -> None:
    """By SimpleITK's own geometry, so that neither our affine nor our reader vouches for the generator."""
    save_series(linear_series(SliceStack.regular(angles=(10, 20, 30)), modality=modality), tmp_path)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    image = sitk.ReadImage(names)
    for index in ((0, 0, 0), (35, 0, 0), (0, 31, 0), (0, 0, 6), (17, 9, 4)):
        place = image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index])
        assert abs(image.GetPixel(*index) - float(linear_value(place))) <= 1


def test_enhanced_frames_are_where_they_say(tmp_path: Path) -> None:
    order = [5, 0, 13, 2, 1, 3, 4, 6, 12, 11, 10, 9, 8, 7]
    dataset = dcmread(
        save_dataset(linear_enhanced(TILTED, phases=2, order=order, slopes=(1.0, 0.5)), tmp_path / "a.dcm")
    )
    assert dataset.pixel_array.shape == (14, 32, 36)
    for pixels, groups in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        phase = groups.FrameContentSequence[0].TemporalPositionIndex - 1
        rescale = groups.PixelValueTransformationSequence[0]
        value = pixels[0, 0] * rescale.RescaleSlope + rescale.RescaleIntercept
        assert abs(value - linear_value(place, phase)) <= 0.5


def test_tilt_shears_and_keeps_the_table_direction() -> None:
    level = SliceStack.regular()
    tilted = SliceStack.regular(tilt=18)
    np.testing.assert_allclose(tilted.positions, level.positions)
    assert np.degrees(np.arccos(tilted.normal @ level.normal)) == pytest.approx(18)
    np.testing.assert_allclose(tilted.affine @ [0, 0, 3, 1], [*(tilted.positions[3] * [-1, -1, 1]), 1])


def test_stack_of_an_affine() -> None:
    np.testing.assert_allclose(SliceStack.from_affine(TILTED.shape, TILTED.affine).points(), TILTED.points(), atol=1e-9)


def test_same_every_time_and_different_for_others() -> None:
    def uids(identity: Identity) -> list[str]:
        return [str(dataset.SOPInstanceUID) for dataset in linear_series(identity=identity, modality="MR", phases=2)]

    assert uids(Identity()) == uids(Identity())
    everyone = [Identity(), Identity(patient=2), Identity(study=2), Identity(series=2)]
    assert len({uid for identity in everyone for uid in uids(identity)}) == 4 * 14
    assert Identity(series=2).uid("study") == Identity().uid("study") != Identity(patient=2).uid("study")


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("modality must", lambda: linear_series(modality="US")),
        ("volume must have the shape", lambda: classic_series(np.zeros((3, 3, 3)), TILTED)),
        ("volume must fit 16 bits", lambda: classic_series(np.full(TILTED.shape, 70000), TILTED)),
        ("volume must fit 16 bits", lambda: classic_series(np.full(TILTED.shape, np.nan), TILTED)),
        ("phase_times_ms must", lambda: linear_series(modality="MR", phases=3, phase_times_ms=(0, 1))),
        ("slope must", lambda: linear_series(modality="MR", slope=2.0)),
        ("order must", lambda: linear_enhanced(order=[0, 1])),
        ("modality must", lambda: enhanced_image(np.zeros(TILTED.shape), TILTED, modality="PT")),
        ("gaps must", lambda: SliceStack.regular(gaps=(1, 2))),
        ("shape must", lambda: SliceStack.regular(shape=(0, 1, 2))),
        ("affine must", lambda: SliceStack.from_affine((2, 2, 2), np.eye(4) + np.eye(4, k=1))),
        ("evenly spaced", lambda: SliceStack.regular(gaps=(1, 2, 3, 4, 5, 6)).affine),
        ("jpeg must", lambda: photograph_dataset(jpeg="png")),
        ("photometric must", lambda: photograph_dataset(photometric="YBR_FULL_422")),
        ("kind must", lambda: write_kind("us", "nowhere")),
    ],
)
def test_wrong_arguments(message: str, make) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("photometric", "jpeg"), [("RGB", None), ("YBR_FULL", None), ("YBR_FULL_422", "ybr")])
def test_photograph_holds_its_colours(tmp_path: Path, photometric: str, jpeg: str | None) -> None:
    path = save_dataset(photograph_dataset(photometric=photometric, jpeg=jpeg), tmp_path / "a.dcm")
    difference = dcmread(path).pixel_array.astype(int) - colour_chart()  # pydicom makes RGB of YBR
    assert np.abs(difference[16::32, 16::32]).max() <= 3, "in the middle of each patch"


def test_palette(tmp_path: Path) -> None:
    dataset = dcmread(save_dataset(photograph_dataset(photometric="PALETTE COLOR"), tmp_path / "a.dcm"))
    tables = [
        np.frombuffer(dataset[f"{name}PaletteColorLookupTableData"].value, dtype="<u2")
        for name in ("Red", "Green", "Blue")
    ]
    colours = np.stack([table[dataset.pixel_array] for table in tables], axis=-1) // 257
    np.testing.assert_array_equal(colours, colour_chart())


@pytest.mark.parametrize("kind", KINDS)
def test_command(tmp_path: Path, kind: str) -> None:
    assert main(["phantom", "dicom", "--output_dir", str(tmp_path), "--kind", kind, "--num_phases", "2"]) == 0
    files = sorted(tmp_path.rglob("*.dcm"))
    assert len(files) == {"cine": 20, "cardiac": 20, "head-ct": 24}.get(kind, 1 if kind in SINGLE else 10)
    assert errors(files[-1]) == []
    if kind == "cardiac":
        truth = nib.load(tmp_path / "cardiac_truth.nii.gz")
        first = dcmread(files[0])
        assert truth.shape == (first.Columns, first.Rows, 10, 2)
        np.testing.assert_allclose(truth.affine[:3, 3] * [-1, -1, 1], first.ImagePositionPatient, atol=1e-3)


def test_command_refuses_an_unknown_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phantom", "dicom", "--output_dir", str(tmp_path), "--kind", "us"]) == 2
    assert "enhanced-ct" in capsys.readouterr().err
