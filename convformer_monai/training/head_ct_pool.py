"""All slices of head CT that there are, from lists of different kinds, as one pool in Hounsfield units at one spacing.

The lists differ: 8-bit pictures of a brain window, slices in Hounsfield units, whole heads with the radiologists' word
on each slice, masks by experts or derived ones, complete or not. Here each becomes slices (below, itself, above) with a
label of 0, 1, or :data:`UNKNOWN`, the name of its group, its patient and its fold. Folds are by patient over all lists.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, ResizeWithPadOrCrop
from monai.utils import convert_to_tensor
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray
from torch import Tensor

from convformer_monai.datalist import datalist_path, read_cases, read_lists
from convformer_monai.readers import SeriesReader
from convformer_monai.readers.grids import check_grids
from convformer_monai.training.draws import draw
from convformer_monai.training.folds import assign_folds
from convformer_monai.training.unknown import UNKNOWN
from convformer_monai.transforms.depth import slice_positions
from convformer_monai.transforms.photo import LoadPictureMaskd
from convformer_monai.transforms.windowed import LoadWindowedSliced

__all__ = ["HeadCTPart", "HeadCTPool", "head_ct_folds", "read_picture"]

logger = logging.getLogger(__name__)

AIR_HU, METAL_HU = -1000.0, 1000.0
CLOT_HU = 45.0  # brighter tissue may be the blood that an incomplete mask leaves out
KEPT = ("spacing", "mask_complete", "blood", "blood_slices", "expert_slices")
SHAPE_COLOURS = {7: 1, 2: 2, 4: 3, 1: 4, 6: 5}  # red, green, blue as bits: bone, brain, blood, ventricle, other


class HeadCTPart(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Some slices of a pool, each with the probability of being drawn.

    Args:
        pool: where they are.
        indices: which.
        weights: one for each; they need not add up to 1.
    """

    def __init__(self, pool: HeadCTPool, indices: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
        self.pool = pool
        self.indices = torch.from_numpy(indices)
        self.base = torch.from_numpy(weights)
        self.weights = self.base.clone()

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.indices)

    def __getitem__(self, index: int | Tensor) -> dict[str, Tensor]:
        """``image`` (..., C, X, Y), Hounsfield units, and ``label`` (..., 1, X, Y)."""
        return self.pool.take(self.indices[index])

    def state_dict(self) -> dict[str, Tensor]:
        """How much more often each slice is drawn than at first, for a checkpoint."""
        return {"raised": self.weights / self.base}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Draw as ``state`` says, unless it is of another number of slices."""
        if len(state["raised"]) == len(self.base):
            self.weights = self.base * state["raised"].cpu()

    def draw(self, count: int) -> dict[str, Tensor]:
        """A batch drawn with replacement, by weight."""
        return self[draw(lambda total: torch.multinomial(self.weights, total, replacement=True), count)]


class HeadCTPool:
    """Slices of head CT with their neighbours, in memory.

    Args:
        dataset_dir: see :func:`convformer_monai.datalist.read_cases`; sections that it does not have are left out.
        sections: lists of slices or whole heads to take; see the module.
        sources: ``extent_mm`` and ``window`` of 8-bit pictures, by section, or by source for sections of several; a
            picture with ``spacing`` in the datalist needs only ``window``.
        resample: brings ``image`` and ``label`` (1, X, Y, Z) to the network's orientation and spacing.
        silver_dir: folder with a mask ``<id>.nii.gz`` (0, 1, :data:`UNKNOWN`) for whole heads, for the slices that are
            known to show blood; None leaves these slices unknown, but where an expert drew.
        shapes: section of label maps of heads, for painting; empty for none.
        canvas: (X, Y) that every slice is padded or cropped to.
        distances: of the neighbours, mm.
        folds: how many.
        seed: of the folds.
        cache: file that keeps the pool: read if it exists, else written; None for none.
        device: where the slices are kept.
    """

    def __init__(
        self,
        dataset_dir: object,
        sections: Sequence[str],
        sources: Mapping[str, Mapping[str, Any]],
        resample: Callable[[dict[str, Any]], dict[str, Any]],
        silver_dir: str | None = None,
        shapes: str = "cq500_shapes",
        canvas: Sequence[int] = (256, 256),
        distances: Sequence[float] = (-5.0, 0.0, 5.0),
        folds: int = 5,
        seed: int = 0,
        cache: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.canvas = tuple(int(side) for side in canvas)
        self.distances = tuple(float(distance) for distance in distances)
        self.device = torch.device(device)
        if cache is not None and Path(cache).is_file():
            content = torch.load(cache, map_location="cpu", weights_only=True)
        else:
            content = _Builder(dataset_dir, sources, resample, silver_dir, self.canvas, self.distances).build(
                sections, shapes
            )
            if cache is not None:
                torch.save(content, cache)
        self.slices: Tensor = content["slices"].to(self.device)  # (S, X, Y)
        self.labels: Tensor = content["labels"].to(self.device)  # (N, X, Y)
        self.neighbours: Tensor = content["neighbours"].to(self.device)  # (N, K), indices of slices
        self.shapes: Tensor = content["shapes"].to(self.device)  # (M, X, Y)
        self.groups = np.array(content["groups"], dtype=str)
        self.patients = np.array(content["patients"], dtype=str)
        self.ids = np.array(content["ids"], dtype=str)
        self.complete = np.array(content["complete"], dtype=bool)
        own = [{"source": group, "patient": name} for group, name in zip(self.groups, self.patients, strict=True)]
        others = [{"source": "shapes", "patient": name} for name in content["shape_patients"]]
        folds_by_patient = _folds([*own, *others], folds, seed)
        self.folds = np.array([folds_by_patient[case["patient"]] for case in own])
        self.shape_folds = np.array([folds_by_patient[case["patient"]] for case in others])
        flat = self.labels.flatten(1)
        self.blood = (flat == 1).any(1).cpu().numpy()
        self.free = (flat == 0).all(1).cpu().numpy()
        logger.info("%d slices, %d with blood, %d free of it", len(self.labels), self.blood.sum(), self.free.sum())

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        """Slices by index: ``image`` (..., K, X, Y) and ``label`` (..., 1, X, Y)."""
        indices = indices.to(self.device)
        return {"image": self.slices[self.neighbours[indices]], "label": self.labels[indices][..., None, :, :]}

    def part(
        self, shares: Mapping[str, float], blood: bool | None, fold: int | None = None, held_out: bool = False
    ) -> HeadCTPart:
        """Slices of some groups, each group drawn as often as its share says.

        Args:
            shares: by group; a group is ``section/source`` where the cases name a source, and a section alone stands
                for all of its groups. Groups without slices are left out.
            blood: those with blood, or those free of it; None for all.
            fold: to leave out; None for none.
            held_out: only that fold, and of it only slices without unknown pixels.

        Raises:
            ValueError: if nothing is left.
        """
        chosen = np.ones(len(self.groups), bool) if blood is None else self.blood if blood else self.free
        if fold is not None:
            chosen = chosen & ((self.folds == fold) == held_out)
        if held_out:
            chosen = chosen & self.complete
        weights = np.zeros(len(self.groups))
        for group, share in shares.items():
            members = chosen & ((self.groups == group) | np.char.startswith(self.groups, f"{group}/"))
            weights[members] = share / max(1, members.sum())
        indices = np.flatnonzero(weights)
        if not len(indices):
            there = ", ".join(sorted(set(self.groups)))
            raise ValueError(f"shares and fold {fold} leave no slice of {', '.join(shares)}; there is {there}")
        return HeadCTPart(self, indices, weights[indices])

    def maps(self, fold: int | None = None) -> Tensor:
        """The label maps (M, X, Y) of the patients that are not in a fold."""
        kept = np.ones(len(self.shape_folds), bool) if fold is None else self.shape_folds != fold
        return self.shapes[torch.from_numpy(kept).to(self.device)]


def head_ct_folds(
    dataset_dir: object, sections: Sequence[str], shapes: str = "cq500_shapes", folds: int = 5, seed: int = 0
) -> dict[str, int]:
    """The fold of each patient, as :class:`HeadCTPool` with the same arguments has it, without reading an image."""
    there = read_lists(dataset_dir)
    named = []
    for section in (name for name in sections if name in there):
        cases = read_cases(dataset_dir, section, without_labels=True, patient_from_id=False)
        named += [_named(section, case, number, len(cases)) for number, case in enumerate(cases)]
    named += [("shapes", _patient(entry["patient"])) for entry in there.get(shapes, [])]
    return _folds([{"source": group, "patient": patient} for group, patient in named], folds, seed)


def read_picture(section: str, case: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]]) -> dict[Any, Any]:
    """Reads a slice that is an 8-bit picture, and its mask.

    Args:
        section: list of the datalist that it is in.
        case: ``image``, ``label`` (None for no blood), ``source`` and ``spacing`` (mm of a pixel; None if unknown).
        sources: see :class:`HeadCTPool`.

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


def _named(section: str, case: Mapping[str, Any], number: int, count: int) -> tuple[str, str]:
    """Group and patient of a case.

    Patients without a name may be neighbours of one scan: runs of consecutive ones count as one patient.
    """
    group = f"{section}/{case['source']}" if case["source"] else section
    return group, case["patient"] or f"{section}_run{number * 10 // count}"


def _folds(cases: Sequence[Mapping[str, str]], folds: int, seed: int) -> dict[str, int]:
    """The fold of each patient, whichever lists the patient is in; the first group that names the patient counts."""
    first: dict[str, dict[str, str]] = {}
    for case in cases:
        first.setdefault(case["patient"], {"source": case["source"], "patient": case["patient"]})
    places = assign_folds(list(first.values()), folds, seed)
    return dict(zip(first, places, strict=True))


class _Builder:
    """Reads the lists."""

    def __init__(
        self,
        dataset_dir: object,
        sources: Mapping[str, Mapping[str, Any]],
        resample: Callable[[dict[str, Any]], dict[str, Any]],
        silver_dir: str | None,
        canvas: tuple[int, ...],
        distances: tuple[float, ...],
    ) -> None:
        self.dataset_dir, self.sources, self.resample = dataset_dir, sources, resample
        self.silver_dir, self.canvas, self.distances = silver_dir, canvas, distances
        self.load_volume = LoadImage(reader=SeriesReader(), ensure_channel_first=True)
        self.load_mask = LoadPictureMaskd("label")
        self.slices: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.neighbours: list[list[int]] = []
        self.about: dict[str, list[Any]] = {"groups": [], "patients": [], "ids": [], "complete": []}
        self.experts: dict[str, str] = {}

    def build(self, sections: Sequence[str], shapes: str) -> dict[str, Any]:
        """Reads all that is asked for, as what ``torch.save`` keeps."""
        there = read_lists(self.dataset_dir)
        if "expert" in there:
            masks = read_cases(self.dataset_dir, "expert", True, False)
            self.experts = {case["id"]: case["label"] for case in masks}
        for section in sections:
            if section in there:
                cases = read_cases(self.dataset_dir, section, without_labels=True, patient_from_id=False, keep=KEPT)
                logger.info("reading %d cases of %s", len(cases), section)
                for number, case in enumerate(cases):
                    self._add(section, case, number, len(cases))
        maps, patients = self._shapes(there.get(shapes, [])) if shapes else ([], [])
        empty = torch.zeros(0, *self.canvas, dtype=torch.uint8)
        return {
            "slices": torch.stack(self.slices),
            "labels": torch.stack(self.labels),
            "neighbours": torch.tensor(self.neighbours),
            "shapes": torch.stack(maps) if maps else empty,
            "shape_patients": patients,
            **self.about,
        }

    def _add(self, section: str, case: dict[str, Any], number: int, count: int) -> None:
        """One slice, or all slices of a head."""
        data = self._loaded(section, case)
        complete = case["mask_complete"] is not False
        if not complete:
            bright = (data["image"] > CLOT_HU) & (data["label"] == 0)
            data["label"][bright] = UNKNOWN
        data = self.resample({"image": data["image"], "label": data["label"]})
        spacing = float(np.linalg.norm(np.asarray(data["image"].affine)[:3, 2]))
        image = self._on_canvas(data["image"], AIR_HU).clamp(AIR_HU, METAL_HU).half()  # (Z, X, Y)
        label = self._on_canvas(data["label"], 0).byte()
        first = len(self.slices)
        self.slices += list(image)
        for row in slice_positions(len(image), spacing, self.distances).tolist():
            self.neighbours.append([self._index(first, image, place) for place in row])
        self.labels += list(label)
        group, patient = _named(section, case, number, count)
        for z in range(len(image)):
            self.about["groups"].append(group)
            self.about["patients"].append(patient)
            self.about["ids"].append(case["id"] if len(image) == 1 else f"{case['id']}/{z}")
            self.about["complete"].append(complete)

    def _index(self, first: int, image: Tensor, place: float) -> int:
        """The index of a slice, or of a new one that lies between two."""
        low = int(place)
        if place == low:
            return first + low
        self.slices.append(torch.lerp(image[low].float(), image[low + 1].float(), place - low).half())
        return len(self.slices) - 1

    def _loaded(self, section: str, case: dict[str, Any]) -> dict[Any, Any]:
        """Image in Hounsfield units and label, (1, X, Y, Z), on the grid of the file."""
        if case["image"].lower().endswith(".png"):
            return read_picture(section, case, self.sources)
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
        silver = Path(self.silver_dir or "") / f"{case['id']}.nii.gz"
        if marked and self.silver_dir and silver.is_file():
            mask = torch.from_numpy(np.asarray(Nifti1Image.from_filename(silver).dataobj).astype(np.uint8))
            for z in marked:
                label[0, ..., z] = mask[..., z]
        for position, z in (case["expert_slices"] or {}).items():
            drawn = self.experts.get(f"{case['id']}_{position}")
            if drawn and z is not None:
                picture = self.load_mask({"image": image[..., z : z + 1], "label": drawn})["label"]
                label[..., z] = picture[..., 0]
        return label

    def _on_canvas(self, volume: MetaTensor, value: float) -> Tensor:
        placed = ResizeWithPadOrCrop((*self.canvas, -1), value=value)(volume)
        return convert_to_tensor(placed, track_meta=False)[0].permute(2, 0, 1)  # type: ignore[no-any-return]

    def _shapes(self, entries: Sequence[Mapping[str, str]]) -> tuple[list[Tensor], list[str]]:
        """Label maps: 0 nothing, 1 bone, 2 brain, 3 blood, 4 ventricle, 5 other."""
        from PIL import Image

        folder = datalist_path(self.dataset_dir).parent
        maps = []
        for entry in entries:
            bits = (np.asarray(Image.open(folder / entry["shape"]).convert("RGB")) > 127) @ np.array([4, 2, 1])
            codes = np.zeros(8, np.uint8)
            codes[list(SHAPE_COLOURS)] = list(SHAPE_COLOURS.values())
            placed = ResizeWithPadOrCrop(self.canvas, value=0)(torch.from_numpy(codes[bits].T.copy())[None])
            maps.append(convert_to_tensor(placed, track_meta=False)[0])
        return maps, [_patient(entry["patient"]) for entry in entries]


def _patient(name: str) -> str:
    """CQ500 is named ``CT6`` in one list and ``cq500_0006`` in another."""
    match = re.fullmatch(r"CT(\d+)", name)
    return f"cq500_{int(match[1]):04d}" if match else name
