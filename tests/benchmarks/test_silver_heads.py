"""Silver masks of whole heads, with the toy network of the comparison in the place of BLAST-CT's."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from convformer_monai.benchmarks.silver_heads import run, silver_mask
from convformer_monai.errors import InputRefused, RefusalCode
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

    (tmp_path / "silver" / "a.nii.gz").write_bytes(b"mine")
    with pytest.raises(
        InputRefused, match="a.nii.gz exists already; remove it, or give another --output-dir"
    ) as caught:
        run(tmp_path / "nowhere", tmp_path, tmp_path / "silver", [1])  # before BLAST-CT is looked for
    assert caught.value.code == RefusalCode.EXISTS and (tmp_path / "silver" / "a.nii.gz").read_bytes() == b"mine"


def test_a_mask_is_complete_or_not_there(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nib.save(
        nib.Nifti1Image(np.full((24, 24, 4), 70, np.int16), np.diag([-2.0, -2.0, 5.0, 1.0])), tmp_path / "a.nii.gz"
    )
    head = {"image": "a.nii.gz", "id": "site/a", "patient": "a", "blood_slices": [1], "blood": True}
    (tmp_path / "datalist.json").write_text(json.dumps({"heads": [head]}))

    def full(_image: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context, pytest.raises(InputRefused, match="no space left"):
        context.setattr(nib.Nifti1Image, "to_filename", full)
        run(repository, tmp_path, tmp_path / "silver", [1])
    assert not [file for file in (tmp_path / "silver").rglob("*") if file.is_file()]
    run(repository, tmp_path, tmp_path / "silver", [1])
    assert (tmp_path / "silver" / "site" / "a.nii.gz").is_file()
