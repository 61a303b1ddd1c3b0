"""Silver masks of whole heads, with the toy network of the comparison in the place of BLAST-CT's."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from convformer_monai.benchmarks.silver_heads import run, silver_mask
from convformer_monai.training.unknown import UNKNOWN


def test_only_marked_slices_have_a_mask() -> None:
    """Slices 1 and 2 are marked; the second has too little. What is as bright as bone is never blood."""
    image = np.full((40, 40, 4), 30.0)
    image[:10, :10] = 300
    probability = np.zeros((40, 40, 4))
    probability[:20, :20] = 0.9
    probability[20:, 20:] = 0.3
    probability[..., 2] = 0
    mask = silver_mask(probability, image, (1.0, 1.0, 5.0), [1, 2])
    assert not mask[..., [0, 3]].any()
    assert (mask[..., 2] == UNKNOWN).all()
    assert not mask[:10, :10, 1].any() and (mask[10:20, 10:20, 1] == 1).all()
    assert (mask[20:, 20:, 1] == UNKNOWN).all() and not mask[20:, :20, 1].any()


def test_masks_of_heads_with_blood(repository: Path, tmp_path: Path) -> None:
    values = np.full((72, 96, 16), -1000, np.int16)
    values[10:60, 10:80, 2:14] = 30
    values[20:40, 50:70, 5:9] = 70
    heads = []
    for name, marked in (("a", [5, 6, 7, 8]), ("b", [])):
        nib.save(nib.Nifti1Image(values, np.diag([-2.0, -1.5, 5.0, 1.0])), tmp_path / f"{name}.nii.gz")
        heads.append({"image": f"{name}.nii.gz", "id": name, "patient": name, "blood_slices": marked, "blood": True})
    (tmp_path / "datalist.json").write_text(json.dumps({"heads": heads}))
    text = run(repository, tmp_path, tmp_path / "silver", [1])
    assert [file.name for file in (tmp_path / "silver").iterdir()] == ["a.nii.gz"]
    mask, truth = np.asarray(nib.load(tmp_path / "silver" / "a.nii.gz").dataobj) == 1, values == 70
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.85
    assert "| all | 1 | 1 |" in text
