"""What the post-processing does for MONAI Label's stock app, and that it does nothing elsewhere."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, SaveImaged

from convformer_monai.bundle import BUNDLES, Bundle, component
from convformer_monai.errors import InputRefused
from convformer_monai.transforms import ForMonaiLabeld, NativeLabelsd

SHEARED = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0.2, 0], [0, 0, 5, 0], [0, 0, 0, 1]], dtype=torch.float64)


def case(*shape: int, channels: int = 1, affine: torch.Tensor | None = None) -> dict:
    """Labels on an image, as they come from MONAI Label."""
    image = MetaTensor(torch.zeros(channels, *shape[1:]), affine=affine)
    labels = MetaTensor(torch.ones(shape, dtype=torch.uint8), affine=affine)
    return {"image": image, "pred": labels, "image_path": "one.nii.gz"}


@pytest.mark.parametrize("name", list(BUNDLES))
def test_without_saving_and_inverting_the_bundles_give_class_probabilities(name: str) -> None:
    root = Bundle(name).root
    transforms = component(root, "inference", "postprocessing").transforms
    left = Compose([one for one in transforms if not isinstance(one, SaveImaged | Invertd)])
    photo = name == "dermoscopy"
    scores = torch.randn(4, 6, 5) if photo else torch.randn(2 * 4, 6, 5, 3)
    image = MetaTensor(torch.zeros(3, 6, 5) if photo else torch.zeros(2, 6, 5, 3))
    found = left({"image": image, "pred": scores, "image_path": "one"})["pred"]
    for phase, expected in zip(found.chunk(1 if photo else 2), scores.chunk(1 if photo else 2), strict=True):
        torch.testing.assert_close(phase.as_tensor(), expected.softmax(0))
    assert isinstance(found, MetaTensor), "MONAI Label takes NumPy's sum of it"


def test_other_programs_see_nothing_of_it() -> None:
    data = case(1, 6, 5, channels=3)
    del data["image_path"]
    for labels in (data["pred"], torch.randn(4, 6, 5)):
        data["pred"] = labels
        assert ForMonaiLabeld("pred", image_channels=3)(data) == data


def test_photographs_become_png() -> None:
    data = ForMonaiLabeld("pred", image_channels=3)(case(1, 6, 5, channels=3))
    assert data["pred"].shape == (6, 5) and data["result_extension"] == ".png"
    asked = {**case(1, 6, 5, channels=3), "result_extension": ".nrrd"}
    assert ForMonaiLabeld("pred", image_channels=3)(asked)["result_extension"] == ".nrrd"


def test_sheared_grids_become_nrrd() -> None:
    assert ForMonaiLabeld("pred")(case(1, 6, 5, 4, affine=SHEARED))["result_extension"] == ".nrrd"
    oblique = torch.eye(4, dtype=torch.float64)
    oblique[:2, :2] = torch.tensor([[0.8, -0.6], [0.6, 0.8]]) @ torch.diag(torch.tensor([2.0, 3.0]))
    assert "result_extension" not in ForMonaiLabeld("pred")(case(1, 6, 5, 4, affine=oblique))


def test_cines_are_refused() -> None:
    with pytest.raises(InputRefused, match="a cine of 2 phases"):
        ForMonaiLabeld("pred")(case(2, 6, 5, 4, channels=2))


def test_steps_run_as_one_inversion() -> None:
    steps = NativeLabelsd("pred", Compose([lambda data: {**data, "pred": data["pred"] + 1}] * 2))
    assert isinstance(steps, Invertd)
    assert steps({"pred": 1})["pred"] == 3
