"""Classic series: one file a slice (and phase), CT, MR or PET."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage, PositronEmissionTomographyImageStorage

from convformer_monai.phantoms.dicom.modules import Identity, code, ds, item, new_instance, set_pixels, set_plane
from convformer_monai.phantoms.dicom.modules import stored_values as stored
from convformer_monai.phantoms.dicom.stack import SliceStack

__all__ = ["classic_series", "linear_series", "localizer"]

SOP_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
INTERCEPTS = {"CT": -1024.0, "MR": 0.0, "PT": 0.0}


def classic_series(
    volume: NDArray[np.generic],
    stack: SliceStack,
    *,
    modality: str = "MR",
    phase_times_ms: Sequence[float] = (),
    slope: float = 1.0,
    padding: int | None = None,
    series_per_level: bool = False,
    identity: Identity | None = None,
) -> list[Dataset]:
    """Makes the datasets of a series, slice by slice and within a slice phase by phase.

    They are ordinary pydicom datasets: change them to make a fault, then give them to :func:`save_series`.

    Args:
        volume: (X, Y, Z) or (X, Y, Z, T); NaN where nothing was measured.
        stack: where the voxels are.
        modality: CT, MR or PT. Only MR has no rescale.
        phase_times_ms: time after the R wave of each of the T phases (TriggerTime), evenly over 900 ms by default.
        slope: RescaleSlope of CT and PT; half of it is the largest rounding error.
        padding: PixelPaddingValue, as stored, for NaN.
        series_per_level: a series for each slice position, as some scanners do for a cine.
        identity: whose and which.

    Raises:
        ValueError: if an argument is not allowed or does not fit another.
    """
    values = np.asarray(volume)
    if modality not in SOP_CLASSES:
        raise ValueError(f"modality must be one of {', '.join(SOP_CLASSES)}, got {modality!r}")
    if values.shape[:3] != stack.shape or values.ndim not in (3, 4):
        raise ValueError(f"volume must have the shape {stack.shape} of the stack (and phases), got {values.shape}")
    if modality == "MR" and slope != 1.0:
        raise ValueError(f"slope must be 1 for MR, whose classic images have no rescale, got {slope}")
    cine = values.ndim == 4
    times = _times(phase_times_ms, values.shape[3] if cine else 0)
    pixels = stored(values, slope, INTERCEPTS[modality], padding).reshape(*stack.shape, -1)
    who = identity or Identity()
    datasets = []
    for level in range(stack.shape[2]):
        whose = replace(who, series=who.series + level) if series_per_level else who
        for phase in range(pixels.shape[3]):
            number = 1 + phase + (0 if series_per_level else level * pixels.shape[3])
            dataset = new_instance(whose, SOP_CLASSES[modality], modality, number)
            set_plane(dataset, stack, level)
            set_pixels(dataset, pixels[:, :, level, phase].T)
            _MODULES[modality](dataset, slope, stack.shape[2])
            if padding is not None:
                dataset.PixelPaddingValue = padding
            if cine:
                _set_phase(dataset, phase, times)
            datasets.append(dataset)
    return datasets


def linear_series(
    stack: SliceStack | None = None, *, phases: int = 1, modality: str = "CT", **options: Any
) -> list[Dataset]:
    """Makes the datasets of a series whose values are :func:`linear_value` of their place.

    Args:
        stack: where the voxels are; a small one by default.
        phases: more than 1 makes a cine.
        modality: CT, MR or PT.
        options: as of :func:`classic_series`.
    """
    where = stack or SliceStack.regular()
    return classic_series(where.linear_volume(phases), where, modality=modality, **options)


def localizer(stack: SliceStack | None = None, *, modality: str = "CT", identity: Identity | None = None) -> Dataset:
    """Makes the scout image of an examination: one sagittal slice through the middle of the stack.

    Args:
        stack: what it is the scout of.
        modality: CT or MR.
        identity: whose and which; give the series of the stack to put it into the same series.
    """
    where = stack or SliceStack.regular()
    points = where.points().reshape(-1, 3)
    low, high = points.min(axis=0), points.max(axis=0)
    size = (32, 48)
    scout = SliceStack(
        size=size,
        spacing=(float(high[1] - low[1]) / (size[0] - 1), float(high[2] - low[2] + 1) / (size[1] - 1)),
        row=np.array([0.0, 1.0, 0.0]),
        column=np.array([0.0, 0.0, -1.0]),
        positions=np.array([[(low[0] + high[0]) / 2, low[1], high[2]]]),
    )
    who = identity or Identity(series=99)
    (dataset,) = classic_series(scout.linear_volume(), scout, modality=modality, identity=who)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    if modality == "CT":
        del dataset.RescaleType  # Hounsfield units are not for localizers (PS3.3 C.8.2.1.1.2)
    dataset.InstanceNumber = 0
    dataset.SOPInstanceUID = who.uid("localizer")
    return dataset


def _times(phase_times_ms: Sequence[float], phases: int) -> tuple[float, ...]:
    if not phase_times_ms:
        return tuple(900.0 * phase / phases for phase in range(phases))
    if len(phase_times_ms) != phases:
        raise ValueError(f"phase_times_ms must be {phases} times, got {len(phase_times_ms)}")
    return tuple(float(time) for time in phase_times_ms)


def _set_phase(dataset: Dataset, phase: int, times: Sequence[float]) -> None:
    dataset.TriggerTime = ds(times[phase])
    if dataset.Modality == "MR":
        dataset.ScanOptions = "CG"  # cardiac gating
        dataset.NominalInterval = "900"
        dataset.CardiacNumberOfImages = len(times)
    dataset.TemporalPositionIdentifier = phase + 1
    dataset.NumberOfTemporalPositions = len(times)


def _set_ct(dataset: Dataset, slope: float, slices: int) -> None:
    """CT image module (PS3.3 C.8.2.1)."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = ds(INTERCEPTS["CT"]), ds(slope), "HU"
    dataset.KVP = "120"
    dataset.AcquisitionNumber = 1


def _set_mr(dataset: Dataset, slope: float, slices: int) -> None:
    """MR image module (PS3.3 C.8.3.1)."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "GR", "SS", ""
    dataset.MRAcquisitionType = "2D"
    dataset.RepetitionTime, dataset.EchoTime, dataset.EchoTrainLength = "3.0", "1.5", "1"
    dataset.MagneticFieldStrength = "1.5"
    dataset.AcquisitionNumber = 1


def _set_pet(dataset: Dataset, slope: float, slices: int) -> None:
    """PET series, isotope and image modules (PS3.3 C.8.9)."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    del dataset.PatientPosition  # the codes stand instead of it
    dataset.PatientOrientationCodeSequence = code("102538003", "SCT", "recumbent")
    dataset.PatientOrientationCodeSequence[0].PatientOrientationModifierCodeSequence = code("40199007", "SCT", "supine")
    dataset.PatientGantryRelationshipCodeSequence = code("102540008", "SCT", "headfirst")
    dataset.Units, dataset.CountsSource, dataset.SeriesType = "BQML", "EMISSION", ["STATIC", "IMAGE"]
    dataset.NumberOfSlices = slices
    dataset.CorrectedImage = ["DECY", "ATTN", "SCAT", "NORM"]
    dataset.DecayCorrection, dataset.CollimatorType = "START", "NONE"
    dataset.RadiopharmaceuticalInformationSequence = item(
        RadionuclideCodeSequence=code("77004003", "SCT", "^18^Fluorine"),
        RadiopharmaceuticalCodeSequence=code("35321007", "SCT", "Fluorodeoxyglucose F^18^"),
        RadiopharmaceuticalStartTime="130000",
        RadionuclideHalfLife="6586.2",
        RadionuclideTotalDose="3.0E8",
        RadiopharmaceuticalVolume=None,
    )
    dataset.FrameReferenceTime, dataset.ActualFrameDuration = "0", "120000"
    dataset.DecayFactor, dataset.ImageIndex = "1", dataset.InstanceNumber
    dataset.RescaleIntercept, dataset.RescaleSlope = ds(INTERCEPTS["PT"]), ds(slope)
    dataset.DoseCalibrationFactor = "1"


_MODULES = {"CT": _set_ct, "MR": _set_mr, "PT": _set_pet}
