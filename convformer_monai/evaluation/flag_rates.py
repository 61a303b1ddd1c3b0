"""How often each flag is raised on masks that experts drew: a flag raised on every tenth of them tells nothing."""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convformer_monai.bundle import Bundle
from convformer_monai.datalist import read_cases
from convformer_monai.evaluation.report import output_folder
from convformer_monai.measurements.measure import measure
from convformer_monai.outputs.atomic import write_text
from convformer_monai.readers import read_series
from convformer_monai.tasks.task import Task
from convformer_monai.transforms.photo import LoadPictureMaskd

__all__ = ["MOST", "FlagRate", "flag_rates", "report_flags"]

logger = logging.getLogger(__name__)

MOST = 0.1  # of the experts' masks that a flag may be raised on


@dataclass(frozen=True)
class FlagRate:
    """How often a flag was raised.

    Attributes:
        flag: its code.
        flagged: cases in which it was raised.
        cases: all cases.
    """

    flag: str
    flagged: int
    cases: int

    @property
    def rate(self) -> float:
        """Share of the cases."""
        return self.flagged / self.cases


def flag_rates(bundle: str | Path, dataset_dir: Path, sections: Sequence[str]) -> list[FlagRate]:
    """Measures the experts' masks of labelled images as if the bundle had made them.

    Args:
        bundle: see :class:`convformer_monai.bundle.Bundle`.
        dataset_dir: see :func:`convformer_monai.datalist.read_cases`.
        sections: lists of labelled images.

    Returns:
        Every flag that was raised, the most frequent first.

    Raises:
        InputRefused: if the bundle, the data or a file cannot be used.
    """
    task = Bundle(bundle).task
    counts: Counter[str] = Counter()
    cases = [case for section in sections for case in read_cases(dataset_dir, section)]
    for case in cases:
        counts.update(_flags_of(task, case["image"], case["label"]))
    return [FlagRate(flag, count, len(cases)) for flag, count in counts.most_common()]


def _flags_of(task: Task, image: str, label: str) -> set[str]:
    """The codes of the flags of one expert mask."""
    series = read_series(Path(image), phase="all")
    if series.is_photo:
        picture = LoadPictureMaskd("label")({"image": series.image, "label": label})["label"]
        labels = np.asarray(picture)[0].astype(np.uint8)
    else:
        labels = read_series(Path(label), phase="all").image.numpy().astype(np.uint8)
    return {flag.code for flag in measure(labels, series, task, case="expert").flags}


def report_flags(bundle: str | Path, dataset_dir: Path, output_dir: Path, sections: Sequence[str]) -> str:
    """Writes ``flags.csv``, and returns its table for people.

    Args:
        bundle: see :func:`flag_rates`.
        dataset_dir: see there.
        output_dir: folder for the file; made if missing.
        sections: see there.
    """
    rates = flag_rates(bundle, dataset_dir, sections)
    folder = output_folder(output_dir)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["flag", "flagged", "cases", "rate"])
    writer.writerows([rate.flag, rate.flagged, rate.cases, f"{rate.rate:.4f}"] for rate in rates)
    write_text(folder / "flags.csv", text.getvalue(), overwrite=True)
    lines = ["| flag | raised on expert masks | share |", "|---|---|---|"]
    lines += [f"| `{rate.flag}` | {rate.flagged} of {rate.cases} | {rate.rate:.1%} |" for rate in rates]
    if not rates:
        lines.append("| none | 0 | 0.0% |")
    too_often = [rate.flag for rate in rates if rate.rate > MOST]
    return "\n".join([*lines, f"more than {MOST:.0%}: {', '.join(too_often) or 'none'}"])
