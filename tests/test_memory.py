"""Peak memory of a deep CT: image and mask, and what does not grow with the slices. The network is a trivial one."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from convformer_monai.benchmarks.measures import peak_growth
from convformer_monai.outputs.case import process
from convformer_monai.outputs.writer import Options
from convformer_monai.readers import read_series
from convformer_monai.readers.cases import Case
from convformer_monai.segmenter import Segmenter

SHAPE = (512, 512, 120)
VOXELS = int(np.prod(SHAPE))
FLOAT32 = 4 * VOXELS
MB = 2**20


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ball of bone with a ball of blood in it."""
    axes = np.ogrid[[slice(0, size) for size in SHAPE]]
    spacing = (0.45, 0.45, 1.2)
    distance = (
        sum(((axis - size / 2) * step) ** 2 for axis, size, step in zip(axes, SHAPE, spacing, strict=True)) ** 0.5
    )
    values = np.full(SHAPE, -1000, np.int16)
    for radius, value in ((70, 1000), (64, 30), (15, 70)):
        values[distance < radius] = value
    path = tmp_path_factory.mktemp("ct") / "ct.nii.gz"
    nib.save(nib.Nifti1Image(values, np.diag([-spacing[0], spacing[1], spacing[2], 1.0])), path)
    return path


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    made = Segmenter("hemorrhage", "cpu")
    made.network = torch.nn.Module()
    made.network.forward = lambda x: torch.stack([-(x[:, 1] - 55), x[:, 1] - 55], dim=1)  # of the middle slice
    return made


def test_reading(ct: Path) -> None:
    read_series(ct)
    stored = 2 * VOXELS
    assert peak_growth(lambda: read_series(ct)) < stored + FLOAT32 + 20 * MB


def test_segmenting_and_writing(segmenter: Segmenter, ct: Path, tmp_path: Path) -> None:
    """Beside the image: its flipped copy, what the network sees and says of it, and the mask."""
    seen = round(0.45 * 512) ** 2 * SHAPE[2]  # voxels at 1 mm
    limit = 2 * FLOAT32 + VOXELS + seen * 4 * (1 + 2 + 2 + 2) + 150 * MB
    files = []

    def segment() -> None:
        files.extend(process(segmenter, Case(ct, "ct"), tmp_path, Options())[0])

    assert peak_growth(segment) < limit
    mask = np.asarray(nib.load(tmp_path / "ct_seg.nii.gz").dataobj)
    assert mask.shape == SHAPE and mask[240:270, 240:270, 55:65].all() and not mask[:50].any()
