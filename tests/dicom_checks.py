"""What the tests of the DICOM reader share: the checks of an accepted and of a refused series."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from convformer_monai.errors import InputRefused
from convformer_monai.phantoms.dicom import Identity, SliceStack, linear_value
from convformer_monai.readers import read_series
from convformer_monai.readers.series import Frame, ImageSeries

TO_LPS = np.array([-1.0, -1.0, 1.0])
OBLIQUE = SliceStack.regular(angles=(20, -15, 40))


def lps(affine: NDArray[np.float64], index: NDArray[np.float64]) -> NDArray[np.float64]:
    """Voxel indices (..., 3) to LPS mm."""
    return (index @ affine[:3, :3].T + affine[:3, 3]) * TO_LPS


def check_linear(series: ImageSeries, stack: SliceStack, phases: Sequence[int] = (0,)) -> None:
    """Every voxel is where the affine says, the affine is the stack's, and every frame is behind its slice."""
    assert series.image.shape == (len(phases), *stack.shape)
    assert series.image.dtype.is_floating_point and series.format == "dicom"
    np.testing.assert_allclose(series.affine, stack.affine, atol=1e-3)
    check_values(series, phases)
    check_frames(series, phases)


def check_values(series: ImageSeries, phases: Sequence[int] = (0,)) -> None:
    """Every voxel has the value of its place and phase."""
    index = np.moveaxis(np.indices(series.image.shape[1:]), 0, -1).astype(np.float64)
    points = lps(series.affine, index)
    assert series.phases == tuple(phases)
    for image, phase in zip(series.image.numpy(), phases, strict=True):
        assert np.abs(image - linear_value(points, phase)).max() <= 1


def check_frames(series: ImageSeries, phases: Sequence[int] = (0,)) -> None:
    """``frames[p][k]`` names the file, instance and place of slice k in phase p."""
    assert len(series.frames) == len(phases)
    for phase, frames in zip(phases, series.frames, strict=True):
        assert [frame.slice_index for frame in frames] == sorted(frame.slice_index for frame in frames)
        for frame in frames:
            place = lps(series.affine, np.array([0.0, 0.0, frame.slice_index]))
            np.testing.assert_allclose(frame.position, place, atol=1e-3)
            dataset = dcmread(frame.path)
            assert frame.sop_instance_uid == dataset.SOPInstanceUID
            assert frame.sop_class_uid == dataset.SOPClassUID
            _check_first_pixel(dataset, frame, phase)


def _check_first_pixel(dataset: Dataset, frame: Frame, phase: int) -> None:
    """The source itself holds, in its first pixel, the value of that place and phase."""
    if frame.number is None:
        assert "NumberOfFrames" not in dataset
        pixels, rescale = dataset.pixel_array, dataset
    else:
        pixels = dataset.pixel_array[frame.number - 1]
        rescale = dataset.PerFrameFunctionalGroupsSequence[frame.number - 1].PixelValueTransformationSequence[0]
    value = pixels[0, 0] * float(rescale.get("RescaleSlope", 1)) + float(rescale.get("RescaleIntercept", 0))
    if value > -1024:  # else padding
        assert abs(value - float(linear_value(frame.position, phase))) <= 1


def check_refused(path: Path, codes: str | set[str], *words: str, **options: Any) -> InputRefused:
    """The reader refuses with this code, or one of these: one line that has these words, and nothing of the patient."""
    with pytest.raises(InputRefused) as caught:
        read_series(path, **options)
    refusal = caught.value
    assert refusal.code in ({codes} if isinstance(codes, str) else codes), str(refusal)
    check_private(str(refusal))
    assert "\n" not in refusal.message and "\r" not in refusal.message
    for word in words:
        assert word in refusal.message, refusal.message
    assert re.search(r"; \w+", refusal.message), f"says what, but not what to do: {refusal.message}"
    return refusal


def check_private(text: str) -> None:
    """No planted personal data in a text."""
    for patient in (1, 2):
        for keyword, value in Identity(patient=patient).planted.items():
            for part in re.split(r"[\^]", value):
                assert part.lower() not in text.lower(), f"{keyword} leaks"
