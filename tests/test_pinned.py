"""Masks and measurements of the shipped bundles, pinned byte by byte: restructuring must not change a figure.

The network runs in float32 (``amp`` off): bfloat16 rounds differently from machine to machine.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from convformer_monai.measurements.measure import measure
from convformer_monai.phantoms import cardiac_phantom, dermoscopy_phantom, head_ct_phantom
from convformer_monai.readers.series import ImageSeries
from convformer_monai.segmenter import Segmenter

PINNED = json.loads((Path(__file__).parent / "pinned.json").read_text())
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


def hashes(bundle: str, path: Path) -> dict[str, str]:
    """SHA-256 of a mask and of its measurements, but for the names of bundle and case."""
    series: ImageSeries = segmenter(bundle).read(path)
    labels = segmenter(bundle).run(series).labels.numpy()
    labels = labels[0] if series.is_photo else labels
    content = measure(labels, series, segmenter(bundle).bundle.task, case="case").to_dict()
    del content["bundle"]
    return {
        "mask": hashlib.sha256(f"{labels.shape}".encode() + np.ascontiguousarray(labels).tobytes()).hexdigest(),
        "measurements": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
    }


@pytest.mark.parametrize("bundle", ["cardiac", "dermoscopy", "hemorrhage"])
def test_phantoms(bundle, tmp_path):
    if bundle == "cardiac":
        phantom = cardiac_phantom(shape=(112, 112, 5), spacing=(1.6, 1.6, 10.0), num_phases=4, seed=1)
        path, _ = phantom.save(tmp_path, "case")
    elif bundle == "hemorrhage":
        path, _ = head_ct_phantom(seed=1, bleeds=["intraparenchymal", "intraventricular"]).save(tmp_path, "case")
    else:
        path, *_ = dermoscopy_phantom(seed=1, size=(320, 240)).save(tmp_path, "case", ".png")
    assert hashes(bundle, path) == PINNED[f"{bundle} phantom"]


@pytest.mark.parametrize("sample", SAMPLES)
def test_real_images(sample, data_dir):
    assert hashes(SAMPLES[sample], data_dir / sample) == PINNED[sample]
