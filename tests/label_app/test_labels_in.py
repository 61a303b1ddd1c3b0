import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from convformer_monai.errors import InputRefused
from convformer_monai.label_app.labels_in import numbers_by_name, read_labels
from convformer_monai.label_app.masks_out import check_extension, copy_for_viewer, write_for_viewer
from convformer_monai.readers import ImageSeries, read_series
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


@pytest.fixture
def lesion() -> np.ndarray:
    """The mask (Y, X) of a photograph, which no turn leaves as it is."""
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 30:50] = 1
    return mask


@pytest.fixture
def photo(tmp_path: Path) -> ImageSeries:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return read_series(tmp_path / "photo.png")


def test_masks_of_photographs(photo: ImageSeries, lesion: np.ndarray, tmp_path: Path) -> None:
    white = lesion * np.uint8(255)
    for name, picture in (
        ("a.png", Image.fromarray(lesion)),
        ("b.png", Image.fromarray(white)),
        ("c.png", Image.fromarray(np.repeat(white[..., None], 3, axis=2))),
        ("d.png", Image.fromarray(white).convert("P")),
    ):
        picture.save(tmp_path / name)
        assert np.array_equal(read_labels(tmp_path / name, photo, DERMOSCOPY.labels), lesion.T)
    for ending in (".nrrd", ".seg.nrrd", ".nii.gz", ".nii"):
        write_for_viewer(tmp_path / f"e{ending}", lesion.T[None], photo, DERMOSCOPY.labels)
        assert np.array_equal(read_labels(tmp_path / f"e{ending}", photo, DERMOSCOPY.labels), lesion.T)
    for compressed in (True, False):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(lesion), str(tmp_path / "f.nrrd"), compressed)
        assert np.array_equal(read_labels(tmp_path / "f.nrrd", photo, DERMOSCOPY.labels), lesion.T)
    Image.fromarray(lesion[:40]).save(tmp_path / "small.png")
    with pytest.raises(InputRefused, match=r"it has \(64, 40\) pixels, the photograph \(64, 48\)"):
        read_labels(tmp_path / "small.png", photo, DERMOSCOPY.labels)


def header(**changed: str) -> bytes:
    """The header of an NRRD picture, with other values of some fields."""
    fields = {"type": "unsigned char", "dimension": "2", "sizes": "64 48", "encoding": "raw"} | {
        name.replace("_", " "): value for name, value in changed.items()
    }
    return ("NRRD0004\n" + "".join(f"{name}: {value}\n" for name, value in fields.items()) + "\n").encode()


def turned(directions: str) -> bytes:
    return header(space_dimension="2", space_directions=directions, space_origin="(0,0)")


PIXELS = bytes(64 * 48)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("endless.mha", b"ObjectType = Image\nNDims = 999999999999999\n"),
        ("x.nhdr", header(data_file="secret.bin")),
        ("detached.nrrd", header(data_file="secret.bin")),
        ("detached.nrrd", header(datafile="secret.bin")),
        ("list.nrrd", header(data_file="LIST")),
        ("large.nrrd", header(sizes="20000 20000", encoding="gzip") + gzip.compress(bytes(1000))),
        ("bomb.nrrd", header(encoding="gzip") + gzip.compress(PIXELS + bytes(1000))),
        ("short.nrrd", header() + PIXELS[1:]),
        ("swapped.nrrd", header(sizes="48 64") + PIXELS),
        ("volume.nrrd", header(dimension="3", sizes="64 48 2") + 2 * PIXELS),
        ("more_axes.nrrd", header(dimension="999999999") + PIXELS),
        ("vectors.nrrd", header(dimension="3", sizes="64 48 1", kinds="domain domain RGB-color") + PIXELS),
        ("skip.nrrd", header(byte_skip="-1") + PIXELS),
        ("text.nrrd", header(encoding="ascii") + PIXELS),
        (
            "half_turn.nrrd",
            turned("(-1,0) (0,-1)") + PIXELS,
        ),
        ("mirrored.nrrd", turned("(1,0) (0,-1)") + PIXELS),
        ("transposed.nrrd", turned("(0,1) (1,0)") + PIXELS),
        ("not_numbers.nrrd", header(space_dimension="2", space_directions="(nan,0) (0,1)") + PIXELS),
        ("negative.nrrd", header(spacings="-1 -1") + PIXELS),
        ("picture.bmp", b"BM"),
        ("picture.jpg", b"\xff\xd8\xff"),
        ("empty.png", b""),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x40\0\0\0\x30\x08\0"),
        ("bomb.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\0\0\0\0"),
    ],
)
def test_files_that_are_no_mask_of_a_photograph_are_refused_unread(
    photo: ImageSeries, tmp_path: Path, name: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None reaches SimpleITK's reader, which follows headers anywhere, but those that must be looked at for a turn."""
    (tmp_path / "secret.bin").write_bytes(PIXELS)
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(SimpleITK, "ReadImage", None)
    with pytest.raises(InputRefused) as refusal:
        read_labels(tmp_path / name, photo, DERMOSCOPY.labels)
    assert name in refusal.value.message and "\n" not in refusal.value.message


def test_turned_nifti_of_a_photograph_is_refused(photo: ImageSeries, lesion: np.ndarray, tmp_path: Path) -> None:
    for axes in ((1, 1, 1), (-1, 1, 1), (1, -1, 1)):
        path = save(tmp_path / "mask.nii.gz", np.ascontiguousarray(lesion.T[..., None]), np.diag([*axes, 1.0]))
        with pytest.raises(InputRefused, match="it is turned or mirrored"):
            read_labels(path, photo, DERMOSCOPY.labels)


def test_masks_with_colours_or_holes_to_look_through_are_refused(
    photo: ImageSeries, lesion: np.ndarray, tmp_path: Path
) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = lesion * 255
    clear = np.full((48, 64, 4), 255, np.uint8)
    clear[..., 3] = lesion * 255
    for pixels in (red, clear):
        Image.fromarray(pixels).save(tmp_path / "mask.png")
        with pytest.raises(InputRefused, match="send a grey picture"):
            read_labels(tmp_path / "mask.png", photo, DERMOSCOPY.labels)


@pytest.mark.parametrize("extension", [".exe", "/x.png", "/../x.nii.gz", "\0", "", 5, [".png"]])
def test_unknown_endings_are_refused(extension: object) -> None:
    with pytest.raises(InputRefused, match="masks are written as") as refusal:
        check_extension(extension, True)
    assert refusal.value.code == "OPTION"


def test_a_png_is_for_photographs() -> None:
    assert check_extension(".png", True) == ".png" and check_extension(".seg.nrrd", False) == ".seg.nrrd"
    with pytest.raises(InputRefused, match="a PNG holds no volume"):
        check_extension(".png", False)
