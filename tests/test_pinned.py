"""Masks and measurements of the shipped bundles, pinned byte by byte: restructuring must not change a figure.

The network runs in float32 (``amp`` off). Processors of another instruction set round differently: there the number of
voxels of each structure must agree to 1%. ``CONVFORMER_PIN=1`` pins anew, for a change that is meant.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convformer_monai.measurements.measure import measure
from convformer_monai.phantoms import cardiac_phantom, dermoscopy_phantom, head_ct_phantom
from convformer_monai.readers.series import ImageSeries
from convformer_monai.segmenter import Segmenter

FILE = Path(__file__).parent / "pinned.json"
PINNED = json.loads(FILE.read_text())
SAMPLES = {
    "acdc/val/patient002_frame01.nii.gz": "cardiac",
    "acdc/val/patient002_frame12.nii.gz": "cardiac",
    "isic2017/val/images/ISIC_0001769.jpg": "dermoscopy",
    "isic2017/val/images/ISIC_0001852.jpg": "dermoscopy",
    "ich/heads/ctich_053.nii.gz": "hemorrhage",
}


@cache
def segmenter(bundle: str) -> Segmenter:
    return Segmenter(bundle, "cpu", overrides={"amp": False})


def found_by(bundle: str, path: Path) -> dict[str, Any]:
    """SHA-256 of a mask and of its measurements, but for the names of bundle and case; and voxels by structure."""
    series: ImageSeries = segmenter(bundle).read(path)
    labels = segmenter(bundle).run(series).labels.numpy()
    labels = labels[0] if series.is_photo else labels
    content = measure(labels, series, segmenter(bundle).bundle.task, case="case").to_dict()
    del content["bundle"]
    return {
        "mask": hashlib.sha256(f"{labels.shape}".encode() + np.ascontiguousarray(labels).tobytes()).hexdigest(),
        "measurements": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        "voxels": np.bincount(labels.ravel()).tolist(),
    }


def check(name: str, found: dict[str, Any]) -> None:
    processor = torch.backends.cpu.get_cpu_capability()
    if os.environ.get("CONVFORMER_PIN"):
        content = json.loads(FILE.read_text()) | {"processor": processor, name: found}
        FILE.write_text(json.dumps(content, indent=2) + "\n")
    elif processor == PINNED["processor"]:
        assert found == PINNED[name]
    else:
        assert found["voxels"] == pytest.approx(PINNED[name]["voxels"], rel=0.01, abs=3)


@pytest.mark.parametrize("bundle", ["cardiac", "dermoscopy", "hemorrhage"])
def test_phantoms(bundle, tmp_path):
    if bundle == "cardiac":
        phantom = cardiac_phantom(shape=(112, 112, 5), spacing=(1.6, 1.6, 10.0), num_phases=4, seed=1)
        path, _ = phantom.save(tmp_path, "case")
    elif bundle == "hemorrhage":
        path, _ = head_ct_phantom(seed=1, bleeds=["intraparenchymal", "intraventricular"]).save(tmp_path, "case")
    else:
        path, *_ = dermoscopy_phantom(seed=1, size=(320, 240)).save(tmp_path, "case", ".png")
    check(f"{bundle} phantom", found_by(bundle, path))


@pytest.mark.parametrize("sample", SAMPLES)
def test_real_images(sample, data_dir):
    check(sample, found_by(SAMPLES[sample], data_dir / sample))
