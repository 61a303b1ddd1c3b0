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
from monai.transforms import ResizeWithPadOrCrop
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor

from convformer_monai.datalist import datalist_path, read_cases, read_lists
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.training.draws import draw
from convformer_monai.training.folds import assign_folds
from convformer_monai.training.head_ct_case import HeadCTCase
from convformer_monai.training.persistent import StoredRows, stored_rows

__all__ = ["FOLDS", "HeadCTPart", "HeadCTPool", "head_ct_cases", "head_ct_folds"]

logger = logging.getLogger(__name__)

FOLDS = 5
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
    """Slices of head CT with their neighbours, in memory or in files.

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
        cache: file that keeps the pool: read into memory if it exists, else written; None for none.
        device: where the slices are kept in memory, and where :meth:`take` puts them.
        cache_dir: keep the slices in files of this folder, and not in memory; None for memory.

    Raises:
        InputRefused: an image cannot be used, or the folder not written to; ``OPTION`` if ``cache`` and ``cache_dir``
            are both given.
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
        cache: str | None = None,
        device: str | torch.device = "cpu",
        cache_dir: str | None = None,
    ) -> None:
        if cache and cache_dir:
            what = "--cache is a file that is read into memory, --cache_dir a folder that is not"
            raise InputRefused(RefusalCode.OPTION, f"{what}; give one of them")
        self.canvas = tuple(int(side) for side in canvas)
        self.distances = tuple(float(distance) for distance in distances)
        self.device = torch.device(device)
        if cache is not None and Path(cache).is_file():
            content = torch.load(cache, map_location="cpu", weights_only=True)
        else:
            prepare = HeadCTCase(sources, resample, silver_dir, self.canvas, self.distances)
            content = _pool_content(dataset_dir, sections, shapes, prepare, cache_dir)
            if cache is not None:
                torch.save(content, cache)
        place = torch.device("cpu") if cache_dir else self.device
        self.slices: Tensor | StoredRows = content["slices"]  # (S, X, Y)
        self.labels: Tensor | StoredRows = content["labels"]  # (N, X, Y)
        if isinstance(self.slices, Tensor) and isinstance(self.labels, Tensor):
            self.slices, self.labels = self.slices.to(place), self.labels.to(place)
        self.neighbours: Tensor = content["neighbours"].to(place)  # (N, K), indices of slices
        self.shapes: Tensor = content["shapes"].to(self.device)  # (M, X, Y)
        self.groups = np.array(content["groups"], dtype=str)
        self.patients = np.array(content["patients"], dtype=str)
        self.ids = np.array(content["ids"], dtype=str)
        self.complete = np.array(content["complete"], dtype=bool)
        own = [{"source": group, "patient": name} for group, name in zip(self.groups, self.patients, strict=True)]
        others = [{"source": "shapes", "patient": name} for name in content["shape_patients"]]
        folds_by_patient = _folds([*own, *others])
        self.folds = np.array([folds_by_patient[case["patient"]] for case in own])
        self.shape_folds = np.array([folds_by_patient[case["patient"]] for case in others])
        if "blood" not in content:  # a file of an earlier version
            flat = content["labels"].flatten(1)
            content |= {"blood": (flat == 1).any(1), "free": (flat == 0).all(1)}
        self.blood, self.free = content["blood"].numpy(), content["free"].numpy()
        logger.info("%d slices, %d with blood, %d free of it", len(self.labels), self.blood.sum(), self.free.sum())

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        """Slices by index: ``image`` (..., K, X, Y) and ``label`` (..., 1, X, Y)."""
        indices = indices.to(self.neighbours.device)
        image, label = self.slices[self.neighbours[indices]], self.labels[indices][..., None, :, :]
        return {"image": image.to(self.device), "label": label.to(self.device)}

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


def head_ct_cases(dataset_dir: object, section: str, keep: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Reads a list of slices or heads, each with its ``group`` and a ``patient``.

    Patients without a name may be neighbours of one scan: runs of consecutive ones count as one patient.

    Args:
        dataset_dir: see :func:`convformer_monai.datalist.read_cases`.
        section: the list.
        keep: see there.
    """
    cases = read_cases(dataset_dir, section, without_labels=True, patient_from_id=False, keep=keep)
    for number, case in enumerate(cases):
        case["group"] = f"{section}/{case['source']}" if case["source"] else section
        case["patient"] = case["patient"] or f"{section}_run{number * 10 // len(cases)}"
    return cases


def head_ct_folds(dataset_dir: object, sections: Sequence[str], shapes: str = "cq500_shapes") -> dict[str, int]:
    """The fold of each patient, as :class:`HeadCTPool` has it, without reading an image.

    Whatever the seed of a training, its folds are these, so that an evaluation knows who was held out.
    """
    there = read_lists(dataset_dir)
    cases = [case for name in sections if name in there for case in head_ct_cases(dataset_dir, name)]
    named = [(str(case["group"]), str(case["patient"])) for case in cases]
    named += [("shapes", _patient(entry["patient"])) for entry in there.get(shapes, [])]
    return _folds([{"source": group, "patient": patient} for group, patient in named])


def _folds(cases: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """The fold of each patient, whichever lists the patient is in; the first group that names the patient counts."""
    first: dict[str, dict[str, str]] = {}
    for case in cases:
        first.setdefault(case["patient"], {"source": case["source"], "patient": case["patient"]})
    places = assign_folds(list(first.values()), FOLDS)
    return dict(zip(first, places, strict=True))


def _pool_content(
    dataset_dir: object, sections: Sequence[str], shapes: str, prepare: HeadCTCase, cache_dir: str | None
) -> dict[str, Any]:
    """Reads all that is asked for, as what ``torch.save`` keeps; with ``cache_dir`` slices and labels stay in files."""
    there = read_lists(dataset_dir)
    masks = {}
    if "expert" in there:
        masks = {case["id"]: case["label"] for case in read_cases(dataset_dir, "expert", True, False)}
    cases = []
    for section in (name for name in sections if name in there):
        listed = head_ct_cases(dataset_dir, section, KEPT)
        logger.info("reading %d cases of %s", len(listed), section)
        cases += [prepare.described(section, case, masks) for case in listed]
    if not cases:
        what = f"{datalist_path(dataset_dir)} has none of the lists {', '.join(sections)}"
        raise InputRefused(RefusalCode.DATALIST_SECTION, f"{what}; --finetune takes the lists train and val")
    rows: dict[str, Any]
    if cache_dir:
        rows = {**stored_rows(cases, prepare, cache_dir)}
        slices, depths = rows["slices"].counts, rows["labels"].counts
        rows |= {key: rows[key].whole() for key in ("neighbours", "blood", "free")}
    else:
        made = [prepare(case) for case in cases]
        rows = {key: torch.cat([one.pop(key) for one in made]) for key in ("blood", "free", "neighbours")}
        slices, depths = ([len(one[key]) for one in made] for key in ("slices", "labels"))
        rows |= {key: torch.cat([one.pop(key) for one in made]) for key in ("labels", "slices")}
    starts = torch.tensor([0, *slices]).cumsum(0)[:-1]
    rows["neighbours"] += starts.repeat_interleave(torch.tensor(depths))[:, None]
    maps, patients = _shapes(dataset_dir, there.get(shapes, []), prepare.canvas) if shapes else ([], [])
    about: dict[str, list[Any]] = {"groups": [], "patients": [], "ids": [], "complete": []}
    for case, depth in zip(cases, depths, strict=True):
        about["groups"] += [case["group"]] * depth
        about["patients"] += [case["patient"]] * depth
        about["ids"] += [case["id"]] if depth == 1 else [f"{case['id']}/{z}" for z in range(depth)]
        about["complete"] += [case["mask_complete"] is not False] * depth
    empty = torch.zeros(0, *prepare.canvas, dtype=torch.uint8)
    return {**rows, "shapes": torch.stack(maps) if maps else empty, "shape_patients": patients, **about}


def _shapes(
    dataset_dir: object, entries: Sequence[Mapping[str, str]], canvas: tuple[int, ...]
) -> tuple[list[Tensor], list[str]]:
    """Label maps: 0 nothing, 1 bone, 2 brain, 3 blood, 4 ventricle, 5 other."""
    from PIL import Image

    folder = datalist_path(dataset_dir).parent
    maps = []
    for entry in entries:
        bits = (np.asarray(Image.open(folder / entry["shape"]).convert("RGB")) > 127) @ np.array([4, 2, 1])
        codes = np.zeros(8, np.uint8)
        codes[list(SHAPE_COLOURS)] = list(SHAPE_COLOURS.values())
        placed = ResizeWithPadOrCrop(canvas, value=0)(torch.from_numpy(codes[bits].T.copy())[None])
        maps.append(convert_to_tensor(placed, track_meta=False)[0])
    return maps, [_patient(entry["patient"]) for entry in entries]


def _patient(name: str) -> str:
    """CQ500 is named ``CT6`` in one list and ``cq500_0006`` in another."""
    match = re.fullmatch(r"CT(\d+)", name)
    return f"cq500_{int(match[1]):04d}" if match else name
