"""DICOM in: one series of CT, MR or PET slices, classic or enhanced, as one volume or cine; or refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from monai.config import PathLike
from monai.data import MetaTensor
from monai.utils import SpaceKeys
from numpy.typing import NDArray
from pydicom import Dataset

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.dicom.frames import FrameHeader
from convformer_monai.readers.dicom.geometry import SliceLine, common_plane, slice_line
from convformer_monai.readers.dicom.parsing import read_header, silent_pydicom
from convformer_monai.readers.dicom.phases import PhaseGrid, phase_grid
from convformer_monai.readers.dicom.pixels import read_pixels
from convformer_monai.readers.dicom.series import find_series
from convformer_monai.readers.limits import MAX_VOXELS
from convformer_monai.readers.phases import chosen_phases
from convformer_monai.readers.series import Frame, ImageSeries

__all__ = ["read_dicom", "source_datasets"]

MIN_TILT_DEGREES = 0.1


def read_dicom(
    path: PathLike,
    *,
    series_uid: str | None = None,
    phase: int | str | None = None,
    modality: str | Sequence[str] | None = None,
    resample_uneven: bool = False,
) -> ImageSeries:
    """Reads one DICOM series, strictly.

    Slices are sorted by their position along the normal, and phases by time; names and instance numbers do not matter.
    Values are those after the modality LUT (Hounsfield units in CT), never inverted for MONOCHROME1; padding is -1024
    in CT and 0 else. A single file is read if it is multi-frame, or the only slice of its series in its folder.

    Args:
        path: a file, or a folder that is searched with its sub-folders.
        series_uid: which series of the folder; needed where it holds several. A cine with one series for each slice
            position counts as one.
        phase: 0-based phase of a cine, or ``"all"``; ``None`` takes the only one, and refuses if there are more.
        modality: DICOM modality, or several, that the image must have; ``None`` takes CT, MR and PET.
        resample_uneven: resample slices linearly onto even steps of about the smallest gap, whatever the gaps, instead
            of refusing uneven ones. A warning names the largest.

    Returns:
        The image (phases, X, Y, Z): X along the columns, Y along the rows, Z along the normal of the slices.

    Raises:
        InputRefused: if there is no such series, or it cannot be trusted.
        ValueError: if ``phase`` is not one of those.
    """
    modalities = (modality,) if isinstance(modality, str) else tuple(modality or ())
    with silent_pydicom:
        return _read(Path(path), series_uid, phase, modalities, resample_uneven)


def _read(
    path: Path, series_uid: str | None, phase: int | str | None, modalities: Sequence[str], resample_uneven: bool
) -> ImageSeries:
    """Reads one series; arguments as of :func:`read_dicom`."""
    with silent_pydicom:  # a value is converted, and complained of, when it is first looked at
        frames, warnings = find_series(path, series_uid, modalities)
        plane = common_plane(frames)
        grid = phase_grid(frames, plane.normal)
        _check_phases_differ(grid, path)
        phases = chosen_phases(phase, len(grid.frames), path)
        line = slice_line(grid.frames[0], plane)
        if line.problem is not None:
            if not resample_uneven:
                raise InputRefused(*line.problem)
            _check_resampled_size(line, plane.size, len(phases), path)
            warnings.append(_resampling_warning(grid.frames[0], line, plane.normal))
        if any(frame.instance.modality == "CT" and not _in_hounsfield(frame) for frame in frames):
            warnings.append("the values are not said to be Hounsfield units (rescale type)")
        tilt = line.tilt_degrees(plane)
        if tilt >= MIN_TILT_DEGREES:
            warnings.append(f"the slices are tilted by {tilt:.1f} degrees (gantry tilt), so the geometry is sheared")
        chosen = [grid.frames[number] for number in phases]
        values = read_pixels(chosen)
        if line.problem is not None:
            values = _resample(values, line)
        return ImageSeries(
            image=_image(values, line.affine(plane)),
            format="dicom",
            path=path,
            modality=frames[0].instance.modality or None,
            phases=phases,
            phase_times_ms=tuple(grid.times_ms[number] for number in phases) if grid.times_ms else (),
            frames=tuple(tuple(map(_frame, one, line.indices)) for one in chosen),
            warnings=tuple(warnings),
        )


def source_datasets(series: ImageSeries) -> list[Dataset]:
    """Reads the headers of the files that a series was read from, for results that refer to them.

    They hold the personal data of the patient.

    Args:
        series: read from DICOM.

    Returns:
        One dataset for each file, without pixel data, in the order of the frames.

    Raises:
        InputRefused: if a file cannot be read any more.
    """
    paths = dict.fromkeys(frame.path for phase in series.frames for frame in phase)
    with silent_pydicom:
        return [read_header(path)[0] for path in paths]


def _in_hounsfield(frame: FrameHeader) -> bool:
    """Tells whether the values are in Hounsfield units, which is so where nothing is stated (PS3.3 C.8.2.1.1.2)."""
    return frame.rescale is not None and frame.rescale.units in ("", "HU")


def _check_phases_differ(grid: PhaseGrid, path: Path) -> None:
    """Refuses copies of a series that pass for phases where only instance numbers tell them apart."""
    if not grid.is_guess:
        return
    middle = len(grid.frames[0]) // 2
    values = read_pixels([phase[middle : middle + 1] for phase in grid.frames])
    if any(np.array_equal(a, b) for a, b in pairwise(values)):
        raise InputRefused(
            RefusalCode.DUPLICATE_SLICES, f"{path} holds each slice more than once; leave the copies out"
        )


def _check_resampled_size(line: SliceLine, size: tuple[int, int], phases: int, path: Path) -> None:
    voxels = size[0] * size[1] * line.length * phases
    if voxels > MAX_VOXELS:
        raise InputRefused(
            RefusalCode.TOO_LARGE,
            f"{path} would have {voxels:,} voxels at even steps, above the limit of {MAX_VOXELS:,}",
        )


def _resampling_warning(slices: Sequence[FrameHeader], line: SliceLine, normal: NDArray[np.float64]) -> str:
    gaps = np.diff(np.array([frame.position for frame in slices]) @ normal)
    step = float(line.step @ normal)
    return (
        f"{len(slices)} unevenly spaced slices ({gaps.min():.2f} to {gaps.max():.2f} mm apart) were resampled to "
        f"{line.length} slices {step:.2f} mm apart; between slices {gaps.max():.2f} mm apart the values are guessed"
    )


def _resample(values: NDArray[np.float32], line: SliceLine) -> NDArray[np.float32]:
    """Resamples (phases, slices, rows, columns) linearly along the slices onto even steps."""
    even = np.empty((values.shape[0], line.length, *values.shape[2:]), dtype=np.float32)
    positions = np.interp(np.arange(line.length), line.indices, np.arange(len(line.indices)))
    for k, position in enumerate(positions):
        below = min(int(position), values.shape[1] - 2)
        weight = np.float32(position - below)
        even[:, k] = values[:, below] + weight * (values[:, below + 1] - values[:, below])
    return even


def _image(values: NDArray[np.float32], affine: NDArray[np.float64]) -> MetaTensor:
    """Makes the tensor (phases, X, Y, Z) of (phases, Z, Y, X)."""
    meta = {
        "original_affine": affine.copy(),
        "space": SpaceKeys.RAS,
        "spatial_shape": np.asarray(values.shape[:0:-1]),
    }
    return MetaTensor(torch.from_numpy(values).permute(0, 3, 2, 1), affine=torch.from_numpy(affine), meta=meta)


def _frame(frame: FrameHeader, index: float) -> Frame:
    x, y, z = (float(v) for v in frame.position)
    return Frame(
        path=frame.path,
        sop_instance_uid=frame.instance.uid,
        sop_class_uid=frame.instance.class_uid,
        number=frame.number,
        position=(x, y, z),
        slice_index=float(index),
    )
