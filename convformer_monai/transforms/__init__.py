"""Dictionary transforms that the bundles name."""

from convformer_monai.transforms.confidence import KeepConfidentPartsd
from convformer_monai.transforms.doubt import NoteDoubtd
from convformer_monai.transforms.geometry import InPlaneOrientationd, InPlaneSpacingd
from convformer_monai.transforms.intracranial import KeepIntracraniald
from convformer_monai.transforms.label_server import ForMonaiLabeld, NativeLabelsd
from convformer_monai.transforms.percentiles import ScalePercentilesd
from convformer_monai.transforms.phases import InvertPhasesd
from convformer_monai.transforms.photo import LoadPictureMaskd, NormalizeColoursd, ResizeToAread
from convformer_monai.transforms.postprocess import FillHolesd, KeepLargestPerPhased
from convformer_monai.transforms.windowed import LoadWindowedSliced

__all__ = [
    "FillHolesd",
    "ForMonaiLabeld",
    "InPlaneOrientationd",
    "InPlaneSpacingd",
    "InvertPhasesd",
    "KeepConfidentPartsd",
    "KeepIntracraniald",
    "KeepLargestPerPhased",
    "LoadPictureMaskd",
    "LoadWindowedSliced",
    "NativeLabelsd",
    "NormalizeColoursd",
    "NoteDoubtd",
    "ResizeToAread",
    "ScalePercentilesd",
]
