"""The comparison with BLAST-CT, with a small network in the place of its own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from convformer_monai.benchmarks import blast_ct
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


def test_masks_are_kept_for_the_next_run_while_the_image_is_the_same(tmp_path: Path) -> None:
    calls = []

    def segment(image: object, _patient: str) -> Answer:
        calls.append(image)
        return Answer(np.arange(8).reshape(2, 2, 2) % (2 + len(calls)) == 0)

    image, other = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    image.write_bytes(b"one")
    other.write_bytes(b"one")
    kept = {image: tmp_path / "masks" / "a.npz"}
    answers = [Timed(segment, kept)(image, "") for _ in range(2)]
    assert len(calls) == 1 and np.array_equal(answers[0].mask, answers[1].mask)
    again = Timed(segment, kept)
    again(other, "")
    assert len(calls) == 2 and len(again.seconds) == 1, "has no file to be kept in"
    image.write_bytes(b"other data")
    changed = [Timed(segment, kept)(image, "") for _ in range(2)]
    assert len(calls) == 3 and np.array_equal(changed[0].mask, changed[1].mask)
    assert not np.array_equal(changed[0].mask, answers[0].mask)


def test_heads_whose_files_have_one_name_get_masks_of_their_own(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``p1/scan.nii.gz`` and ``p2/scan.nii.gz``; and ``a.1``, whose name ended at the first dot."""
    heads = []
    for number, place in enumerate(("p1/scan.nii.gz", "p2/scan.nii.gz", "a.1.nii.gz", "a.2.nii.gz")):
        values = np.full((24, 24, 4), 30, np.int16)
        values[4 : 8 + 4 * number, 4:20] = 70
        (tmp_path / place).parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(values, np.diag([-2.0, -2.0, 5.0, 1.0])), tmp_path / place)
        heads.append({"image": place, "id": f"h/{number}", "patient": str(number), "blood_slices": [1], "blood": True})
    (tmp_path / "datalist.json").write_text(json.dumps({"heads": heads}))

    def ours(image: Path, _patient: str) -> Answer:
        return Answer(np.asarray(nib.load(image).dataobj) == 70)

    monkeypatch.setattr(blast_ct, "segment_with", lambda *_: ours)
    monkeypatch.setattr(blast_ct, "draw_agreement", lambda *_: False)
    for _ in range(2):
        blast_ct.run(repository, tmp_path, tmp_path / "out")
        rows = list(csv.reader((tmp_path / "out" / "blast_ct.csv").open()))[1:]
        assert len({row[2] for row in rows}) == 4, "each head has a volume of its own"
    assert {file.name for file in (tmp_path / "out" / "masks_1").iterdir()} == {f"h%2F{n}.npz" for n in range(4)}


def test_what_is_missing_is_named(tmp_path: Path, repository: Path) -> None:
    with pytest.raises(InputRefused, match="model_7.pt does not exist"):
        BlastCt(repository, [7])
    with pytest.raises(InputRefused, match="holds no blast_ct"):
        BlastCt(tmp_path / "nowhere")
