"""A model run in OHIF: an annotator with a PACS, a browser and the server sees the mask where the bleed is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from browser import Ohif, Picture, View
from chromium import chromium
from label_server import label_server
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from pacs import DICOMWEB_PLUGIN, ORTHANC, orthanc
from PIL import Image

from convformer_monai.phantoms.dicom import SliceStack, classic_series, save_series
from convformer_monai.phantoms.head_ct import HeadCtPhantom, head_ct_phantom

CENTER, WIDTH = 40, 80  # of the window through which a brain is looked at, Hounsfield units
MISSING = not (ORTHANC and DICOMWEB_PLUGIN.exists() and shutil.which("chromium") and shutil.which("chromedriver"))

pytestmark = pytest.mark.skipif(
    MISSING, reason="needs Debian's packages orthanc, orthanc-dicomweb, chromium and chromium-driver"
)


def test_the_mask_lies_on_the_bleed(tmp_path: Path) -> None:
    phantom = head_ct_phantom(seed=0)
    with orthanc(tmp_path / "pacs") as pacs:
        pacs.upload(write_series(phantom, tmp_path / "head"))
        (series,) = pacs.series()
        with label_server("hemorrhage", pacs.dicomweb, tmp_path) as server, chromium(tmp_path / "browser") as driver:
            viewer = Ohif(driver, server.url)
            viewer.open(series["StudyInstanceUID"])
            viewer.connect()
            (model,) = viewer.models()
            before = viewer.picture()
            viewer.segment(model)
            after = viewer.picture()
            views = [viewer.view(name) for name in ("mpr-axial", "mpr-coronal")]
            segments, asked = viewer.segments(), [request["url"] for request in viewer.requests()]
    Image.fromarray(after).save(screenshots(tmp_path) / "ohif.png")

    runs = [url for url in asked if "/infer/" in url]
    assert runs == [f"{server.url}/infer/{model}?image={series['SeriesInstanceUID']}&output=image"]
    assert list(segments) == ["hemorrhage"]
    for view in views:  # the coronal one tells a mask whose slices are in the wrong order
        check_overlay(view.cut(before), view.cut(after), in_voxels(view, phantom), phantom, segments["hemorrhage"])


def check_overlay(
    before: Picture, after: Picture, voxels: NDArray[np.int64], phantom: HeadCtPhantom, colour: Sequence[int]
) -> None:
    """Checks that a viewport shows the head, and with the mask on it blood and nothing else in colour.

    Args:
        before: the viewport without the mask, RGB of shape (rows, columns, 3).
        after: the same with the mask.
        voxels: (rows, columns, 3) which voxel each pixel shows.
        phantom: the head.
        colour: that the viewer has for the segment.
    """
    inside = np.all((voxels >= 0) & (voxels < phantom.image.shape), axis=-1)
    shown = tuple(voxels[inside].T)
    image = np.clip(phantom.image[shown], CENTER - WIDTH / 2, CENTER + WIDTH / 2)
    alike = np.corrcoef(image, before[inside].mean(axis=-1))[0, 1]
    assert alike > 0.9, f"the viewport shows something else than the voxels that are compared ({alike:.3f})"

    blood = np.zeros(inside.shape, dtype=bool)
    blood[inside] = phantom.label[shown] == 1
    assert blood.sum() > 300, "there is too little blood to compare with"
    overlay = np.any(after != before, axis=-1)
    overlap = 2 * np.sum(overlay & blood) / (overlay.sum() + blood.sum())
    assert overlap > 0.8, f"the overlay lies elsewhere than the blood (Dice {overlap:.3f})"
    change = after[overlay].mean(axis=0) - before[overlay].mean(axis=0)
    assert change.argmax() == np.argmax(colour), f"the overlay has not the colour of its segment ({change})"


def screenshots(folder: Path) -> Path:
    """Where to leave pictures: the folder of the environment variable, if there is one."""
    target = Path(os.environ.get("CONVFORMER_SCREENSHOTS") or folder)
    target.mkdir(parents=True, exist_ok=True)
    return target


def write_series(phantom: HeadCtPhantom, folder: Path) -> Path:
    """Writes the head as scanners do that number the slices from the top: against their order in the volume."""
    stack = SliceStack.from_affine(phantom.image.shape, phantom.affine)
    datasets = classic_series(phantom.image, stack, modality="CT")
    for number, dataset in enumerate(reversed(datasets), start=1):
        dataset.InstanceNumber = number
        dataset.WindowCenter, dataset.WindowWidth = CENTER, WIDTH
    save_series(datasets, folder)
    return folder


def in_voxels(view: View, phantom: HeadCtPhantom) -> NDArray[np.int64]:
    """Voxel of the phantom that each pixel of a viewport shows, (rows, columns, 3)."""
    ras = view.points() * (-1, -1, 1)
    return np.rint(apply_affine(np.linalg.inv(phantom.affine), ras)).astype(np.int64)
