from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from convformer_monai.errors import InputRefused
from convformer_monai.saving import SavePhotoMaskd
from convformer_monai.transforms import LoadPictureMaskd, NormalizeColoursd, ResizeToAread
from convformer_monai.transforms.photo import normalize_colours, size_of_area


@pytest.mark.parametrize("size", [(6000, 4000), (4000, 6000), (256, 192), (64, 48), (500, 500)])
def test_working_size_has_the_area_and_the_shape_of_the_picture(size):
    x, y = size_of_area(size, 19200)
    assert x * y == pytest.approx(19200, rel=0.02)
    assert x / y == pytest.approx(size[0] / size[1], rel=0.02)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (20000, 3)])
def test_very_narrow_pictures_get_a_size_that_a_network_can_take(size):
    x, y = size_of_area(size, 19200)
    assert min(x, y) >= 16 and x * y <= 2 * 19200


def photo(*size: int) -> MetaTensor:
    pixels = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    return MetaTensor(pixels, affine=torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64)))


def test_resizing_keeps_bytes_the_field_of_view_and_inverts():
    resize = ResizeToAread("image", area=3000)
    small = resize({"image": photo(120, 100)})["image"]
    assert small.dtype == torch.uint8 and small.shape == (3, 60, 50)
    assert torch.allclose(small.affine.diagonal()[:2], torch.tensor([-2.0, -2.0], dtype=torch.float64))
    back = resize.inverse({"image": small.float()})["image"]
    assert back.shape == (3, 120, 100)
    assert torch.allclose(back.affine.diagonal()[:2], torch.tensor([-1.0, -1.0], dtype=torch.float64))


def test_making_smaller_averages_instead_of_picking_pixels():
    board = torch.zeros(1, 100, 100)
    board[:, ::2] = 255
    small = ResizeToAread("image", area=900)({"image": MetaTensor(board)})["image"]
    assert small[:, 3:-3, 3:-3].std() < 15
    assert small.mean() == pytest.approx(127.5, abs=2)


def test_labels_stay_labels():
    label = MetaTensor((torch.rand(1, 90, 80) > 0.5).to(torch.uint8))
    assert set(ResizeToAread("label", 900, "nearest")({"label": label})["label"].unique().tolist()) <= {0, 1}


def test_volume_is_no_photograph():
    with pytest.raises(InputRefused, match="not a photograph"):
        ResizeToAread("image", area=900)({"image": MetaTensor(torch.zeros(1, 20, 20, 3))})


@pytest.mark.parametrize("arguments", [{"area": 10}, {"area": 900, "mode": "cubic"}])
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError, match="area must|mode must"):
        ResizeToAread("image", **arguments)


def test_colours_are_normalised_for_each_channel_and_picture():
    image = torch.rand(2, 3, 30, 20) * torch.tensor([200.0, 100.0, 50.0]).view(1, 3, 1, 1)
    done = NormalizeColoursd("image")({"image": image})["image"]
    assert torch.allclose(done.mean((2, 3)), torch.zeros(2, 3), atol=1e-5)
    assert torch.allclose(done.std((2, 3), correction=0), torch.ones(2, 3), atol=1e-4)
    assert torch.allclose(done[1], normalize_colours(image[1]), atol=1e-6)
    assert torch.allclose(done, normalize_colours(image * 0.7 + 9), atol=1e-4)


def test_picture_of_one_colour_becomes_zero():
    assert torch.equal(normalize_colours(torch.full((3, 8, 8), 77, dtype=torch.uint8)), torch.zeros(3, 8, 8))


@pytest.mark.parametrize(("mode", "top"), [("1", 1), ("L", 255), ("L", 1)])
def test_masks_of_every_kind_become_0_and_1(tmp_path: Path, mode: str, top: int):
    mask = np.zeros((6, 4), np.uint8)
    mask[1:3, 2] = 1
    picture = Image.fromarray(mask * (255 if mode == "1" else top))
    (picture.convert("1") if mode == "1" else picture).save(tmp_path / "m.png")
    label = LoadPictureMaskd("label")({"image": photo(4, 6), "label": str(tmp_path / "m.png")})["label"]
    np.testing.assert_array_equal(label[0], mask.T)


def test_no_path_means_nothing_to_label():
    volume = MetaTensor(torch.zeros(1, 5, 7, 1))
    label = LoadPictureMaskd("label")({"image": volume, "label": ""})["label"]
    assert label.shape == (1, 5, 7, 1) and not label.any()


@pytest.mark.parametrize(
    ("pixels", "code"),
    [(np.arange(24, dtype=np.uint8).reshape(6, 4), "NOT_A_MASK"), (np.zeros((5, 4), np.uint8), "GRIDS_DIFFER"),
     (np.zeros((6, 4, 3), np.uint8), "NOT_A_MASK")],
)  # fmt: skip
def test_other_pictures_are_no_masks(tmp_path: Path, pixels: np.ndarray, code: str):
    Image.fromarray(pixels).save(tmp_path / "m.png")
    with pytest.raises(InputRefused) as refusal:
        LoadPictureMaskd("label")({"image": photo(4, 6), "label": tmp_path / "m.png"})
    assert refusal.value.code == code


def test_damaged_mask_is_refused(tmp_path: Path):
    (tmp_path / "m.png").write_bytes(b"no picture")
    with pytest.raises(InputRefused, match="cannot be read"):
        LoadPictureMaskd("label")({"image": photo(4, 6), "label": tmp_path / "m.png"})


def test_written_mask_lies_upright_and_replaces(tmp_path: Path):
    mask = torch.zeros(1, 5, 3, dtype=torch.uint8)
    mask[0, 4, 0] = 1  # the pixel at the top right
    data = {"pred": MetaTensor(mask, meta={"filename_or_obj": "some/lesion.jpg"})}
    for _ in range(2):
        SavePhotoMaskd("pred", tmp_path / "new")(data)
    pixels = np.asarray(Image.open(tmp_path / "new" / "lesion_seg.png"))
    assert pixels.shape == (3, 5) and pixels[0, 4] == 255 and pixels.sum() == 255


def test_unknown_ending_is_refused():
    with pytest.raises(ValueError, match="output_ext"):
        SavePhotoMaskd("pred", "out", ".jpg")
