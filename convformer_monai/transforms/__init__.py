"""Dictionary transforms that the bundles name."""

from convformer_monai.transforms.geometry import InPlaneOrientationd, InPlaneSpacingd
from convformer_monai.transforms.phases import InvertPhasesd
from convformer_monai.transforms.postprocess import KeepLargestPerPhased

__all__ = ["InPlaneOrientationd", "InPlaneSpacingd", "InvertPhasesd", "KeepLargestPerPhased"]
