"""What MONAI Label's stock app for bundles needs of a bundle's post-processing.

The app runs the post-processing without ``SaveImaged``, writes the label map itself, and for its epistemic scores
leaves ``Invertd`` out as well and takes what remains for class probabilities. It sees subclasses of the two, but not
what a ``Compose`` holds.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, MapTransform
from monai.utils import convert_to_tensor

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["ForMonaiLabeld", "NativeLabelsd"]

REQUEST_KEY = "image_path"  # MONAI Label puts the path beside the image
RIGHT_ANGLES = 1e-4  # cosine: 0.01 voxels over 100 slices


class NativeLabelsd(Invertd):
    """Runs several transforms that make labels on the native grid of class scores, as one inversion.

    MONAI Label's epistemic scoring leaves it out as a whole: the scores stay as the network gave them.

    Args:
        keys: class scores, replaced by labels.
        steps: the transforms.
        allow_missing_keys: do not fail if a key is missing.
    """

    def __init__(self, keys: KeysCollection, steps: Compose, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, steps, allow_missing_keys=allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Runs the steps."""
        return dict(self.transform(data))


class ForMonaiLabeld(MapTransform):
    """Gives MONAI Label's stock app what it can write or score; in any other program it changes nothing.

    - Masks of photographs lose their channel axis, which would be taken for a slice, and are written as PNG unless the
      client asks for another format: the photograph's own may be JPEG, which blurs labels.
    - Labels on a sheared grid (a tilted gantry) are written as NRRD unless the client asks for another format: the
      app's NIfTI files have axes at right angles, and so would lie elsewhere.
    - Class scores, which are left where the app has taken the inversion out, become probabilities.
    - Labels of several phases are refused: the app would write them as something else.

    Args:
        keys: labels (T, X, Y, Z), of photographs (1, X, Y), uint8; or class scores (T * K, ...), floating point.
        orig_keys: the preprocessed image (T, ...); it tells the number of phases.
        image_channels: channels that one phase has: 3 of a photograph.
        allow_missing_keys: do not fail if a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        orig_keys: str = "image",
        image_channels: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orig_keys = orig_keys
        self.image_channels = image_channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Adapts each key if the data come from MONAI Label.

        Raises:
            InputRefused: if the labels have several phases.
        """
        result = dict(data)
        if REQUEST_KEY not in result:
            return result
        phases = int(result[self.orig_keys].shape[0]) // self.image_channels
        for key in self.key_iterator(result):
            if result[key].is_floating_point():
                result[key] = _probabilities(result[key], phases).copy_meta_from(result[self.orig_keys])
            elif phases > 1:
                raise InputRefused(
                    RefusalCode.SEVERAL_PHASES,
                    f"{result[REQUEST_KEY]} is a cine of {phases} phases; save one phase as an image of its own",
                )
            elif result[key].ndim == 3:
                result[key] = result[key][0]
                result["result_extension"] = result.get("result_extension") or ".png"
            elif _is_sheared(result[key].affine):
                result["result_extension"] = result.get("result_extension") or ".nrrd"
        return result


def _is_sheared(affine: torch.Tensor) -> bool:
    """Whether the axes of a grid are not at right angles, so far that a corner of it would lie elsewhere."""
    axes = affine[:3, :3].double() / affine[:3, :3].double().norm(dim=0)
    return bool((axes.T @ axes - torch.eye(3, dtype=torch.float64, device=axes.device)).abs().max() > RIGHT_ANGLES)


def _probabilities(scores: torch.Tensor, phases: int) -> MetaTensor:
    """Softmax over the classes of each phase of (T * K, ...); a MetaTensor, since the app takes NumPy's sum of it."""
    plain: torch.Tensor = convert_to_tensor(scores, track_meta=False)
    return MetaTensor(torch.cat([phase.float().softmax(dim=0) for phase in plain.chunk(phases)]))
