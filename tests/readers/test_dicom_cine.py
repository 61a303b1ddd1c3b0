"""Several phases, and several frames a file: every frame finds its place and its time, or the series is refused."""

import random
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_checks import OBLIQUE, check_linear, check_refused, read_series
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from convformer_monai.phantoms.dicom import (
    Identity,
    SliceStack,
    enhanced_image,
    linear_enhanced,
    linear_series,
    save_dataset,
    save_series,
)
from convformer_monai.phantoms.dicom.kinds import write_kind

PHASES = 4
ALL = tuple(range(PHASES))
TIMES = (12.5, 310.0, 570.25, 801.0)
ORDER = random.Random(1).sample(range(7 * PHASES), 7 * PHASES)


def cine(**options: object) -> list[Dataset]:
    """A cine whose files come in no order, and whose numbers mean nothing."""
    datasets = linear_series(OBLIQUE, modality="MR", phases=PHASES, phase_times_ms=TIMES, **options)
    datasets = [datasets[place] for place in ORDER]
    for dataset in datasets:
        dataset.InstanceNumber = 1
    return datasets


def without(*keywords: str) -> Callable[[list[Dataset]], None]:
    def change(datasets: list[Dataset]) -> None:
        for dataset in datasets:
            for keyword in keywords:
                del dataset[keyword]

    return change


def heart_rate_varies(datasets: list[Dataset]) -> None:
    """Each slice was taken in another breath hold."""
    for dataset in datasets:
        rate = 1 + 0.02 * np.sin(float(dataset.ImagePositionPatient[2]))
        dataset.TriggerTime = f"{float(dataset.TriggerTime) * rate:.3f}"


TIMING: dict[str, Callable[[list[Dataset]], None]] = {
    "all tags": lambda datasets: None,
    "trigger time": without("TemporalPositionIdentifier", "NumberOfTemporalPositions"),
    "temporal position": without("TriggerTime"),
    "heart rate varies": heart_rate_varies,
}


@pytest.mark.parametrize("per_level", [False, True], ids=["one series", "a series a level"])
@pytest.mark.parametrize("timing", TIMING.values(), ids=TIMING.keys())
def test_cine(tmp_path: Path, timing: Callable[[list[Dataset]], None], per_level: bool) -> None:
    datasets = cine(series_per_level=per_level)
    timing(datasets)
    save_series(datasets, tmp_path)
    series = read_series(tmp_path, phase="all")
    check_linear(series, OBLIQUE, ALL)
    if "TriggerTime" in datasets[0]:
        np.testing.assert_allclose(series.phase_times_ms, TIMES, rtol=0.03)


def test_phase_is_chosen(tmp_path: Path) -> None:
    save_series(cine(), tmp_path)
    for phase in ALL:
        series = read_series(tmp_path, phase=phase)
        check_linear(series, OBLIQUE, (phase,))
        np.testing.assert_allclose(series.phase_times_ms, TIMES[phase : phase + 1], atol=1e-3)
    check_refused(tmp_path, "SEVERAL_PHASES", "--phase", str(PHASES))
    check_refused(tmp_path, "PHASE_NOT_FOUND", phase=PHASES)


@pytest.mark.parametrize("phase", [-1, "ed", 1.5, True])
def test_wrong_phase_argument(tmp_path: Path, phase: object) -> None:
    save_series(cine(), tmp_path)
    with pytest.raises(ValueError, match="phase"):
        read_series(tmp_path, phase=phase)


def test_one_phase_needs_no_choice(tmp_path: Path) -> None:
    save_series(linear_series(OBLIQUE), tmp_path)
    for phase in (None, 0, "all"):
        check_linear(read_series(tmp_path, phase=phase), OBLIQUE)


def drop(level: int, phase: int) -> Callable[[list[Dataset]], list[Dataset]]:
    place = [f"{value:.3f}" for value in OBLIQUE.positions[level]]

    def change(datasets: list[Dataset]) -> list[Dataset]:
        kept = [
            dataset
            for dataset in datasets
            if [f"{float(v):.3f}" for v in dataset.ImagePositionPatient] != place
            or float(dataset.TriggerTime) != TIMES[phase]
        ]
        assert len(kept) == len(datasets) - 1
        return kept

    return change


@pytest.mark.parametrize("per_level", [False, True], ids=["one series", "a series a level"])
@pytest.mark.parametrize(("level", "phase"), [(0, 0), (3, 2), (6, 3)])
def test_incomplete_cine(tmp_path: Path, level: int, phase: int, per_level: bool) -> None:
    save_series(drop(level, phase)(cine(series_per_level=per_level)), tmp_path)
    check_refused(tmp_path, "INCOMPLETE_PHASES", f"slice {level} has 3 of 4", f"without {phase}", phase="all")
    check_refused(tmp_path, "INCOMPLETE_PHASES", phase=0)


def test_level_missing_in_a_cine(tmp_path: Path) -> None:
    datasets = linear_series(OBLIQUE, modality="MR", phases=2)
    del datasets[6:8]
    save_series(datasets, tmp_path)
    check_refused(tmp_path, "MISSING_SLICES", phase="all")


def test_frame_twice_in_a_cine(tmp_path: Path) -> None:
    datasets = linear_series(OBLIQUE, modality="MR", phases=2)
    for dataset in linear_series(OBLIQUE, modality="MR", phases=2):
        dataset.SOPInstanceUID = Identity().uid("copy", len(datasets))
        datasets.append(dataset)
    save_series(datasets, tmp_path)
    check_refused(tmp_path, "DUPLICATE_SLICES", phase="all")


def test_tilted_cine_resampled(tmp_path: Path) -> None:
    stack = SliceStack.regular(tilt=18, gaps=(4, 4, 4, 1.2, 7, 7))
    save_series(linear_series(stack, modality="MR", phases=2), tmp_path)
    check_refused(tmp_path, "UNEVEN_SPACING", phase="all")
    series = read_series(tmp_path, phase="all", resample_uneven=True)
    assert series.image.shape[0] == 2 and series.image.shape[3] > 7


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("phases", [1, PHASES])
@pytest.mark.parametrize("slopes", [(1.0,), (1.0, 0.5, 0.25)], ids=["one rescale", "a rescale a frame"])
def test_enhanced(tmp_path: Path, modality: str, phases: int, slopes: tuple[float, ...]) -> None:
    order = [place for place in ORDER if place < 7 * phases]
    dataset = linear_enhanced(OBLIQUE, modality=modality, phases=phases, slopes=slopes, order=order)
    path = save_dataset(dataset, tmp_path / "enhanced.dcm")
    for source in (path, tmp_path):
        series = read_series(source, phase="all", modality=modality)
        check_linear(series, OBLIQUE, tuple(range(phases)))
        numbers = [frame.number for frames in series.frames for frame in frames]
        assert sorted(number or 0 for number in numbers) == list(range(1, 7 * phases + 1))


def test_enhanced_tilted(tmp_path: Path) -> None:
    stack = SliceStack.regular(tilt=18)
    path = save_dataset(linear_enhanced(stack, order=[3, 1, 6, 0, 5, 2, 4]), tmp_path / "a file without extension")
    check_linear(read_series(path), stack)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless],
    ids=lambda syntax: syntax.keyword,
)
def test_enhanced_transfer_syntax(tmp_path: Path, syntax: UID) -> None:
    dataset = linear_enhanced(OBLIQUE, order=[3, 1, 6, 0, 5, 2, 4])
    check_linear(read_series(save_dataset(dataset, tmp_path / "a.dcm", transfer_syntax=syntax)), OBLIQUE)


def save_parts(folder: Path, **concatenation: object) -> None:
    """A volume split over three instances."""
    for number, part in enumerate((slice(0, 3), slice(3, 5), slice(5, 7)), start=1):
        stack = SliceStack(OBLIQUE.size, OBLIQUE.spacing, OBLIQUE.row, OBLIQUE.column, OBLIQUE.positions[part])
        dataset = linear_enhanced(stack)
        dataset.SOPInstanceUID = Identity().uid("part", number)
        if concatenation:
            dataset.InConcatenationNumber = number
        for keyword, value in concatenation.items():
            setattr(dataset, keyword, value)
        save_dataset(dataset, folder / f"{number}.dcm")


WITHOUT_TOTAL = {"ConcatenationUID": "1.2.3"}
CONCATENATION = {**WITHOUT_TOTAL, "InConcatenationTotalNumber": 3}


@pytest.mark.parametrize("concatenation", [{}, WITHOUT_TOTAL, CONCATENATION], ids=["files", "no total", "total"])
def test_enhanced_series_of_several_files(tmp_path: Path, concatenation: dict[str, object]) -> None:
    save_parts(tmp_path, **concatenation)
    check_linear(read_series(tmp_path), OBLIQUE)


@pytest.mark.parametrize(
    ("concatenation", "lost"),
    [(CONCATENATION, 3), (CONCATENATION, 1), (WITHOUT_TOTAL, 1)],
    ids=["the last", "the first", "the first, no total"],
)
def test_part_of_a_concatenation(tmp_path: Path, concatenation: dict[str, object], lost: int) -> None:
    """What is left is an evenly spaced volume."""
    save_parts(tmp_path, **concatenation)
    (tmp_path / f"{lost}.dcm").unlink()
    check_refused(tmp_path, "MISSING_SLICES", "2 of 3 parts")
    check_refused(tmp_path / "2.dcm", "MISSING_SLICES", "1 of")


def test_damaged_concatenation(tmp_path: Path) -> None:
    save_parts(tmp_path, **{**CONCATENATION, "InConcatenationTotalNumber": [3, 3]})
    check_refused(tmp_path, "DICOM_UNREADABLE")


def frame_groups(dataset: Dataset, index: int) -> Dataset:
    return dataset.PerFrameFunctionalGroupsSequence[index]


def lack_frame(dataset: Dataset) -> None:
    """The middle frame was left out, consistently."""
    size = dataset.Rows * dataset.Columns * 2
    dataset.PixelData = dataset.PixelData[: 3 * size] + dataset.PixelData[4 * size :]
    del dataset.PerFrameFunctionalGroupsSequence[3]
    dataset.NumberOfFrames = 6


def lack_groups(dataset: Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[3]


def lack_position(dataset: Dataset) -> None:
    del frame_groups(dataset, 3).PlanePositionSequence


def lack_spacing(dataset: Dataset) -> None:
    del frame_groups(dataset, 3).PixelMeasuresSequence


def lack_rescale(dataset: Dataset) -> None:
    del frame_groups(dataset, 3).PixelValueTransformationSequence


def same_place(dataset: Dataset) -> None:
    frame_groups(dataset, 3).PlanePositionSequence = frame_groups(dataset, 2).PlanePositionSequence


def zero_slope(dataset: Dataset) -> None:
    frame_groups(dataset, 3).PixelValueTransformationSequence[0].RescaleSlope = "0"


def other_spacing(dataset: Dataset) -> None:
    frame_groups(dataset, 3).PixelMeasuresSequence[0].PixelSpacing = ["2.0", "2.0"]


ENHANCED_FAULTS: list[tuple[Callable[[Dataset], None], set[str]]] = [
    (lack_frame, {"MISSING_SLICES"}),
    (lack_groups, {"NO_GEOMETRY", "DICOM_UNREADABLE"}),
    (lack_position, {"NO_GEOMETRY"}),
    (lack_spacing, {"NO_SPACING"}),
    (lack_rescale, {"RESCALE"}),
    (same_place, {"DUPLICATE_SLICES"}),
    (zero_slope, {"RESCALE"}),
    (other_spacing, {"GEOMETRY_DISAGREES"}),
]


@pytest.mark.parametrize(("fault", "codes"), ENHANCED_FAULTS, ids=[fault.__name__ for fault, _ in ENHANCED_FAULTS])
def test_enhanced_fault(tmp_path: Path, fault: Callable[[Dataset], None], codes: set[str]) -> None:
    dataset = linear_enhanced(OBLIQUE)
    fault(dataset)
    path = save_dataset(dataset, tmp_path / "enhanced.dcm")
    check_refused(path, codes, "enhanced.dcm" if codes != {"MISSING_SLICES"} else str(tmp_path))


def test_enhanced_incomplete_cine(tmp_path: Path) -> None:
    dataset = linear_enhanced(OBLIQUE, modality="MR", phases=2)
    lack_frame_of_cine = dataset.Rows * dataset.Columns * 2 * 13
    dataset.PixelData = dataset.PixelData[:lack_frame_of_cine]
    del dataset.PerFrameFunctionalGroupsSequence[13]
    dataset.NumberOfFrames = 13
    path = save_dataset(dataset, tmp_path / "enhanced.dcm")
    check_refused(path, "INCOMPLETE_PHASES", "slice 6 has 1 of 2", phase="all")


KINDS: dict[str, tuple[str, dict[str, tuple[object, object]]]] = {
    "echo": ("MREchoSequence", {"EffectiveEchoTime": (4.9, 9.8)}),
    "legacy echo": ("UnassignedPerFrameConvertedAttributesSequence", {"EchoTime": ("4.9", "9.8")}),
    "b-value": ("MRDiffusionSequence", {"DiffusionBValue": (0.0, 1000.0)}),
    "complex": ("MRImageFrameTypeSequence", {"ComplexImageComponent": ("MAGNITUDE", "PHASE")}),
    "frame type": ("MRImageFrameTypeSequence", {"FrameType": (["ORIGINAL", "PRIMARY"], ["DERIVED", "PRIMARY"])}),
    "kernel": ("CTReconstructionSequence", {"ConvolutionKernel": ("SOFT", "BONE")}),
}


def two_kinds(kind: str) -> Dataset:
    """Two frames of each place, of two kinds."""
    sequence, values = KINDS[kind]
    dataset = linear_enhanced(OBLIQUE, modality="MR", phases=2)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        item = Dataset()
        for keyword, both in values.items():
            setattr(item, keyword, both[frame.FrameContentSequence[0].TemporalPositionIndex - 1])
        frame.add_new(tag_for_keyword(sequence), "SQ", [item])
    return dataset


@pytest.mark.parametrize("kind", KINDS)
def test_enhanced_kinds_are_no_phases(tmp_path: Path, kind: str) -> None:
    """Echoes, b-values, magnitude and phase, kernels: only the order of the frames would tell them apart."""
    dataset = two_kinds(kind)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        del frame.CardiacSynchronizationSequence, frame.FrameContentSequence[0].TemporalPositionIndex
    check_refused(save_dataset(dataset, tmp_path / "enhanced.dcm"), "DUPLICATE_SLICES", phase="all")


def test_enhanced_files_of_two_components_are_no_phases(tmp_path: Path) -> None:
    for number, component in enumerate(("MAGNITUDE", "PHASE")):
        dataset = enhanced_image(OBLIQUE.linear_volume(2)[..., number], OBLIQUE)
        del dataset.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence
        dataset.ComplexImageComponent, dataset.InstanceNumber = component, number + 1
        dataset.SOPInstanceUID = Identity().uid("component", number)
        save_dataset(dataset, tmp_path / f"{number}.dcm")
    check_refused(tmp_path, "DUPLICATE_SLICES", phase="all")


@pytest.mark.parametrize("kind", KINDS)
def test_enhanced_cine_with_times_may_be_of_several_kinds(tmp_path: Path, kind: str) -> None:
    """Scanners mark single frames of a cine as derived."""
    path = save_dataset(two_kinds(kind), tmp_path / "enhanced.dcm")
    check_linear(read_series(path, phase="all"), OBLIQUE, (0, 1))


def test_heart(tmp_path: Path) -> None:
    """The cardiac phantom comes back voxel for voxel, on the grid of its truth."""
    folder, truth = write_kind("cardiac", tmp_path, num_phases=2)
    series = read_series(folder, phase="all", modality="MR")
    label = nib.load(truth)
    assert series.image.shape == (2, *label.shape[:3])
    np.testing.assert_allclose(series.affine, label.affine, atol=1e-3)
    inside = np.asarray(label.dataobj) == 3  # the blood is bright
    image = np.moveaxis(series.image.numpy(), 0, -1)
    assert image[inside].mean() > 2 * image[~inside].mean()
