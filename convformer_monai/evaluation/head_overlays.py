"""Pictures of what was found in heads and slices: the worst, the median and the best, and findings without blood."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils import convert_to_numpy
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from convformer_monai.datalist import read_cases
from convformer_monai.evaluation.head_scans import EXPERT, HEADS, KEPT, HeadScore, Segment, SliceScore
from convformer_monai.evaluation.overlays import draw_overlay
from convformer_monai.evaluation.report import output_folder
from convformer_monai.tasks.task import Label
from convformer_monai.training.head_ct_case import read_picture

__all__ = ["draw_scans"]

logger = logging.getLogger(__name__)

WINDOW = (0.0, 80.0)


def draw_scans(
    dataset_dir: object,
    segment: Segment,
    sources: Mapping[str, Mapping[str, Any]],
    scores: tuple[Sequence[HeadScore], Sequence[SliceScore]],
    labels: Sequence[Label],
    output_dir: Path,
    count: int,
) -> None:
    """Draws expert slices seen alone, and whole heads, into ``output_dir``.

    Of the slices with blood the worst, those about the median and the best by Dice; of the heads those without blood
    that have the largest findings, and those whose blood was missed. They are segmented once more.

    Args:
        dataset_dir: see :func:`convformer_monai.evaluation.head_scans.scan_scores`.
        segment: see there.
        sources: see there.
        scores: what it returned.
        labels: the blood.
        output_dir: made if missing.
        count: pictures of each kind.
    """
    folder, (heads, slices) = output_folder(output_dir), scores
    ranked = sorted((one for one in slices if one.seen_in == EXPERT and one.lesions), key=lambda one: one.dice)
    middle = max(0, (len(ranked) - count) // 2)
    groups = {"worst": ranked[:count], "median": ranked[middle : middle + count], "best": ranked[::-1][:count]}
    cases = _by_id(dataset_dir, EXPERT) if ranked else {}
    for kind, chosen in groups.items():
        for score in chosen:
            data = read_picture(EXPERT, cases[score.case], sources)
            mask = segment(data["image"], score.patient).mask
            parts = [convert_to_numpy(data[key])[0] for key in ("image", "label")]
            title = f"{score.case} ({score.source})   Dice {score.dice:.3f}"
            _draw(folder / f"{kind}_{score.case}.png", parts[0], parts[1], mask, data["image"].affine, labels, title)
    false = sorted((one for one in heads if not one.blood and one.ml), key=lambda one: -one.ml)[:count]
    missed = [one for one in heads if one.blood and not one.found][:count]
    volumes = _by_id(dataset_dir, HEADS) if false or missed else {}
    for kind, whole in (("false", false), ("missed", missed)):
        for head in whole:
            file = Nifti1Image.from_filename(volumes[head.case]["image"])
            image = np.asarray(file.dataobj, dtype=np.float32)
            mask = segment(Path(volumes[head.case]["image"]), volumes[head.case]["patient"]).mask
            marked = np.zeros(image.shape, bool)
            marked[..., [int(z) for z in volumes[head.case]["blood_slices"] or ()]] = True
            shown = np.flatnonzero((mask | marked).any((0, 1)))
            part = slice(shown[0], shown[-1] + 1)
            title = f"{head.case}   {head.ml:.1f} mL found   {head.kinds or 'no blood'}"
            nothing = np.zeros_like(mask)
            _draw(folder / f"{kind}_{head.case}.png", image, nothing, mask, file.affine, labels, title, part)


def _by_id(dataset_dir: object, section: str) -> dict[str, dict[str, Any]]:
    return {case["id"]: case for case in read_cases(dataset_dir, section, without_labels=True, keep=KEPT)}


def _draw(
    path: Path,
    image: NDArray[np.float32],
    truth: NDArray[Any],
    mask: NDArray[np.bool_],
    affine: Any,
    labels: Sequence[Label],
    title: str,
    part: slice = slice(None),
) -> None:
    shown = np.clip(image[..., part], *WINDOW)
    reference, predicted = ((one[..., part] > 0).astype(np.uint8) for one in (truth, mask))
    grid = np.asarray(convert_to_numpy(affine), np.float64)
    draw_overlay(shown, reference, predicted, grid, labels, title).save(path)
    logger.info("wrote %s", path)
