"""Tables of what was found, missed and made up in heads and slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convformer_monai.evaluation.head_scans import HeadScore, SliceScore
from convformer_monai.evaluation.summary import bootstrap_interval

__all__ = ["tables_of", "to_markdown"]

MUCH_ML = 0.5  # of blood in a head without any
SIZES_MM2 = ((0.0, 100.0, "below 1 cm2"), (100.0, 1000.0, "1 to 10 cm2"), (1000.0, np.inf, "above 10 cm2"))
MISSED = "MAYBE_MISSED"
TITLES = {
    "expert": "Expert slices alone",
    "heads": "Expert slices in their heads",
    "gold": "Gold slices",
    "normal": "Normal slices",
}


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
                "missed and flagged": _of([head for head in group if not head.found]),
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
                "empty and flagged": _of([head for head in free if head.ml == 0]),
            }
        ]
    return tables


def _slice_rows(slices: Sequence[SliceScore]) -> dict[str, list[dict[str, Any]]]:
    """Tables of slices, by list: all, by source, by kind, by size."""
    tables = {}
    for seen_in, title in TITLES.items():
        chosen = [score for score in slices if score.seen_in == seen_in]
        if not chosen:
            continue
        groups = {"all": chosen}
        for source in sorted({score.source for score in chosen if score.source}):
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
        row |= {
            "Dice": round(float(np.mean(dice)), 3),
            "95% interval": f"{low:.3f} to {high:.3f}" if low == low else "",
        }
        row |= {"nothing found": sum(not one.hit for one in bleeding)}
        row |= {"empty mask and flagged": _of([one for one in bleeding if not one.findings])}
        row |= {"lesions found": f"{sum(one.lesions_found for one in bleeding)} of {lesions}"}
        row |= {"findings that are blood": f"{sum(one.findings_true for one in scores)} of {findings}"}
    row |= {"without blood": len(free), "of these with a finding": sum(one.findings > 0 for one in free)}
    return row


def _of(scores: Sequence[HeadScore] | Sequence[SliceScore]) -> str:
    """How many of some scores are flagged as perhaps missed."""
    return f"{sum(MISSED in one.flags.split() for one in scores)} of {len(scores)}"


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table with a column for each key that any row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in columns) + " |" for row in rows]
    return "\n".join(lines)
