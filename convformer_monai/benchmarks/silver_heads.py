"""Masks of blood for whole heads of which only the slices with blood are known, made by BLAST-CT: a teacher.

They are for training alone (``silver_dir`` of ``configs/train.json``). Nothing is scored against them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from convformer_monai.benchmarks.blast_ct import BLOOD, BlastCt
from convformer_monai.datalist import read_cases
from convformer_monai.evaluation.head_scans import HEADS, Answer, scan_scores
from convformer_monai.evaluation.head_tables import tables_of, to_markdown
from convformer_monai.evaluation.report import output_folder
from convformer_monai.training.unknown import UNKNOWN
from convformer_monai.transforms.intracranial import intracranial_space

__all__ = ["run", "silver_mask"]

BRIGHTEST_HU = 95.0
SURE, POSSIBLE = 0.5, 0.1  # probability of what is blood; of what may be
LEAST_PIXELS = 20  # of blood in a slice; with fewer nothing in it is known


def silver_mask(
    probability: NDArray[np.floating[Any]], image: NDArray[Any], spacing: Sequence[float], marked: Iterable[int]
) -> NDArray[np.uint8]:
    """The mask of a head.

    Args:
        probability: of blood (X, Y, Z).
        image: (X, Y, Z), Hounsfield units.
        spacing: mm.
        marked: slices that show blood, along Z.

    Returns:
        (X, Y, Z): 1 where blood is likely, :data:`UNKNOWN` where it may be and in marked slices with hardly any, 0
        elsewhere: outside of the skull, where it is too bright for blood, and in all other slices.
    """
    inside = intracranial_space(image, spacing)
    possible = np.where((image <= BRIGHTEST_HU) & (True if inside is None else inside), probability, 0)
    mask = np.zeros(image.shape, np.uint8)
    for z in marked:
        blood = possible[..., z] > SURE
        unsure = np.where(possible[..., z] > POSSIBLE, UNKNOWN, 0)
        mask[..., z] = np.where(blood, 1, unsure) if blood.sum() > LEAST_PIXELS else UNKNOWN
    return mask


def run(repository: Path, dataset_dir: Path, output_dir: Path, models: Sequence[int] = (1, 5, 9, 3)) -> str:
    """Writes ``<id>.nii.gz`` for each head with blood of the list ``heads``.

    Args:
        repository: folder of BLAST-CT's repository.
        dataset_dir: see :func:`convformer_monai.evaluation.head_scans.scan_scores`.
        output_dir: folder for the masks; made if missing.
        models: numbers of BLAST-CT's networks, averaged.

    Returns:
        How good the masks are, by the slices that radiologists marked and those that experts drew on.

    Raises:
        InputRefused: if a file is missing or cannot be used.
    """
    folder = output_folder(output_dir)
    teacher = BlastCt(repository, models)
    cases = read_cases(dataset_dir, HEADS, without_labels=True, keep=("blood_slices",))
    by_file = {str(case["image"]): case for case in cases}

    def segment(file: Path | MetaTensor, _patient: str) -> Answer:
        case = by_file[str(file)]
        head = Nifti1Image.from_filename(str(file))
        values = np.asarray(head.dataobj, dtype=np.float32)
        if not case["blood_slices"]:
            return Answer(np.zeros(values.shape, bool))
        image = MetaTensor(torch.from_numpy(values)[None], affine=head.affine)
        blood = teacher.probabilities(image)[list(BLOOD)].sum(0).numpy()
        mask = silver_mask(blood, values, head.header.get_zooms()[:3], case["blood_slices"])
        Nifti1Image(mask, head.affine).to_filename(folder / f"{case['id']}.nii.gz")
        return Answer(mask == 1)

    tables = tables_of(*scan_scores(dataset_dir, segment, {}, (HEADS,)))
    return "\n\n".join(f"{title}\n\n{to_markdown(rows)}" for title, rows in tables.items())
