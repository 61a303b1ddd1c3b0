"""Hemorrhage in whole heads and in single slices: what is found, what is missed, and what is found where there is none.

Whole heads have the radiologists' word on each slice, not masks: a head counts as found if the mask holds anything in a
slice that shows blood. Single slices have masks by experts: Dice, and lesions one by one.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from convformer_monai.bundle import Bundle
from convformer_monai.datalist import datalist_path, read_cases
from convformer_monai.evaluation.report import origin_of, output_folder
from convformer_monai.evaluation.summary import bootstrap_interval
from convformer_monai.measurements.values import safe_cell
from convformer_monai.outputs.atomic import write_text
from convformer_monai.training.head_ct_pool import head_ct_folds
from convformer_monai.transforms.photo import LoadPictureMaskd
from convformer_monai.transforms.windowed import LoadWindowedSliced

__all__ = [
    "HeadScore",
    "SliceScore",
    "report_scans",
    "scan_scores",
    "score_head",
    "score_slice",
    "segment_with",
    "tables_of",
    "to_markdown",
]

logger = logging.getLogger(__name__)

HEADS, EXPERT = "heads", "expert"
KEPT = ("blood", "blood_slices", "kinds", "expert_slices", "spacing", "position", "mask_complete")
BRAIN_WINDOW = (0.0, 80.0)
ML = 1000.0
FOLDS = 5
MUCH_ML = 0.5  # of blood in a head without any
SIZES_MM2 = ((0.0, 100.0, "below 1 cm2"), (100.0, 1000.0, "1 to 10 cm2"), (1000.0, np.inf, "above 10 cm2"))

Segment = Callable[[Any, str], NDArray[np.bool_]]  # (an image or its path, the patient) to a mask (X, Y, Z)


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


@dataclass(frozen=True)
class SliceScore:
    """A slice that an expert drew on.

    Attributes:
        case: its id.
        patient: whose it is.
        source: where it was published.
        in_head: whether the network saw the whole head.
        kinds: of blood in the patient's head, where known, joined by spaces.
        area_mm2: of the blood.
        found_mm2: of the findings.
        dice: NaN without blood.
        hit: whether any blood was found.
        lesions: separate parts of the blood.
        lesions_found: of these, touched by a finding.
        findings: separate parts of the findings.
        findings_true: of these, touching blood.
    """

    case: str
    patient: str
    source: str
    in_head: bool
    kinds: str
    area_mm2: float
    found_mm2: float
    dice: float
    hit: bool
    lesions: int
    lesions_found: int
    findings: int
    findings_true: int


def score_head(case: str, kinds: Sequence[str], marked: Iterable[int], mask: NDArray[np.bool_], ml: float) -> HeadScore:
    """Scores the mask of a head.

    Args:
        case: its id.
        kinds: of blood.
        marked: slices that show blood, counted along Z.
        mask: (X, Y, Z).
        ml: volume of a voxel.
    """
    shown = set(marked)
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
    dataset_dir: object, segment: Segment, slices_alone: bool = True
) -> tuple[list[HeadScore], list[SliceScore]]:
    """Segments and scores the lists ``heads`` and ``expert`` of a datalist, as far as it has them.

    Expert slices are scored alone, and once more in the head that they are of, where that is in the datalist. Slices
    whose mask is known to leave out blood are skipped.

    Args:
        dataset_dir: see :func:`convformer_monai.datalist.read_cases`.
        segment: takes an image or its path, and the patient's name.
        slices_alone: also the expert slices without their heads.

    Raises:
        InputRefused: if the datalist or a file cannot be used, or if it has neither list.
    """
    experts = [case for case in _cases(dataset_dir, EXPERT, optional=True) if case["label"] or case["blood"] is False]
    experts = [case for case in experts if case["mask_complete"] is not False]
    by_id = {case["id"]: case for case in experts}
    heads = _cases(dataset_dir, HEADS, optional=bool(experts))
    kinds = {head["patient"]: head["kinds"] or () for head in heads}
    head_scores, slice_scores = [], []
    for number, head in enumerate(heads):
        logger.info("head %d of %d", number + 1, len(heads))
        mask = segment(Path(head["image"]), head["patient"])
        image = Nifti1Image.from_filename(head["image"])
        spacing = [float(size) for size in image.header.get_zooms()[:3]]
        voxel = float(np.prod(spacing)) / ML
        marked = [int(z) for z in head["blood_slices"] or ()]
        head_scores.append(score_head(head["id"], kinds[head["patient"]], marked, mask, voxel))
        for position, z in (head["expert_slices"] or {}).items():
            expert = by_id.get(f"{head['patient']}_{position}")
            if expert is not None and z is not None:
                truth = _truth(expert, np.asarray(image.dataobj[..., z : z + 1]), image.affine)
                figures = score_slice(mask[..., z], truth, spacing[0] * spacing[1])
                slice_scores.append(_slice_score(expert, True, kinds, figures))
    for number, expert in enumerate(experts if slices_alone else []):
        if number % 50 == 0:
            logger.info("slice %d of %d", number + 1, len(experts))
        slice_scores.append(_alone(expert, kinds, segment))
    return head_scores, slice_scores


def _cases(dataset_dir: object, section: str, optional: bool) -> list[dict[str, Any]]:
    """The cases of a section; none if it may be, and is, missing."""
    if optional and section not in json.loads(datalist_path(dataset_dir).read_text(encoding="utf-8")):
        return []
    return read_cases(dataset_dir, section, without_labels=True, keep=KEPT)


def _alone(expert: Mapping[str, Any], kinds: Mapping[str, Sequence[str]], segment: Segment) -> SliceScore:
    """Scores a slice that the network sees without its head."""
    data: dict[Any, Any] = {"image": expert["image"], "window": BRAIN_WINDOW, "extent_mm": 1.0}
    image = LoadWindowedSliced("image")(data)["image"]
    spacing = float(expert["spacing"])
    affine = np.asarray(image.affine).copy()
    affine[:3, :2] *= spacing / np.linalg.norm(affine[:3, :2], axis=0)
    image.affine = affine
    mask = segment(image, expert["patient"])[..., 0]
    truth = np.zeros(mask.shape, bool)
    if expert["label"]:
        truth = LoadPictureMaskd("label")({"image": image, "label": expert["label"]})["label"].numpy()[0, ..., 0] > 0
    return _slice_score(expert, False, kinds, score_slice(mask, truth, spacing**2))


def _truth(expert: Mapping[str, Any], one_slice: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The expert's mask on the grid of a head's slice (X, Y, 1)."""
    import torch
    from monai.data import MetaTensor

    if not expert["label"]:
        return np.zeros(one_slice.shape[:2], bool)
    image = MetaTensor(torch.as_tensor(one_slice.astype(np.float32))[None], affine=torch.as_tensor(affine))
    mask = LoadPictureMaskd("label")({"image": image, "label": expert["label"]})["label"]
    return np.asarray(mask)[0, ..., 0] > 0


def _slice_score(
    expert: Mapping[str, Any], in_head: bool, kinds: Mapping[str, Sequence[str]], figures: Mapping[str, Any]
) -> SliceScore:
    patient = str(expert["patient"])
    return SliceScore(
        str(expert["id"]), patient, str(expert["source"]), in_head, " ".join(kinds.get(patient, ())), **figures
    )


def report_scans(
    bundle: str | Path, dataset_dir: Path, output_dir: Path, weights: Path | None = None, runs: Path | None = None
) -> str:
    """Segments and scores heads and slices; writes ``heads.csv``, ``slices.csv``, ``scans.json`` and ``scans.md``.

    Args:
        bundle: see :class:`convformer_monai.bundle.Bundle`.
        dataset_dir: see :func:`scan_scores`.
        output_dir: folder for the files; made if missing.
        weights: file of other weights than the bundle's.
        runs: folder of ``fold0/best.pt`` to ``fold4/best.pt``: each patient is then segmented by the network that has
            not seen the patient.

    Returns:
        The tables, for people.

    Raises:
        InputRefused: if the bundle, the data or the weights cannot be used.
    """
    folder = output_folder(output_dir)
    root = Path(Bundle(bundle).root)
    files = [weights] if weights is not None else [root / "models" / "model.pt"]
    if runs is not None:
        files = [runs / f"fold{fold}" / "best.pt" for fold in range(FOLDS)]
    heads, slices = scan_scores(dataset_dir, segment_with(root, dataset_dir, weights, runs))
    for name, scores in (("heads.csv", heads), ("slices.csv", slices)):
        write_text(folder / name, _csv(scores), overwrite=True)
    tables = tables_of(heads, slices)
    origin = origin_of(Bundle(root).name, Bundle(root).version, files, dataset_dir, "heads, expert")
    content = {**origin, "results": tables}
    write_text(folder / "scans.json", json.dumps(content, indent=2, default=str) + "\n", overwrite=True)
    text = "\n\n".join(f"{title}\n\n{to_markdown(rows)}" for title, rows in tables.items())
    write_text(folder / "scans.md", text + "\n", overwrite=True)
    return text


def segment_with(
    bundle: str | Path, dataset_dir: Path, weights: Path | None = None, runs: Path | None = None
) -> Segment:
    """What segments with a bundle's network, or with that of the patient's fold; see :func:`report_scans`."""
    from convformer_monai.segmenter import Segmenter

    root = Path(Bundle(bundle).root)
    if runs is None:
        segmenters = [Segmenter(root, weights=weights)]
        folds: Mapping[str, int] = {}
    else:
        segmenters = [Segmenter(root, weights=runs / f"fold{fold}" / "best.pt") for fold in range(FOLDS)]
        folds = head_ct_folds(dataset_dir, Bundle(root).read("train")["sections"], folds=FOLDS)

    def segment(image: Any, patient: str) -> NDArray[np.bool_]:
        result = segmenters[folds.get(patient, 0)].segment(image)
        labels = result.labels[0] if isinstance(image, Path) else result.reshape(image.shape)[0]
        return np.asarray(labels) > 0

    return segment


def _csv(scores: Sequence[HeadScore] | Sequence[SliceScore]) -> str:
    text = io.StringIO()
    rows = [asdict(score) for score in scores]
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: safe_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def tables_of(heads: Sequence[HeadScore], slices: Sequence[SliceScore]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a report, by title."""
    return {**_head_rows(heads), **_slice_rows(slices)}


def _head_rows(heads: Sequence[HeadScore]) -> dict[str, list[dict[str, Any]]]:
    """Tables of whole heads: with blood, by kind, and without."""
    bleeding, free = [head for head in heads if head.blood], [head for head in heads if not head.blood]
    tables: dict[str, list[dict[str, Any]]] = {}
    if bleeding:
        kinds = sorted({kind for head in bleeding for kind in head.kinds.split()})
        groups = {"all": bleeding, **{kind: [head for head in bleeding if kind in head.kinds] for kind in kinds}}
        tables["Whole heads with blood"] = [
            {
                "kind": kind,
                "heads": len(group),
                "found": sum(head.found for head in group),
                "slices with blood": sum(head.marked for head in group),
                "of these found": sum(head.marked_found for head in group),
                "other slices": sum(head.others for head in group),
                "of these with a finding": sum(head.others_found for head in group),
            }
            for kind, group in groups.items()
        ]
    if free:
        volumes = np.array([head.ml for head in free])
        tables["Whole heads without blood"] = [
            {
                "heads": len(free),
                "with a finding": int((volumes > 0).sum()),
                f"above {MUCH_ML} mL": int((volumes > MUCH_ML).sum()),
                "mL in all": round(float(volumes.sum()), 2),
                "largest, mL": round(float(volumes.max()), 2),
            }
        ]
    return tables


def _slice_rows(slices: Sequence[SliceScore]) -> dict[str, list[dict[str, Any]]]:
    """Tables of expert slices, alone and in their heads: all, by source, by kind, by size."""
    tables = {}
    for title, in_head in (("Expert slices alone", False), ("Expert slices in their heads", True)):
        chosen = [score for score in slices if score.in_head == in_head]
        if not chosen:
            continue
        groups = {"all": chosen}
        for source in sorted({score.source for score in chosen}):
            groups[source] = [score for score in chosen if score.source == source]
        for kind in sorted({kind for score in chosen for kind in score.kinds.split()}):
            groups[kind] = [score for score in chosen if kind in score.kinds]
        for low, high, name in SIZES_MM2:
            groups[name] = [score for score in chosen if low < score.area_mm2 <= high]
        tables[title] = [_slice_row(name, group) for name, group in groups.items() if group]
    return tables


def _slice_row(name: str, scores: Sequence[SliceScore]) -> dict[str, Any]:
    bleeding, free = [one for one in scores if one.lesions], [one for one in scores if not one.lesions]
    row: dict[str, Any] = {
        "slices": name,
        "patients": len({one.patient for one in scores}),
        "with blood": len(bleeding),
    }
    if bleeding:
        dice = [one.dice for one in bleeding]
        low, high = bootstrap_interval(dice, [one.patient for one in bleeding])
        lesions, findings = sum(one.lesions for one in bleeding), sum(one.findings for one in scores)
        row |= {"Dice": round(float(np.mean(dice)), 3), "95% interval": f"{low:.3f} to {high:.3f}"}
        row |= {"nothing found": sum(not one.hit for one in bleeding)}
        row |= {"lesions found": f"{sum(one.lesions_found for one in bleeding)} of {lesions}"}
        row |= {"findings that are blood": f"{sum(one.findings_true for one in scores)} of {findings}"}
    row |= {"without blood": len(free), "of these with a finding": sum(one.findings > 0 for one in free)}
    return row


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a column for each key that any row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in columns) + " |" for row in rows]
    return "\n".join(lines)
