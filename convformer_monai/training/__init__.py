"""Training components that the bundles name: cached slices, augmentation of whole batches, handlers."""

from convformer_monai.training.augmentation import BatchAugmentation
from convformer_monai.training.batch_norm import share_batch_norm
from convformer_monai.training.geometry import BatchGeometry
from convformer_monai.training.handlers import (
    AverageWeights,
    BestWeights,
    EpochTimeLimit,
    ResumableCheckpoint,
    ScheduleByIteration,
    SeedEpoch,
    ema_with_warmup,
)
from convformer_monai.training.head_ct import DropNeighbours, HeadCTIntensity, MovedNeighbours
from convformer_monai.training.head_ct_pool import HeadCTPool
from convformer_monai.training.intensity import GreyIntensity
from convformer_monai.training.mixed_batches import HardNegatives, MixedBatches
from convformer_monai.training.painting import PaintedBlood, RenderedHeads
from convformer_monai.training.phantom_data import data_or_phantoms
from convformer_monai.training.photo import PhotoArtefacts, PhotoColours
from convformer_monai.training.processes import leave_process_group, own_part
from convformer_monai.training.progress import TrainingProgress, ValidateAtEnd, report_best
from convformer_monai.training.shared_loss import MeanOfProcesses, SharedDiceCELoss
from convformer_monai.training.slices import SliceBatches, SliceDataset
from convformer_monai.training.unknown import KnownPixelsLoss

__all__ = [
    "DropNeighbours",
    "HardNegatives",
    "HeadCTPool",
    "KnownPixelsLoss",
    "MeanOfProcesses",
    "MixedBatches",
    "MovedNeighbours",
    "PaintedBlood",
    "RenderedHeads",
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
    "SharedDiceCELoss",
    "SliceBatches",
    "SliceDataset",
    "TrainingProgress",
    "ValidateAtEnd",
    "data_or_phantoms",
    "ema_with_warmup",
    "leave_process_group",
    "own_part",
    "report_best",
    "share_batch_norm",
]
