"""One slice or head of published head CT, read and prepared as what a pool of slices keeps.

The lists differ: 8-bit pictures of a brain window, slices in Hounsfield units, whole heads with the radiologists' word
on each slice, masks by experts or derived ones, complete or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, ResizeWithPadOrCrop, Transform
from monai.utils import convert_to_tensor
from nibabel.nifti1 import Nifti1Image
from torch import Tensor

from convformer_monai.readers import SeriesReader
from convformer_monai.readers.grids import check_grids
from convformer_monai.training.unknown import UNKNOWN
from convformer_monai.transforms.depth import slice_positions
from convformer_monai.transforms.photo import LoadPictureMaskd
from convformer_monai.transforms.windowed import LoadWindowedSliced

__all__ = ["HeadCTCase", "read_picture"]

AIR_HU, METAL_HU = -1000.0, 1000.0
CLOT_HU = 45.0  # brighter tissue may be the blood that an incomplete mask leaves out


class HeadCTCase(Transform):
    """Reads one slice or head and makes of it what a pool keeps.

    Args:
        sources: see :class:`convformer_monai.training.HeadCTPool`.
        resample: see :class:`convformer_monai.training.HeadCTPool`.
        silver_dir: see :class:`convformer_monai.training.HeadCTPool`.
        canvas: see :class:`convformer_monai.training.HeadCTPool`.
        distances: see :class:`convformer_monai.training.HeadCTPool`.
    """

    def __init__(
        self,
        sources: Mapping[str, Mapping[str, Any]],
        resample: Callable[[dict[str, Any]], dict[str, Any]],
        silver_dir: str | None,
        canvas: tuple[int, ...],
        distances: tuple[float, ...],
    ) -> None:
        self.sources, self.resample = sources, resample
        self.silver_dir, self.canvas, self.distances = silver_dir, canvas, distances
        self.load_volume = LoadImage(reader=SeriesReader(), ensure_channel_first=True)
        self.load_mask = LoadPictureMaskd("label")

    def described(self, section: str, case: Mapping[str, Any], masks: Mapping[str, str]) -> dict[str, Any]:
        """A case with its section, its silver mask and the experts' masks of its slices, by position."""
        silver = Path(self.silver_dir or "") / f"{case['id']}.nii.gz"
        positions = case["expert_slices"] or {}
        experts = {
            position: masks[f"{case['id']}_{position}"] for position in positions if f"{case['id']}_{position}" in masks
        }
        there = str(silver) if self.silver_dir and silver.is_file() else None
        return {**case, "section": section, "silver": there, "experts": experts}

    def __call__(self, case: dict[str, Any]) -> dict[str, Tensor]:
        """The slices of a case, see :meth:`described`.

        Returns:
            ``slices`` (S, X, Y), Hounsfield units, some of which lie between two; ``labels`` (Z, X, Y); ``neighbours``
            (Z, K), indices of slices; ``blood`` and ``free`` (Z,): is blood marked, and is nothing else than no blood.

        Raises:
            InputRefused: a file cannot be read.
        """
        data = self._loaded(case)
        if case["mask_complete"] is False:
            bright = (data["image"] > CLOT_HU) & (data["label"] == 0)
            data["label"][bright] = UNKNOWN
        data = self.resample({"image": data["image"], "label": data["label"]})
        spacing = float(np.linalg.norm(np.asarray(data["image"].affine)[:3, 2]))
        image = self._on_canvas(data["image"], AIR_HU).clamp(AIR_HU, METAL_HU).half()  # (Z, X, Y)
        label = self._on_canvas(data["label"], 0).byte()
        slices, neighbours = list(image), []
        for row in slice_positions(len(image), spacing, self.distances).tolist():
            neighbours.append([_index(slices, image, place) for place in row])
        flat = label.flatten(1)
        return {
            "slices": torch.stack(slices),
            "labels": label,
            "neighbours": torch.tensor(neighbours),
            "blood": (flat == 1).any(1),
            "free": (flat == 0).all(1),
        }

    def _loaded(self, case: dict[str, Any]) -> dict[Any, Any]:
        """Image in Hounsfield units and label, (1, X, Y, Z), on the grid of the file."""
        if case["image"].lower().endswith(".png"):
            return read_picture(case["section"], case, self.sources)
        image = self.load_volume(case["image"])
        return {"image": image, "label": MetaTensor(self._label(case, image), affine=image.affine)}

    def _label(self, case: dict[str, Any], image: MetaTensor) -> Tensor:
        """Label of a volume: its mask; or what is known of each slice of a head."""
        label = torch.zeros(image.shape, dtype=torch.uint8)
        if case["label"]:
            drawn = self.load_volume(case["label"])
            check_grids(case["id"], image, drawn)
            mask: Tensor = drawn.as_tensor() > 0
            return mask.byte()
        marked = set(case["blood_slices"] or [])
        for z in range(image.shape[3]):
            if {z - 1, z, z + 1} & marked:
                label[..., z] = UNKNOWN
        if marked and case["silver"]:
            mask = torch.from_numpy(np.asarray(Nifti1Image.from_filename(case["silver"]).dataobj).astype(np.uint8))
            for z in marked:
                label[0, ..., z] = mask[..., z]
        for position, z in (case["expert_slices"] or {}).items():
            drawn = case["experts"].get(position)
            if drawn and z is not None:
                picture = self.load_mask({"image": image[..., z : z + 1], "label": drawn})["label"]
                label[..., z] = picture[..., 0]
        return label

    def _on_canvas(self, volume: MetaTensor, value: float) -> Tensor:
        placed = ResizeWithPadOrCrop((*self.canvas, -1), value=value)(volume)
        return convert_to_tensor(placed, track_meta=False)[0].permute(2, 0, 1)  # type: ignore[no-any-return]


def _index(slices: list[Tensor], image: Tensor, place: float) -> int:
    """The index of a slice of an image (Z, X, Y), or of a new one that lies between two."""
    low = int(place)
    if place == low:
        return low
    slices.append(torch.lerp(image[low].float(), image[low + 1].float(), place - low).half())
    return len(slices) - 1


def read_picture(section: str, case: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]]) -> dict[Any, Any]:
    """Reads a slice that is an 8-bit picture, and its mask.

    Args:
        section: list of the datalist that it is in.
        case: ``image``, ``label`` (None for no blood), ``source`` and ``spacing`` (mm of a pixel; None if unknown).
        sources: see :class:`convformer_monai.training.HeadCTPool`.

    Returns:
        ``image`` in Hounsfield units and ``label``, both (1, X, Y, 1) with an affine in mm.

    Raises:
        InputRefused: if a file cannot be read.
        KeyError: if the source is not described.
    """
    source = sources[section if section in sources else case["source"]]
    data: dict[Any, Any] = {"image": case["image"], "label": case["label"], "window": source["window"]}
    data["extent_mm"] = source.get("extent_mm", 1.0)
    data = LoadPictureMaskd("label")(LoadWindowedSliced("image")(data))
    if case["spacing"]:
        affine = torch.as_tensor(data["image"].affine).clone()
        affine[:3, :2] *= float(case["spacing"]) / affine[:3, :2].norm(dim=0)
        data["image"].affine, data["label"].affine = affine, affine
    return data
