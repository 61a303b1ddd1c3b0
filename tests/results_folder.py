"""Folders of results as `segment` leaves them, made without a network."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from convformer_monai.bundle import Bundle
from convformer_monai.outputs.label_files import slicer_colours
from convformer_monai.outputs.report import SCHEMA

AFFINE = np.diag([-1.5, -1.5, 8.0, 1.0])
SHAPE = (12, 10, 3)


def write_result(
    folder: Path,
    name: str,
    *,
    flags: tuple[str, ...] = (),
    doubt: float | None = None,
    fraction: float | None = 55.0,
    bundle: str = "cardiac",
) -> Path:
    """Writes a case: report, measurements, mask; returns the beginning of its paths."""
    base = folder / name
    base.parent.mkdir(parents=True, exist_ok=True)
    loaded = Bundle(bundle)
    evidence = {} if doubt is None else {"expected_dice": 1 - doubt}
    files = [base.name + end for end in ("_seg.nii.gz", "_seg.png", "_seg.ctbl", "_report.html", "_preview.png")]
    report = {"schema": SCHEMA, "bundle": {"name": loaded.name}, "evidence": evidence, "files": files}
    items = [{"name": "lv_ef", "title": "Left ventricular ejection fraction", "value": fraction, "unit": "%"}]
    items += [{"name": "lv_volume", "title": "Volume", "value": phase, "unit": "mL"} for phase in (1.0, 2.0)]
    measured = {"measurements": items, "flags": [{"code": code, "message": f"look: {code}"} for code in flags]}
    base.with_name(f"{base.name}_report.json").write_text(json.dumps(report))
    base.with_name(f"{base.name}_measurements.json").write_text(json.dumps(measured))
    base.with_name(f"{base.name}_seg.ctbl").write_text(slicer_colours(loaded.labels))
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:8, 3:7, 1] = 3
    nib.Nifti1Image(labels, AFFINE).to_filename(base.with_name(f"{base.name}_seg.nii.gz"))
    return base


def write_mask(path: Path, labels: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> Path:
    """Writes a mask as a reviewer would send it."""
    if labels is None:
        labels = np.zeros(SHAPE, np.uint8)
        labels[4:9, 3:7, 1] = 3
        labels[2, 2, 0] = 1
    nib.Nifti1Image(labels, affine).to_filename(path)
    return path
