"""DICOM SEG read back: every voxel at its place, structures by their codes; what is not a mask is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_results import CASES, some_labels
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from convformer_monai.errors import InputRefused
from convformer_monai.outputs.dicom_seg import write_dicom_seg
from convformer_monai.readers.dicom.masks import find_dicom_masks, read_dicom_masks
from convformer_monai.tasks.cardiac import CARDIAC
from convformer_monai.tasks.hemorrhage import HEMORRHAGE


def places(labels: NDArray[np.uint8], affine: NDArray[np.float64]) -> dict[tuple[int, ...], int]:
    """What lies where: RAS in hundredths of a millimetre to the label."""
    index = np.argwhere(labels > 0)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    keys = map(tuple, np.round(points * 100).astype(int).tolist())
    return dict(zip(keys, labels[tuple(index.T)].tolist(), strict=True))


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A segmentation of a small CT-like series, with the heart's structures."""
    series = CASES["ct"].read(tmp_path / "in")
    return write_dicom_seg(tmp_path / "x_seg.dcm", some_labels(series), series, CARDIAC.labels)[0]


def change(path: Path, edit: Callable[[Dataset], object]) -> Path:
    dataset = dcmread(path)
    edit(dataset)
    dataset.save_as(path)
    return path


def refused(*paths: Path) -> InputRefused:
    with pytest.raises(InputRefused) as refusal:
        read_dicom_masks(paths, CARDIAC.labels)
    assert "\n" not in str(refusal.value)
    return refusal.value


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("name", ["ct", "downwards", "tilted", "oblique", "enhanced", "cine", "cine by level"])
def test_every_voxel_comes_back(name: str, kind: str, tmp_path: Path) -> None:
    series = CASES[name].read(tmp_path / "in")
    labels = some_labels(series)
    labels[-1, :, :, -2:] = 0  # the phases are stored from other slices to other slices
    folder = tmp_path / "out"
    folder.mkdir()
    write_dicom_seg(folder / "x_seg.dcm", labels, series, CARDIAC.labels, kind=kind)
    (folder / "notes.txt").write_text("no DICOM")
    if name == "tilted":  # a sheared grid is not a volume to highdicom
        assert refused(*find_dicom_masks(folder)).code == "NOT_A_MASK"
        return
    found = read_dicom_masks(find_dicom_masks(folder), CARDIAC.labels)
    assert found.phases == series.phases and found.warnings == ()
    np.testing.assert_allclose(found.affine[:3, :3], series.affine[:3, :3], atol=1e-3)  # axes as of the image
    assert found.grid[1:3] == series.grid[1:3]
    for mask, truth in zip(found.image.numpy().astype(np.uint8), labels, strict=True):
        read, written = places(mask, found.affine), places(truth, series.affine)
        assert len(read) == len(written)
        for (x, y, z), label in written.items():  # rounding may go either way
            near = [(x + i, y + j, z + k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]
            assert [read[place] for place in near if place in read] == [label]


def test_an_image_is_no_segmentation(tmp_path: Path) -> None:
    CASES["ct"].read(tmp_path / "in")
    assert find_dicom_masks(tmp_path / "in") == [] and find_dicom_masks(tmp_path / "nowhere") == []


def test_structures_are_known_by_code_not_by_number(one: Path) -> None:
    before = np.bincount(read_dicom_masks([one], CARDIAC.labels).image.numpy().astype(int).ravel(), minlength=4)

    def swap(dataset: Dataset) -> None:
        first, _, third = dataset.SegmentSequence
        first.SegmentedPropertyTypeCodeSequence, third.SegmentedPropertyTypeCodeSequence = (
            third.SegmentedPropertyTypeCodeSequence,
            first.SegmentedPropertyTypeCodeSequence,
        )

    after = np.bincount(
        read_dicom_masks([change(one, swap)], CARDIAC.labels).image.numpy().astype(int).ravel(), minlength=4
    )
    assert len(set(before.tolist())) == 4
    assert after.tolist() == before[[0, 3, 2, 1]].tolist()


def test_structures_without_a_code_are_known_by_name_and_others_are_left_out(one: Path) -> None:
    def rename(dataset: Dataset) -> None:
        for item, name in zip(dataset.SegmentSequence, ("Aorta", "myo", "Left Ventricle Cavity"), strict=True):
            item.SegmentedPropertyTypeCodeSequence[0].CodeValue = "85756007"  # Tissue, which 3D Slicer gives
            item.SegmentLabel = name

    series = read_dicom_masks([change(one, rename)], CARDIAC.labels)
    assert np.unique(series.image.numpy()).tolist() == [0, 2, 3]
    assert series.warnings == ("1 segments are not structures of the bundle and were left out",)


def test_no_structure_of_the_bundle(one: Path) -> None:
    with pytest.raises(InputRefused, match="intracranial hemorrhage") as refusal:
        read_dicom_masks([one], HEMORRHAGE.labels)
    assert refusal.value.code == "NOT_A_MASK"


def test_overlapping_segments(one: Path) -> None:
    assert refused(change(one, lambda dataset: fill(dataset))).code == "NOT_A_MASK"


def fill(dataset: Dataset) -> None:
    dataset.PixelData = b"\xff" * len(dataset.PixelData)


def test_phases_of_other_series_grids_and_numbers(tmp_path: Path) -> None:
    series = CASES["cine"].read(tmp_path / "in")
    paths = write_dicom_seg(tmp_path / "x_seg.dcm", some_labels(series), series, CARDIAC.labels)
    content = [path.read_bytes() for path in paths]
    for edit, code in (
        (lambda dataset: setattr(dataset, "SeriesInstanceUID", generate_uid()), "SEVERAL_SERIES"),
        (lambda dataset: setattr(dataset, "InstanceNumber", 1), "GRIDS_DIFFER"),
        (move, "GRIDS_DIFFER"),
    ):
        assert refused(paths[0], change(paths[1], edit)).code == code
        paths[1].write_bytes(content[1])
    assert read_dicom_masks([paths[2], paths[0]], CARDIAC.labels).phases == (0, 2)


def move(dataset: Dataset) -> None:
    for group in dataset.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [value + 0.4 for value in position]


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.99])
def test_cut_short(one: Path, kept: float) -> None:
    content = one.read_bytes()
    one.write_bytes(content[: int(kept * len(content))])
    assert refused(one).code in ("DICOM_UNREADABLE", "NOT_A_MASK")
