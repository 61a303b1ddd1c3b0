"""The inside of the skull, against the formulas of the generated heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from convformer_monai.phantoms import head_ct_phantom
from convformer_monai.phantoms.head_ct.phantom import HeadCtPhantom
from convformer_monai.phantoms.head_ct.surfaces import Surfaces
from convformer_monai.transforms.intracranial import KeepIntracraniald, intracranial_space

THICK = {"shape": (144, 144, 26), "spacing": (1.6, 1.6, 5.0)}


def cavity(phantom: HeadCtPhantom) -> NDArray[np.bool_]:
    """What lies within the bone, by the phantom's formulas."""
    index = np.indices(phantom.image.shape).reshape(3, -1).T
    frame = phantom.anatomy.to_frame(index @ phantom.affine[:3, :3].T + phantom.affine[:3, 3])
    inside: NDArray[np.bool_] = (Surfaces.of(phantom.anatomy, frame).cavity < 0).reshape(phantom.image.shape)
    return inside


def without_a_bone_flap(image: NDArray[np.int16]) -> NDArray[np.int16]:
    opened = image.copy()
    window = opened[90:, 47:78, 13:]
    window[window > 90] = 30
    return opened


@pytest.mark.parametrize(
    ("options", "edit", "slices"),
    [
        pytest.param(THICK, None, slice(None), id="thick"),
        pytest.param({"shape": (144, 144, 70), "spacing": (1.6, 1.6, 1.9)}, None, slice(None), id="thin"),
        pytest.param({**THICK, "tilt_degrees": 20}, None, slice(None), id="tilted"),
        pytest.param({**THICK, "shape": (144, 144, 40)}, None, slice(None), id="with the neck"),
        pytest.param(THICK, without_a_bone_flap, slice(None), id="craniotomy"),
        pytest.param(THICK, None, slice(13, None), id="upper half"),
        pytest.param(THICK, None, slice(0, 13), id="lower half"),
        pytest.param(THICK, None, slice(15, 16), id="one slice"),
    ],
)
def test_the_space_is_that_of_the_phantom(
    options: dict[str, Any], edit: Callable[[NDArray[np.int16]], NDArray[np.int16]] | None, slices: slice
) -> None:
    phantom = head_ct_phantom(seed=3, bleeds=("subdural",), **options)
    image = edit(phantom.image) if edit else phantom.image
    image, truth, blood = image[..., slices], cavity(phantom)[..., slices], phantom.label[..., slices] > 0
    space = intracranial_space(image, np.linalg.norm(phantom.affine[:3, :3], axis=0))
    assert space is not None
    truth &= image < 200
    assert 2 * (space & truth).sum() / (space.sum() + truth.sum()) > 0.95
    assert (space & blood).sum() >= 0.95 * blood.sum()  # along the bone, where masks of the brain end too early


def test_without_a_skull_there_is_no_space() -> None:
    assert intracranial_space(np.full((120, 120, 10), -1000), (2.0, 2.0, 5.0)) is None
    low = head_ct_phantom(seed=9, **THICK).image[..., 4:5]
    assert intracranial_space(low, (1.6, 1.6, 5.0)) is None  # the fossae of one slice: which is the brain's?


def scores_of(image: NDArray[Any]) -> torch.Tensor:
    return torch.stack([torch.zeros(image.shape), torch.ones(image.shape)])  # blood everywhere


def test_blood_is_left_inside_only() -> None:
    phantom = head_ct_phantom(seed=3, **THICK)
    image = MetaTensor(torch.from_numpy(phantom.image[None].astype(np.float32)), affine=phantom.affine)
    kept = KeepIntracraniald("pred")({"image": image, "pred": scores_of(phantom.image)})["pred"]
    found = (kept[1] > kept[0]).numpy()
    assert found[phantom.label > 0].all() and not found[phantom.image > 100].any()
    assert not (found & ~cavity(phantom)).sum() > 0.05 * found.sum()


def test_slices_that_are_not_axial_lose_what_is_too_bright_only() -> None:
    phantom = head_ct_phantom(seed=3, **THICK)
    coronal = phantom.affine[:, [0, 2, 1, 3]] * np.array([1, 1, 4, 1])
    image = MetaTensor(torch.from_numpy(phantom.image[None].astype(np.float32)), affine=coronal)
    done = KeepIntracraniald("pred")({"image": image, "pred": scores_of(phantom.image)})
    kept = done["pred"]
    assert done["evidence"] == {"skull_found": 0.0}
    assert np.array_equal((kept[1] > kept[0]).numpy(), phantom.image <= 100)
