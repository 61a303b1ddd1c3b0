from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convformer_monai.errors import InputRefused
from convformer_monai.transforms import InPlaneOrientationd, LoadWindowedSliced


def item(path: Path, pixels: np.ndarray, extent_mm=100) -> dict:
    Image.fromarray(pixels).save(path)
    return {"image": str(path), "extent_mm": extent_mm, "window": [0, 80]}


def test_grey_levels_become_hounsfield_units_on_a_grid_in_mm(tmp_path):
    pixels = np.zeros((20, 50), np.uint8)
    pixels[3, 40] = 255
    pixels[5, 7] = 51
    image = LoadWindowedSliced("image")(item(tmp_path / "a.png", pixels))["image"]
    assert image.shape == (1, 50, 20, 1) and image.dtype == torch.float32
    assert image[0, 40, 3, 0] == 80 and image[0, 7, 5, 0] == pytest.approx(16)
    assert image.pixdim.tolist() == pytest.approx([2.0, 2.0, 5.0])


def test_extent_of_each_axis(tmp_path):
    case = item(tmp_path / "a.png", np.zeros((20, 50), np.uint8), [100, 60])
    image = LoadWindowedSliced("image")(case)["image"]
    assert image.pixdim.tolist()[:2] == pytest.approx([2.0, 3.0])


def test_picture_lies_as_radiologists_look_at_it(tmp_path):
    """So that nothing is flipped on the way to the network."""
    case = item(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (20, 50)).astype(np.uint8))
    image = LoadWindowedSliced("image")(case)["image"]
    oriented = InPlaneOrientationd("image")({"image": image})["image"]
    assert torch.equal(oriented.as_tensor(), image.as_tensor())


def test_colour_picture_is_refused(tmp_path):
    with pytest.raises(InputRefused, match="8-bit grey"):
        LoadWindowedSliced("image")(item(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8)))
    (tmp_path / "b.png").write_bytes(b"nothing")
    with pytest.raises(InputRefused, match="cannot be read"):
        LoadWindowedSliced("image")({"image": tmp_path / "b.png", "extent_mm": 1, "window": [0, 80]})
