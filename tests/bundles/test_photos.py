"""The inference.json of the bundle that takes photographs, with random weights: any size, any form, upright."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bundle_kinds import Kind, blobs
from monai.bundle import ConfigWorkflow
from nifti_files import save
from PIL import Image

from convformer_monai.errors import find_refusal

pytestmark = pytest.mark.parametrize("kind", ["dermoscopy"], indirect=True)
Make = Callable[..., ConfigWorkflow]


def picture(x: int, y: int) -> Image.Image:
    return Image.fromarray((blobs(x, y, 3) * 255).astype(np.uint8).swapaxes(0, 1))


def segment(workflow: Make, images: list[Path], out: Path) -> list[np.ndarray]:
    workflow(datalist=list(map(str, images)), output_dir=str(out)).run()
    masks = [np.asarray(Image.open(out / f"{path.stem}_seg.png")) for path in images]
    assert all(set(np.unique(mask)) <= {0, 255} for mask in masks)
    return masks


def test_any_size_and_form(kind: Kind, workflow: Make, tmp_path: Path) -> None:
    sizes = [(640, 480), (480, 640), (33, 500), (1, 7), (3, 2), (1501, 999)]
    images = []
    for x, y in sizes:
        images.append(tmp_path / f"p{x}_{y}.png")
        picture(x, y).save(images[-1])
    images.append(tmp_path / "grey.jpg")
    picture(64, 48).convert("L").save(images[-1])
    images.append(tmp_path / "one colour.webp")
    Image.new("RGB", (64, 48), (200, 150, 130)).save(images[-1])
    for mask, (x, y) in zip(segment(workflow, images, tmp_path / "out"), [*sizes, (64, 48), (64, 48)], strict=True):
        assert mask.shape == (y, x)


def test_picture_on_its_side_gets_an_upright_mask(kind: Kind, workflow: Make, tmp_path: Path) -> None:
    upright = picture(120, 80)
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.png", exif=exif)
    first, second = segment(workflow, [tmp_path / "upright.png", tmp_path / "side.png"], tmp_path / "out")
    assert len(np.unique(first)) == 2
    np.testing.assert_array_equal(first, second)


def test_white_balance_and_exposure_do_not_matter(kind: Kind, workflow: Make, tmp_path: Path) -> None:
    pixels = np.asarray(picture(120, 80)).astype(float)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray((pixels * [0.9, 0.7, 0.6] + [20, 10, 5]).astype(np.uint8)).save(tmp_path / "b.png")
    first, second = segment(workflow, [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "out")
    assert len(np.unique(first)) == 2
    assert (first != second).mean() < 0.02


def test_mask_is_one_piece_without_holes(kind: Kind, workflow: Make, tmp_path: Path) -> None:
    from scipy import ndimage

    picture(300, 200).save(tmp_path / "a.png")
    (mask,) = segment(workflow, [tmp_path / "a.png"], tmp_path / "out")
    assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
    np.testing.assert_array_equal(ndimage.binary_fill_holes(mask), mask > 0)


def test_nifti_by_option(kind: Kind, workflow: Make, tmp_path: Path) -> None:
    picture(60, 40).save(tmp_path / "a.jpg")
    workflow(datalist=[str(tmp_path / "a.jpg")], output_dir=str(tmp_path), output_ext=".png,.nii.gz").run()
    png, nifti = np.asarray(Image.open(tmp_path / "a_seg.png")), nib.load(tmp_path / "a_seg.nii.gz")
    np.testing.assert_array_equal(np.asarray(nifti.dataobj).squeeze() * 255, png.T)


def test_volume_is_refused(kind: Kind, workflow: Make, tmp_path: Path) -> None:
    save(tmp_path / "volume.nii.gz", np.zeros((20, 20, 3), np.int16))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps it
        workflow(datalist=[str(tmp_path / "volume.nii.gz")], output_dir=str(tmp_path)).run()
    refusal = find_refusal(caught.value)
    assert refusal is not None and refusal.code == "WRONG_KIND"


@pytest.mark.slow
def test_photograph_of_24_megapixels_needs_little_memory(kind: Kind, workflow: Make, tmp_path: Path) -> None:
    small = picture(600, 400)
    small.resize((6000, 4000)).save(tmp_path / "large.jpg")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (mask,) = segment(workflow, [tmp_path / "large.jpg"], tmp_path / "out")
    assert mask.shape == (4000, 6000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1.5e6, "kilobytes"
