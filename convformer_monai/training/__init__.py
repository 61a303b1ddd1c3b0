"""Training components that the bundles name: cached slices, augmentation of whole batches, handlers."""

from convformer_monai.training.augmentation import BatchAugmentation
from convformer_monai.training.handlers import (
    AverageWeights,
    BestWeights,
    EpochTimeLimit,
    ResumableCheckpoint,
    ScheduleByIteration,
    SeedEpoch,
)
from convformer_monai.training.slices import SliceBatches, SliceDataset

__all__ = [
    "AverageWeights",
    "BatchAugmentation",
    "BestWeights",
    "EpochTimeLimit",
    "ResumableCheckpoint",
    "ScheduleByIteration",
    "SeedEpoch",
    "SliceBatches",
    "SliceDataset",
]
