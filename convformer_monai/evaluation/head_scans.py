"""Hemorrhage in whole heads and in single slices: what is found, what is missed, and what is found where there is none.

Whole heads have the radiologists' word on each slice, not masks: a head counts as found if the mask holds anything in a
slice that shows blood. Single slices have masks by experts: Dice, and lesions one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from convformer_monai.datalist import datalist_path, read_lists
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.training.head_ct_case import read_picture
from convformer_monai.training.head_ct_pool import head_ct_cases
from convformer_monai.transforms.photo import LoadPictureMaskd

__all__ = [
    "SCAN_LISTS",
    "Answer",
    "HeadScore",
    "SliceScore",
    "scan_scores",
    "score_head",
    "score_slice",
]

logger = logging.getLogger(__name__)

HEADS, EXPERT = "heads", "expert"
SCAN_LISTS = (HEADS, EXPERT, "gold", "normal")  # of a datalist; all but the first hold single slices
KEPT = ("blood", "blood_slices", "kinds", "expert_slices", "spacing", "mask_complete")
ML = 1000.0


@dataclass(frozen=True)
class Answer:
    """What was made of an image.

    Attributes:
        mask: of blood (X, Y, Z).
        flags: codes of the flags of doubt that were raised.
    """

    mask: NDArray[np.bool_]
    flags: tuple[str, ...] = ()


Segment = Callable[[Path | MetaTensor, str], Answer]  # (an image, the patient's name)


@dataclass(frozen=True)
class HeadScore:
    """A whole head.

    Attributes:
        case: its id.
        kinds: of blood in it, e.g. ``subdural``, joined by spaces; empty without blood.
        blood: whether there is any.
        found: whether any of the slices that show it has a finding.
        marked: slices that show blood.
        marked_found: of these, with a finding.
        others: slices that neither show blood nor lie beside one that does.
        others_found: of these, with a finding.
        ml: volume of all findings.
        flags: of doubt, joined by spaces.
    """

    case: str
    kinds: str
    blood: bool
    found: bool
    marked: int
    marked_found: int
    others: int
    others_found: int
    ml: float
    flags: str


@dataclass(frozen=True)
class SliceScore:
    """A slice that an expert drew on.

    Attributes:
        case: its id.
        patient: whose it is.
        source: where it was published.
        seen_in: the list of what the network saw: ``heads`` for the whole head, or that of the slice alone.
        kinds: of blood in the patient's head, where known, joined by spaces.
        area_mm2: of the blood.
        found_mm2: of the findings.
        dice: NaN without blood.
        hit: whether any blood was found.
        lesions: separate parts of the blood.
        lesions_found: of these, touched by a finding.
        findings: separate parts of the findings.
        findings_true: of these, touching blood.
        flags: of doubt, joined by spaces.
    """

    case: str
    patient: str
    source: str
    seen_in: str
    kinds: str
    area_mm2: float
    found_mm2: float
    dice: float
    hit: bool
    lesions: int
    lesions_found: int
    findings: int
    findings_true: int
    flags: str


def score_head(case: str, kinds: Sequence[str], marked: Iterable[int], answer: Answer, ml: float) -> HeadScore:
    """Scores what was made of a head.

    Args:
        case: its id.
        kinds: of blood.
        marked: slices that show blood, counted along Z.
        answer: the mask of blood, and the flags.
        ml: volume of a voxel.
    """
    shown, mask = set(marked), answer.mask
    found: NDArray[np.bool_] = np.any(mask, axis=(0, 1))
    others = [z for z in range(len(found)) if not {z - 1, z, z + 1} & shown]
    hits = [bool(found[z]) for z in sorted(shown)]
    return HeadScore(
        case=case,
        kinds=" ".join(kinds),
        blood=bool(shown),
        found=any(hits),
        marked=len(shown),
        marked_found=sum(hits),
        others=len(others),
        others_found=int(found[others].sum()),
        ml=float(mask.sum()) * ml,
        flags=" ".join(answer.flags),
    )


def score_slice(mask: NDArray[np.bool_], truth: NDArray[np.bool_], pixel_mm2: float) -> dict[str, Any]:
    """The figures of :class:`SliceScore` that come from the masks (X, Y)."""
    from scipy import ndimage

    touching = np.ones((3, 3))
    lesions, count = ndimage.label(truth, touching)
    findings, found = ndimage.label(mask, touching)
    both = mask & truth
    total = int(mask.sum()) + int(truth.sum())
    return {
        "area_mm2": float(truth.sum()) * pixel_mm2,
        "found_mm2": float(mask.sum()) * pixel_mm2,
        "dice": 2 * float(both.sum()) / total if truth.any() else float("nan"),
        "hit": bool(both.any()),
        "lesions": count,
        "lesions_found": len(np.unique(lesions[both])),
        "findings": found,
        "findings_true": len(np.unique(findings[both])),
    }


def scan_scores(
    dataset_dir: object,
    segment: Segment,
    sources: Mapping[str, Mapping[str, Any]],
    lists: Sequence[str] = SCAN_LISTS,
    counts: Callable[[str], bool] = lambda _: True,
) -> tuple[list[HeadScore], list[SliceScore]]:
    """Segments and scores whole heads and single slices, of the lists that a datalist has.

    A slice of the list ``expert`` is scored alone, and once more in the head that it is of, where that is in the list
    ``heads``. Slices whose mask is known to leave out blood are skipped.

    Args:
        dataset_dir: see :func:`convformer_monai.datalist.read_cases`.
        segment: what is scored.
        sources: see :class:`convformer_monai.training.HeadCTPool`.
        lists: which, of :data:`SCAN_LISTS`.
        counts: tells of a patient whether heads and slices of that patient are scored.

    Raises:
        InputRefused: if the datalist or a file cannot be used, or if it has none of the lists.
    """
    there = read_lists(dataset_dir)
    chosen = [name for name in lists if name in there]
    if not chosen:
        raise InputRefused(
            RefusalCode.DATALIST_INVALID, f"{datalist_path(dataset_dir)} has none of the lists {', '.join(lists)}"
        )
    slices = {name: _slices(dataset_dir, name) for name in SCAN_LISTS if name in there and name != HEADS}
    slices = {name: [case for case in cases if counts(str(case["patient"]))] for name, cases in slices.items()}
    heads = head_ct_cases(dataset_dir, HEADS, KEPT) if HEADS in there else []
    heads = [head for head in heads if counts(str(head["patient"]))]
    kinds = {str(head["patient"]): " ".join(head["kinds"] or ()) for head in heads}
    experts = {case["id"]: case for case in slices.get(EXPERT, [])}
    head_scores, slice_scores = [], []
    for number, head in enumerate(heads if HEADS in chosen else []):
        logger.info("head %d of %d", number + 1, len(heads))
        score, drawn = _head(head, experts, segment)
        head_scores.append(score)
        slice_scores += [
            SliceScore(**_about(case, kinds), seen_in=HEADS, **figures, flags=score.flags) for case, figures in drawn
        ]
    for name in chosen:
        for number, case in enumerate(slices.get(name, [])):
            if number % 50 == 0:
                logger.info("slice %d of %d of %s", number + 1, len(slices[name]), name)
            figures, flags = _alone(name, case, sources, segment)
            slice_scores.append(SliceScore(**_about(case, kinds), seen_in=name, **figures, flags=flags))
    return head_scores, slice_scores


def _slices(dataset_dir: object, section: str) -> list[dict[str, Any]]:
    """The slices of a list with a complete mask, or without blood."""
    cases = head_ct_cases(dataset_dir, section, KEPT)
    return [case for case in cases if case["mask_complete"] is not False and (case["label"] or not case["blood"])]


def _about(case: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    patient = str(case["patient"])
    return {
        "case": str(case["id"]),
        "patient": patient,
        "source": str(case["source"]),
        "kinds": kinds.get(patient, ""),
    }


def _head(
    head: Mapping[str, Any], experts: Mapping[str, Mapping[str, Any]], segment: Segment
) -> tuple[HeadScore, list[tuple[Mapping[str, Any], dict[str, Any]]]]:
    """Scores a head, and its slices that an expert drew on."""
    answer = segment(Path(head["image"]), head["patient"])
    image = Nifti1Image.from_filename(head["image"])
    spacing = [float(size) for size in image.header.get_zooms()[:3]]
    marked = [int(z) for z in head["blood_slices"] or ()]
    score = score_head(head["id"], head["kinds"] or (), marked, answer, float(np.prod(spacing)) / ML)
    drawn = []
    for position, z in (head["expert_slices"] or {}).items():
        expert = experts.get(f"{head['patient']}_{position}")
        if expert is not None and z is not None:
            shape = MetaTensor(torch.zeros(1, *image.shape[:2], 1), affine=torch.as_tensor(image.affine))
            truth = LoadPictureMaskd("label")({"image": shape, "label": expert["label"]})["label"].numpy()
            figures = score_slice(answer.mask[..., z], truth[0, ..., 0] > 0, spacing[0] * spacing[1])
            drawn.append((expert, figures))
    return score, drawn


def _alone(
    section: str, case: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]], segment: Segment
) -> tuple[dict[str, Any], str]:
    """Scores a slice that is seen without its head; also its flags."""
    data = read_picture(section, case, sources)
    answer = segment(data["image"], case["patient"])
    spacing = np.linalg.norm(np.asarray(data["image"].affine)[:3, :2], axis=0)
    truth = data["label"].numpy()[0, ..., 0] > 0
    return score_slice(answer.mask[..., 0], truth, float(np.prod(spacing))), " ".join(answer.flags)
