"""UIDs of DICOM results: the same for a repeat, others for whatever differs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from tiny_cohort import tiny_bundle

from convformer_monai.outputs.case import process
from convformer_monai.outputs.writer import Options
from convformer_monai.phantoms.dicom import SliceStack, linear_series, save_series
from convformer_monai.readers.cases import Case
from convformer_monai.segmenter import Segmenter

FORMATS = Options(formats=("dicom-seg", "dicom-sr", "dicom-sc", "dicom-rtstruct"))


def small_mr(folder: Path) -> Path:
    stack = SliceStack.regular(shape=(24, 20, 3))
    save_series(linear_series(stack, modality="MR"), folder)
    return folder


@pytest.fixture
def segmenter(bundle_root: Path, tmp_path: Path) -> Segmenter:
    return Segmenter(tiny_bundle(bundle_root, tmp_path / "tiny"), "cpu")


def uids(segmenter: Segmenter, image: Path, folder: Path, options: Options = FORMATS) -> dict[str, tuple[Any, ...]]:
    """UIDs of series, instance and structures of each DICOM result."""
    files, _ = process(segmenter, Case(image, "x"), folder, options)
    found = {}
    for file in files:
        if file.suffix == ".dcm":
            dataset = dcmread(file)
            tracked = tuple(item.TrackingUID for item in dataset.get("SegmentSequence", ()) if "TrackingUID" in item)
            found[file.name] = (dataset.SeriesInstanceUID, dataset.SOPInstanceUID, *tracked)
    return found


def test_a_repeat_is_the_same_object_and_anything_else_another(segmenter: Segmenter, tmp_path: Path) -> None:
    image = small_mr(tmp_path / "image")
    first = uids(segmenter, image, tmp_path / "1")
    assert set(first) == {"x_seg.dcm", "x_sr.dcm", "x_sc.dcm", "x_rtstruct.dcm"}
    everything = [uid for each in first.values() for uid in each]
    assert len(set(everything)) == len(everything)
    assert uids(segmenter, image, tmp_path / "2") == first
    shutil.copytree(image, tmp_path / "elsewhere")
    assert uids(segmenter, tmp_path / "elsewhere", tmp_path / "3", replace(FORMATS, preview=True)) == first

    segmenter.weights_sha256 = "0" * 64
    other_weights = uids(segmenter, image, tmp_path / "4")
    other_kind = uids(segmenter, image, tmp_path / "5", replace(FORMATS, seg_type="LABELMAP"))
    for path in sorted(image.iterdir())[:1]:
        dataset = dcmread(path)
        dataset.PixelData = bytes(len(dataset.PixelData))
        dataset.save_as(path)
    other_voxels = uids(segmenter, image, tmp_path / "6")
    versions = (first, other_weights, other_kind, other_voxels)
    for name in first:
        assert len({uid for version in versions for uid in version[name]}) == sum(len(v[name]) for v in versions)


def test_another_mask_of_the_same_image_is_another_object(segmenter: Segmenter, tmp_path: Path) -> None:
    """One engine, device or precision may label a voxel as another does not."""
    image = small_mr(tmp_path / "image")
    first = uids(segmenter, image, tmp_path / "1")
    run = segmenter.run

    def with_one_voxel_changed(*args: Any, **options: Any) -> Any:
        found = run(*args, **options)
        labels = found.labels.clone()
        labels[0, 3, 4, 1] = (labels[0, 3, 4, 1] + 1) % 4
        return replace(found, labels=labels)

    segmenter.run = with_one_voxel_changed  # type: ignore[method-assign]
    other = uids(segmenter, image, tmp_path / "2")
    assert set(other) == set(first)
    for name in first:
        assert not set(first[name]) & set(other[name])
    assert uids(segmenter, image, tmp_path / "3") == other
