"""How often the experts' own masks are flagged."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from convformer_monai.evaluation.flag_rates import MOST, flag_rates, report_flags
from convformer_monai.phantoms import cardiac_phantom, dermoscopy_phantom


def hearts(folder: Path) -> Path:
    """Two labelled hearts; of one the label is empty."""
    cases = []
    for seed in (0, 1):
        image, label = cardiac_phantom(shape=(64, 64, 3), spacing=(2.4, 2.4, 10.0), seed=seed).save(folder, f"p{seed}")
        cases.append({"image": image.name, "label": label.name})
    empty = nib.load(label)
    nib.save(nib.Nifti1Image(np.zeros(empty.shape, np.uint8), empty.affine, empty.header), label)
    (folder / "datalist.json").write_text(json.dumps({"train": cases[:1], "val": cases[1:]}))
    return folder


def test_rates_of_volumes(tmp_path: Path) -> None:
    (rate,) = flag_rates("cardiac", hearts(tmp_path), ["train", "val"])
    assert (rate.flag, rate.flagged, rate.cases, rate.rate) == ("MASK_EMPTY", 1, 2, 0.5)


def test_table(tmp_path: Path) -> None:
    text = report_flags("cardiac", hearts(tmp_path), tmp_path / "out", ["val"])
    assert "| `MASK_EMPTY` | 1 of 1 | 100.0% |" in text and text.endswith("more than 10%: MASK_EMPTY")
    assert (tmp_path / "out" / "flags.csv").read_text() == "flag,flagged,cases,rate\nMASK_EMPTY,1,1,1.0000\n"
    assert report_flags("cardiac", tmp_path, tmp_path / "out", ["train"]).endswith("more than 10%: none")


def test_photographs(tmp_path: Path) -> None:
    image, label = dermoscopy_phantom(size=(96, 80)).save(tmp_path, "x")
    (tmp_path / "datalist.json").write_text(json.dumps({"val": [{"image": image.name, "label": label.name}]}))
    assert flag_rates("dermoscopy", tmp_path, ["val"]) == []


@pytest.mark.parametrize(("bundle", "data"), [("cardiac", "acdc")])
def test_no_flag_is_raised_on_every_tenth_expert_mask(bundle: str, data: str, data_dir: Path) -> None:
    assert all(rate.rate <= MOST for rate in flag_rates(bundle, data_dir / data, ["val"]))
