"""Enhanced multi-frame images: a whole volume or cine in one file, CT or MR (PS3.3 A.38, A.36.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, EnhancedCTImageStorage, EnhancedMRImageStorage

from convformer_monai.phantoms.dicom.modules import (
    Identity,
    code,
    ds,
    item,
    new_instance,
    set_pixels,
    set_plane,
    stored_values,
)
from convformer_monai.phantoms.dicom.stack import SliceStack

__all__ = ["enhanced_image", "linear_enhanced"]

SOP_CLASSES = {"CT": EnhancedCTImageStorage, "MR": EnhancedMRImageStorage}
INTERCEPTS = {"CT": -1024.0, "MR": 0.0}
STACK_ID, IN_STACK, TEMPORAL = 0x00209056, 0x00209057, 0x00209128
FRAME_CONTENT = 0x00209111
BEAT_MS = 900.0


def enhanced_image(
    volume: NDArray[np.generic],
    stack: SliceStack,
    *,
    modality: str = "MR",
    slopes: Sequence[float] = (1.0,),
    order: Sequence[int] | None = None,
    identity: Identity | None = None,
) -> Dataset:
    """Makes an enhanced image; every frame has its own place and rescale.

    Args:
        volume: (X, Y, Z) or (X, Y, Z, T).
        stack: where the voxels are.
        modality: CT or MR.
        slopes: RescaleSlope of the frames, taken in turn; frames are stored differently but mean the same.
        order: which frame comes when; frame ``level * T + phase`` by default.
        identity: whose and which.

    Raises:
        ValueError: if an argument is not allowed or does not fit another.
    """
    values = np.asarray(volume, dtype=np.float64)
    if modality not in SOP_CLASSES:
        raise ValueError(f"modality must be CT or MR, got {modality!r}")
    if values.shape[:3] != stack.shape or values.ndim not in (3, 4):
        raise ValueError(f"volume must have the shape {stack.shape} of the stack (and phases), got {values.shape}")
    phases = values.shape[3] if values.ndim == 4 else 0
    frames = values.reshape(*stack.size, -1).transpose(2, 1, 0)  # (Z * T, Y, X), phases fastest
    order = list(range(len(frames))) if order is None else [int(index) for index in order]
    if sorted(order) != list(range(len(frames))):
        raise ValueError(f"order must have each of the {len(frames)} frames once, got {order}")
    who = identity or Identity()
    dataset = new_instance(who, SOP_CLASSES[modality], modality, 1)
    slope_of = [slopes[place % len(slopes)] for place in range(len(order))]
    pixels = [
        np.rint((frames[index] - INTERCEPTS[modality]) / slope) for index, slope in zip(order, slope_of, strict=True)
    ]
    set_pixels(dataset, stored_values(np.stack(pixels)))
    _set_image(dataset, modality, len(order))
    shared = Dataset()
    _set_frame_type(shared, modality)
    if modality == "CT":
        shared.IrradiationEventIdentificationSequence = item(IrradiationEventUID=who.uid("irradiation"))
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    dataset.PerFrameFunctionalGroupsSequence = Items(
        _frame(stack, index, phases, slope, modality) for index, slope in zip(order, slope_of, strict=True)
    )
    _set_dimensions(dataset, who.uid("dimensions"), cine=phases > 0)
    return dataset


def linear_enhanced(
    stack: SliceStack | None = None, *, phases: int = 1, modality: str = "CT", **options: Any
) -> Dataset:
    """Makes an enhanced image whose values are :func:`linear_value` of their place.

    Args:
        stack: where the voxels are; a small one by default.
        phases: more than 1 makes a cine.
        modality: CT or MR.
        options: as of :func:`enhanced_image`.
    """
    where = stack or SliceStack.regular()
    return enhanced_image(where.linear_volume(phases), where, modality=modality, **options)


def _frame(stack: SliceStack, index: int, phases: int, slope: float, modality: str) -> Dataset:
    """The functional groups of one frame (PS3.3 C.7.6.16.2)."""
    level, phase = divmod(index, phases or 1)
    frame = Dataset()
    set_plane(frame, stack, level, parts=True)
    content = {"StackID": "1", "InStackPositionNumber": level + 1, "DimensionIndexValues": [1, level + 1]}
    if phases:
        content["TemporalPositionIndex"] = phase + 1
        content["DimensionIndexValues"] = [1, level + 1, phase + 1]
        time = BEAT_MS * phase / phases
        frame.CardiacSynchronizationSequence = item(
            NominalPercentageOfCardiacPhase=100.0 * phase / phases,
            NominalCardiacTriggerDelayTime=time,
            ActualCardiacTriggerDelayTime=time,
            RRIntervalTimeNominal=BEAT_MS,
        )
    frame.FrameContentSequence = item(**content)
    frame.PixelValueTransformationSequence = item(
        RescaleIntercept=ds(INTERCEPTS[modality]),
        RescaleSlope=ds(slope),
        RescaleType="HU" if modality == "CT" else "US",
    )
    frame.FrameVOILUTSequence = item(WindowCenter="1000", WindowWidth="2000")
    return frame


def _set_frame_type(shared: Dataset, modality: str) -> None:
    """The functional groups that all frames share."""
    frame_type = item(
        FrameType=["DERIVED", "PRIMARY", "VOLUME", "NONE"],
        PixelPresentation="MONOCHROME",
        VolumetricProperties="VOLUME",
        VolumeBasedCalculationTechnique="NONE",
    )
    if modality == "CT":
        shared.CTImageFrameTypeSequence = frame_type
    else:
        frame_type[0].ComplexImageComponent = "MAGNITUDE"
        frame_type[0].AcquisitionContrast = "UNKNOWN"
        shared.MRImageFrameTypeSequence = frame_type
    heart, head = ("80891009", "SCT", "Heart"), ("69536005", "SCT", "Head")
    shared.FrameAnatomySequence = item(
        FrameLaterality="U", AnatomicRegionSequence=code(*(heart if modality == "MR" else head))
    )
    shared.DerivationImageSequence = Items()


def _set_image(dataset: Dataset, modality: str, frames: int) -> None:
    """Image level attributes (PS3.3 C.7.6.16, C.8.13.1, C.8.15.2)."""
    dataset.NumberOfFrames = frames
    dataset.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    dataset.PixelPresentation = "MONOCHROME"
    dataset.VolumetricProperties = "VOLUME"
    dataset.VolumeBasedCalculationTechnique = "NONE"
    dataset.ContentQualification = "RESEARCH"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.AcquisitionDateTime = dataset.AcquisitionDate + dataset.AcquisitionTime
    del dataset.AcquisitionDate, dataset.AcquisitionTime
    dataset.AcquisitionDuration = 10.0
    dataset.AcquisitionContextSequence = Items()
    if modality == "MR":
        dataset.ApplicableSafetyStandardAgency = "IEC"
        dataset.ComplexImageComponent = "MAGNITUDE"
        dataset.AcquisitionContrast = "UNKNOWN"


def _set_dimensions(dataset: Dataset, organisation: UID, *, cine: bool) -> None:
    """Multi-frame dimension module (PS3.3 C.7.6.17)."""
    dataset.DimensionOrganizationSequence = item(DimensionOrganizationUID=organisation)
    pointers = [STACK_ID, IN_STACK, *([TEMPORAL] if cine else [])]
    dataset.DimensionIndexSequence = Items(
        item(
            DimensionIndexPointer=pointer, FunctionalGroupPointer=FRAME_CONTENT, DimensionOrganizationUID=organisation
        )[0]
        for pointer in pointers
    )
