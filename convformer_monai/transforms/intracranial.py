"""The inside of the skull in CT of the head, in three dimensions, without training.

1. A ball is rolled over the bone from outside. What it reaches lies outside of the head's bones; gaps narrower than the
   ball (sutures, a craniotomy, the openings of the face) keep it out.
2. Of the soft tissue that is left, what is farther from bone than a few millimetres falls into pieces: foramina and the
   fissures behind the orbits are narrower than that. The largest piece is the core of the intracranial space; grown
   back by as much, it reaches the bone again, so that a subdural hematoma along it lies inside.
3. Downwards from its largest slice the space ends where its area falls below that of the foramen magnum.

Beyond the first and the last slice these are taken as repeated, so a part of a head is as good as a whole one, and a
single slice is treated in two dimensions. Distances are in millimetres, so thick and thin slices look alike. In a
tilted gantry's slices the shear is not regarded: for these distances it does not matter.

Ours. Rolling a ball is a morphological closing of the bone (Serra, Image Analysis and Mathematical Morphology, 1982).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_numpy, convert_to_tensor
from numpy.typing import NDArray

from convformer_monai.transforms.confidence import CLASSES, make_impossible
from convformer_monai.transforms.doubt import add_evidence
from convformer_monai.transforms.geometry import slice_axis
from convformer_monai.transforms.postprocess import largest_part

__all__ = ["KeepIntracraniald", "intracranial_space"]

GRID_MM = 2.5  # of the grid that the space is found on
BONE_HU = 130.0
EDGE_HU = 110.0  # brighter pixels beside the bone are partly bone
SOFT_HU = -40.0
AIR_HU = -1000.0
BALL_MM = 32.0
NARROW_MM = 6.0  # half the width of what separates pieces
FORAMEN_MM2 = 1500.0
LEAST_MM2 = 3000.0  # of the largest slice of the space
FEW_SLICES_MM, MAIN_SHARE = 30.0, 0.8  # in so thin a stack the core must be this share of all pieces
HEAD_UP = 0.5  # cosine between the slice axis and the patient's, for axial slices


def intracranial_space(image: NDArray[Any], spacing: Sequence[float]) -> NDArray[np.bool_] | None:
    """Finds the inside of the skull.

    Args:
        image: (X, Y, Z) in Hounsfield units, axial slices from below upwards.
        spacing: of the voxels along X, Y and Z, mm.

    Returns:
        (X, Y, Z): brain, fluid, blood, meninges; without bone. None if there is no such space, e.g. in slices of the
        neck, or outside of a head; and in few slices near the base, where the fossae are pieces like any other.
    """
    factors = [max(1, round(GRID_MM / size)) for size in spacing]
    grid = [size * factor for size, factor in zip(spacing, factors, strict=True)]
    brightest, mean = _coarse(image, factors)
    bone = brightest > BONE_HU
    inner = (mean > SOFT_HU) & ~bone & ~_outside(bone, grid)
    padded = np.pad(inner, ((1, 1), (1, 1), (2, 2)), mode="edge")
    deep = _distance(padded, grid) > NARROW_MM
    core = largest_part(deep, corners=False)
    few_slices = spacing[2] * image.shape[2] < FEW_SLICES_MM
    if not core.any() or (few_slices and core.sum() < MAIN_SHARE * deep.sum()):
        return None
    space = (_distance(~core, grid) <= NARROW_MM + grid[0]) & padded
    space = space[1:-1, 1:-1, 2:-2]
    area = space.sum((0, 1)) * grid[0] * grid[1]
    lowest = widest = int(area.argmax())
    if area[widest] < LEAST_MM2:
        return None
    while lowest > 0 and area[lowest - 1] >= FORAMEN_MM2:
        lowest -= 1
    space[..., :lowest] = False
    space = largest_part(space, corners=False)
    for axis, factor in enumerate(factors):
        space = space.repeat(factor, axis)
    x, y, z = image.shape
    return _up_to_the_bone(space[:x, :y, :z], image, max(factors[:2]))


def _up_to_the_bone(space: NDArray[np.bool_], image: NDArray[Any], pixels: int) -> NDArray[np.bool_]:
    """Grows a space by some pixels in each slice, around bone but not through it."""
    from scipy import ndimage

    soft = (image > SOFT_HU) & (image < EDGE_HU)
    cross = ndimage.generate_binary_structure(2, 1)[..., None]
    grown: NDArray[np.bool_] = ndimage.binary_dilation(space, cross, iterations=pixels, mask=soft)
    return (grown | space) & (image < BONE_HU)


def _coarse(image: NDArray[Any], factors: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The brightest value and the mean of blocks of voxels."""
    (_, y, z), (a, b, c) = image.shape, factors
    shape = [-(-size // factor) for size, factor in zip(image.shape, factors, strict=True)]
    brightest, mean = [], []
    for row in range(shape[0]):  # by X: nothing of the size of the image is made
        few = image[row * a : (row + 1) * a]
        padded = np.pad(few, ((0, a - len(few)), (0, -y % b), (0, 0)), constant_values=AIR_HU)
        padded = np.pad(padded, ((0, 0), (0, 0), (0, -z % c)), mode="edge")
        blocks = padded.reshape(a, shape[1], b, shape[2], c)
        brightest.append(blocks.max((0, 2, 4)))
        mean.append(blocks.clip(AIR_HU, BONE_HU).mean((0, 2, 4)))
    return np.stack(brightest), np.stack(mean)


def _outside(bone: NDArray[np.bool_], grid: Sequence[float]) -> NDArray[np.bool_]:
    """What a ball reaches that comes from the sides and does not cross bone."""
    from scipy import ndimage

    around = [(int(np.ceil(BALL_MM / size)) + 2,) * 2 for size in grid]
    padded = np.pad(np.pad(bone, (*around[:2], (0, 0))), ((0, 0), (0, 0), around[2]), mode="edge")
    parts, _ = ndimage.label(_distance(~padded, grid) > BALL_MM)  # where the ball's centre fits
    sides = np.unique(np.concatenate([parts[[0, -1]].ravel(), parts[:, [0, -1]].ravel()]))
    reached = np.isin(parts, sides[sides > 0])
    outside = _distance(~reached, grid) <= BALL_MM - grid[0] / 2
    inner = tuple(slice(before, -after) for before, after in around)
    return outside[inner]


def _distance(mask: NDArray[np.bool_], grid: Sequence[float]) -> NDArray[np.float64]:
    """How far the voxels of a mask are from what is not in it, mm; everything, if it holds all."""
    from scipy import ndimage

    if mask.all():
        return np.full(mask.shape, np.inf)
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(mask, sampling=grid)
    return distance


class KeepIntracraniald(MapTransform):
    """Makes the structure impossible outside of the skull, and where the image is too bright for it.

    Where the space cannot be found, only the brightness counts: in slices that are not axial, in a single slice near
    the base, outside of a head. The evidence then has a ``skull_found`` of 0.

    Args:
        keys: scores (T * 2, X, Y, Z), phase-major, background before the structure.
        image_key: the image (T, X, Y, Z) in Hounsfield units, on the same grid, slices from below upwards.
        brightest: Hounsfield units above which nothing is blood. Clotted blood reaches 90 (a hematocrit of 100 percent
            would give 100); what is brighter is bone, calcification or metal.
        allow_missing_keys: do not fail if a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        brightest: float = 100.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.brightest = brightest

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Changes the scores of each phase."""
        result = dict(data)
        image = result[self.image_key]
        affine = np.asarray(image.affine, dtype=np.float64)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        volumes = convert_to_numpy(image)
        axial = slice_axis(affine, volumes.shape[1:]) == 2 and affine[2, 2] / spacing[2] > HEAD_UP
        found = True
        for key in self.key_iterator(result):
            scores = convert_to_tensor(result[key], track_meta=False).float().clone()
            for volume, phase in zip(volumes, scores.split(CLASSES), strict=True):
                space = intracranial_space(volume, spacing) if axial else None
                found = found and space is not None
                out = volume > self.brightest
                if space is not None:
                    out |= ~space
                make_impossible(phase, torch.from_numpy(out).to(phase.device))
            result[key] = convert_to_dst_type(scores, result[key])[0]
        add_evidence(result, skull_found=float(found))
        return result
