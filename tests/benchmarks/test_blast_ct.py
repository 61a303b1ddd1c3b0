"""The comparison with BLAST-CT, with a small network in the place of its own."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from convformer_monai.benchmarks.blast_ct import BlastCt, Timed
from convformer_monai.errors import InputRefused
from convformer_monai.evaluation.head_scans import Answer


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_masks_come_back_on_the_grid_of_the_image(repository: Path, tmp_path: Path, flip: float) -> None:
    """A head of 144 mm, so several tiles; whichever way it is stored."""
    values = np.full((72, 96, 16), -1000, np.int16)
    values[10:60, 10:80, 2:14] = 30
    values[20:40, 50:70, 5:9] = 70
    affine = np.diag([-2.0, flip * 1.5, 5.0, 1.0])
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "head.nii.gz")
    mask = BlastCt(repository)(tmp_path / "head.nii.gz", "").mask
    truth = values == 70
    assert mask.shape == values.shape
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9


def test_a_slice_without_neighbours(repository: Path) -> None:
    values = torch.full((1, 80, 80, 1), 30.0)
    values[:, 30:50, 30:50] = 70
    mask = BlastCt(repository)(MetaTensor(values, affine=torch.diag(torch.tensor([-1.0, -1.0, 5.0, 1.0]))), "").mask
    assert mask.shape == (80, 80, 1) and mask[32:48, 32:48].all() and not mask[:25].any()


def test_masks_are_kept_for_the_next_run(tmp_path: Path) -> None:
    calls = []

    def segment(image: object, _patient: str) -> Answer:
        calls.append(image)
        return Answer(np.arange(8).reshape(2, 2, 2) % 3 == 0)

    answers = [Timed(segment, tmp_path / "masks")(tmp_path / "a.nii.gz", "") for _ in range(2)]
    assert len(calls) == 1 and np.array_equal(answers[0].mask, answers[1].mask)
    again = Timed(segment, tmp_path / "masks")
    again(tmp_path / "b.nii.gz", "")
    assert len(calls) == 2 and len(again.seconds) == 1


def test_what_is_missing_is_named(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(InputRefused, match="model_7.pt does not exist"):
        BlastCt(repository, [7])
    with pytest.raises(InputRefused, match="holds no blast_ct"):
        BlastCt(tmp_path / "nowhere")
