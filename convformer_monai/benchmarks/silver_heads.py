"""Masks of blood for whole heads of which only the slices with blood are known, made by BLAST-CT: a teacher.

They are for training alone (``silver_dir`` of ``configs/train.json``). Nothing is scored against them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from convformer_monai.benchmarks.blast_ct import BLOOD, BlastCt
from convformer_monai.benchmarks.interruption import begins_anew
from convformer_monai.datalist import read_cases
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.evaluation.head_scans import HEADS, Answer, scan_scores
from convformer_monai.evaluation.head_tables import tables_of, to_markdown
from convformer_monai.evaluation.report import output_folder
from convformer_monai.outputs.atomic import check_writable, write_atomically
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


def _mask_file(folder: Path, case: Mapping[str, Any]) -> Path:
    """Where a training with ``silver_dir`` looks for the mask of a head."""
    return folder / f"{case['id']}.nii.gz"


def _holds(path: Path, mask: NDArray[np.uint8]) -> bool:
    return np.array_equal(np.asarray(Nifti1Image.from_filename(path).dataobj), mask)


@begins_anew()
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
        InputRefused: if a file is missing or cannot be used, or one of the masks is there already.
    """
    folder = output_folder(output_dir)
    cases = read_cases(dataset_dir, HEADS, without_labels=True, keep=("blood_slices",))
    by_file = {str(case["image"]): case for case in cases}
    there = [path for case in cases if (path := _mask_file(folder, case)).exists()]
    if there:
        raise InputRefused(RefusalCode.EXISTS, f"{there[0]} exists already; remove it, or give another --output-dir")
    check_writable(folder, "give another --output-dir")
    teacher = BlastCt(repository, models)

    def segment(file: Path | MetaTensor, _patient: str) -> Answer:
        case = by_file[str(file)]
        head = Nifti1Image.from_filename(str(file))
        values = np.asarray(head.dataobj, dtype=np.float32)
        if not case["blood_slices"]:
            return Answer(np.zeros(values.shape, bool))
        image = MetaTensor(torch.from_numpy(values)[None], affine=head.affine)
        blood = teacher.probabilities(image)[list(BLOOD)].sum(0).numpy()
        mask = silver_mask(blood, values, head.header.get_zooms()[:3], case["blood_slices"])
        target = _mask_file(folder, case)
        target.parent.mkdir(parents=True, exist_ok=True)  # an id may name a folder
        write_atomically(target, Nifti1Image(mask, head.affine).to_filename, lambda path: _holds(path, mask))
        return Answer(mask == 1)

    tables = tables_of(*scan_scores(dataset_dir, segment, {}, (HEADS,)))
    return "\n\n".join(f"{title}\n\n{to_markdown(rows)}" for title, rows in tables.items())
