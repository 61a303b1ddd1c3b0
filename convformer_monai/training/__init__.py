"""Training components that the bundles name: cached slices, augmentation of whole batches, handlers."""

from convformer_monai.training.augmentation import BatchAugmentation
from convformer_monai.training.geometry import BatchGeometry
from convformer_monai.training.handlers import (
    AverageWeights,
    BestWeights,
    EpochTimeLimit,
    ResumableCheckpoint,
    ScheduleByIteration,
    SeedEpoch,
)
from convformer_monai.training.head_ct import HeadCTIntensity
from convformer_monai.training.intensity import GreyIntensity
from convformer_monai.training.mixture import read_mixture
from convformer_monai.training.phantom_data import data_or_phantoms
from convformer_monai.training.photo import PhotoArtefacts, PhotoColours
from convformer_monai.training.processes import leave_process_group
from convformer_monai.training.progress import TrainingProgress, ValidateAtEnd
from convformer_monai.training.slices import SliceBatches, SliceDataset, WeightedBatches

__all__ = [
    "AverageWeights",
    "BatchAugmentation",
    "BatchGeometry",
    "BestWeights",
    "EpochTimeLimit",
    "GreyIntensity",
    "HeadCTIntensity",
    "PhotoArtefacts",
    "PhotoColours",
    "ResumableCheckpoint",
    "ScheduleByIteration",
    "SeedEpoch",
    "SliceBatches",
    "SliceDataset",
    "TrainingProgress",
    "ValidateAtEnd",
    "WeightedBatches",
    "data_or_phantoms",
    "leave_process_group",
    "read_mixture",
]
