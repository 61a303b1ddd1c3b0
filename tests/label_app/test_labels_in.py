from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from convformer_monai.errors import InputRefused
from convformer_monai.label_app.labels_in import numbers_by_name, read_labels
from convformer_monai.label_app.masks_out import copy_for_viewer, write_for_viewer
from convformer_monai.readers import read_series
from convformer_monai.tasks.cardiac import CARDIAC
from convformer_monai.tasks.dermoscopy import DERMOSCOPY

AFFINE = np.array([[-1.4, 0.1, 0, 60], [0.1, 1.4, 0.2, -40], [0, -0.2, 8, 10], [0, 0, 0, 1.0]])
SHAPE = (20, 16, 6)


@pytest.fixture
def labels() -> np.ndarray:
    """A label map that no turn or flip leaves as it is."""
    values = np.zeros(SHAPE, np.uint8)
    values[3:9, 4:7, 1:3], values[10:12, 5:12, 2:5], values[14:18, 2:4, 4] = 1, 2, 3
    return values


@pytest.fixture
def series(tmp_path: Path):
    path = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), orthogonal()), path)
    return read_series(path)


def orthogonal() -> np.ndarray:
    """The affine above, its axes at right angles."""
    result = AFFINE.copy()
    q, r = np.linalg.qr(AFFINE[:3, :3])
    result[:3, :3] = (q * np.sign(np.diag(r))) * np.linalg.norm(AFFINE[:3, :3], axis=0)
    return result


def save(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SAR", "PIL"])
def test_turned_axes_are_turned_back(series, labels: np.ndarray, tmp_path: Path, codes: str) -> None:
    turned = nib.as_closest_canonical(nib.Nifti1Image(labels, orthogonal()))
    wanted = nib.orientations.axcodes2ornt(codes)
    turned = turned.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(turned.affine), wanted))
    path = save(tmp_path / "mask.nii.gz", np.asarray(turned.dataobj), turned.affine)
    assert np.array_equal(read_labels(path, series, CARDIAC.labels)[0], labels)


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".seg.nrrd"])
def test_what_viewers_get_comes_back_the_same(series, labels: np.ndarray, tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"mask{extension}"
    write_for_viewer(path, labels[None], series, CARDIAC.labels)
    assert np.array_equal(read_labels(path, series, CARDIAC.labels)[0], labels)


def test_a_tilted_gantry_survives_in_what_viewers_get(labels: np.ndarray, tmp_path: Path) -> None:
    tilted = orthogonal()
    tilted[:3, 2] += 0.3 * tilted[:3, 1]
    image = nib.Nifti1Image(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), None)
    image.header.set_sform(tilted, code=1)
    image.header.set_qform(None, code=0)
    image.header["pixdim"][1:4] = np.linalg.norm(tilted[:3, :3], axis=0)
    nib.save(image, tmp_path / "image.nii.gz")
    series = read_series(tmp_path / "image.nii.gz")
    copy = copy_for_viewer(series, tmp_path, "copy")
    write_for_viewer(tmp_path / "mask.nrrd", labels[None], series, CARDIAC.labels)
    assert copy.name == "copy.nrrd"
    for file in (copy, tmp_path / "mask.nrrd"):
        again = SimpleITK.ReadImage(str(file))
        for voxel in ((0, 0, 0), (19, 15, 5)):
            wanted = (tilted @ [*voxel, 1])[:3] * (-1, -1, 1)
            assert np.allclose(again.TransformIndexToPhysicalPoint(voxel), wanted, atol=1e-3)
    assert np.array_equal(read_labels(tmp_path / "mask.nrrd", series, CARDIAC.labels)[0], labels)


def test_an_upright_volume_is_copied_as_nifti(series, tmp_path: Path) -> None:
    copy = nib.load(copy_for_viewer(series, tmp_path, "copy"))
    assert np.allclose(copy.affine, series.affine) and np.allclose(copy.get_fdata(), series.image.numpy()[0])


def test_a_cropped_mask_is_put_in_its_place(series, labels: np.ndarray, tmp_path: Path) -> None:
    affine = orthogonal()
    affine[:3, 3] += affine[:3, :3] @ [2, 1, 1]
    path = save(tmp_path / "mask.nii.gz", np.ascontiguousarray(labels[2:, 1:, 1:]), affine)
    assert np.array_equal(read_labels(path, series, CARDIAC.labels)[0], labels)


def changed(what: str) -> np.ndarray:
    affine = orthogonal()
    if what == "half a voxel":
        affine[:3, 3] += 0.5 * affine[:3, 0]
    elif what == "outside":
        affine[:3, 3] += 12 * affine[:3, 0]
    elif what == "spacing":
        affine[:3, :3] *= 1.02
    elif what == "tilted":
        angle = np.deg2rad(3)
        affine[:3, :3] = (
            np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
            @ affine[:3, :3]
        )
    return affine


@pytest.mark.parametrize("what", ["half a voxel", "outside", "spacing", "tilted"])
def test_masks_of_another_grid_are_refused(series, labels: np.ndarray, tmp_path: Path, what: str) -> None:
    path = save(tmp_path / "mask.nii.gz", labels, changed(what))
    with pytest.raises(InputRefused, match="mask.nii.gz does not lie on the grid of its image") as refusal:
        read_labels(path, series, CARDIAC.labels)
    assert refusal.value.code == "LABEL_MISALIGNED"


def test_segments_are_known_by_name_not_by_number(series, labels: np.ndarray, tmp_path: Path) -> None:
    theirs = np.array([0, 30, 10, 20], np.uint8)[labels]
    path = save(tmp_path / "mask.nii.gz", theirs, orthogonal())
    info = [{"name": "MYO", "idx": 10}, {"name": "Left ventricle cavity", "idx": 20}, {"name": "rv", "id": 30}]
    assert np.array_equal(read_labels(path, series, CARDIAC.labels, info)[0], labels)


def test_values_count_in_order_where_no_number_is_given() -> None:
    assert numbers_by_name([{"name": "LV"}, {"name": "RV"}], CARDIAC.labels) == {1: 3, 2: 1}


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (None, "the values 7"),
        (
            [{"name": "Segment_1", "idx": 7}],
            "'Segment_1' is not a structure of this model; rename it to one of RV, MYO",
        ),
        ([{"idx": 7}], "None is not a structure"),
        ([{"name": "RV", "idx": 1}], "the values 7"),
    ],
)
def test_unknown_structures_are_refused(series, labels: np.ndarray, tmp_path: Path, info, text: str) -> None:
    path = save(tmp_path / "mask.nii.gz", np.where(labels == 1, 7, 0).astype(np.uint8), orthogonal())
    with pytest.raises(InputRefused, match=text) as refusal:
        read_labels(path, series, CARDIAC.labels, info)
    assert refusal.value.code == "LABEL_UNKNOWN"


def test_masks_of_photographs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    series = read_series(tmp_path / "photo.png")
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 30:50] = 1
    for name, values in (("a.png", mask), ("b.png", mask * np.uint8(255))):
        Image.fromarray(values).save(tmp_path / name)
        assert np.array_equal(read_labels(tmp_path / name, series, DERMOSCOPY.labels), mask.T)
    write_for_viewer(tmp_path / "c.nrrd", mask.T[None], series, DERMOSCOPY.labels)
    assert np.array_equal(read_labels(tmp_path / "c.nrrd", series, DERMOSCOPY.labels), mask.T)
    Image.fromarray(mask[:40]).save(tmp_path / "small.png")
    with pytest.raises(InputRefused, match=r"it has \(64, 40\) pixels, the photograph \(64, 48\)"):
        read_labels(tmp_path / "small.png", series, DERMOSCOPY.labels)


def test_formats_that_cannot_hold_a_mask_are_refused(series, labels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="a PNG holds no volume"):
        write_for_viewer(tmp_path / "mask.png", labels[None], series, CARDIAC.labels)
    with pytest.raises(InputRefused, match="masks are written as"):
        write_for_viewer(tmp_path / "mask.exe", labels[None], series, CARDIAC.labels)
